package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/client/clienttest"
)

// aBackup is a real one, of a store with a user.
func aBackup(t *testing.T) string {
	t.Helper()
	s := clienttest.Start(t, clienttest.Config{})
	if _, err := s.Client(t, s.Public).Exchange(t.Context(), s.NewSession("u@example.com")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := s.Store.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const backupPath = "/v1/admin/store/backup"

// sending answers with a backup.
func sending(text string, more func()) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		if more != nil {
			more()
		}
	}
}

// files are the names in a directory.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestBackupToFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "b")
	whole := aBackup(t)
	d := answering(t, map[string]any{backupPath: sending(whole, nil)})
	r := d.run(t, exitOK, "", "store", "backup", "--output", path)
	if r.stdout != fmt.Sprintf("%s: %d bytes\n", path, len(whole)) || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || files(t, dir) != "b" {
		t.Errorf("%v, files %q", err, files(t, dir))
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != whole {
		t.Errorf("%q, %v", text, err)
	}
	var a backupAnswer
	r = d.run(t, exitOK, "", "store", "backup", "--json", "--output", filepath.Join(dir, "c"))
	if json.Unmarshal([]byte(r.stdout), &a) != nil || a.Bytes != int64(len(whole)) || a.Path != filepath.Join(dir, "c") {
		t.Errorf("%+v", r)
	}
}

// TestBackupKeepsWhatIsThere: nothing is overwritten, whenever it came to be.
func TestBackupKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "b")
	put := func(name string) {
		if err := os.WriteFile(name, []byte("mine"), 0o640); err != nil {
			t.Error(err)
		}
	}
	kept := func(name string) {
		t.Helper()
		if text, err := os.ReadFile(name); err != nil || string(text) != "mine" {
			t.Errorf("%q, %v", text, err)
		}
		_ = os.Remove(name)
	}
	d := answering(t, map[string]any{backupPath: sending("whole", nil)})
	put(path)
	if r := d.run(t, exitFailed, "", "store", "backup", "--output", path); !strings.Contains(r.stderr, "never overwritten") {
		t.Errorf("%+v", r)
	}
	kept(path)
	put(path + ".partial")
	if r := d.run(t, exitFailed, "", "store", "backup", "--output", path); !strings.Contains(r.stderr, "hint: another backup is writing it") {
		t.Errorf("%+v", r)
	}
	kept(path + ".partial")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), path); err != nil {
		t.Fatal(err)
	}
	d.run(t, exitFailed, "", "store", "backup", "--output", path)
	_ = os.Remove(path)
	d.nothingPosted(t)
	d = answering(t, map[string]any{backupPath: sending(aBackup(t), func() { put(path) })})
	if r := d.run(t, exitFailed, "", "store", "backup", "--output", path); !strings.Contains(r.stderr, "never overwritten") {
		t.Errorf("%+v", r)
	}
	if got := files(t, dir); got != "b" {
		t.Errorf("files %q", got)
	}
	kept(path)
}

// TestBackupThatFails leaves nothing that could be taken for one.
func TestBackupThatFails(t *testing.T) {
	refused := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"statusCode":503,"error":"store_unavailable","message":"not now","requestId":"r"}`)
	})
	whole := aBackup(t)
	for name, c := range map[string]struct {
		answer any
		status int
		stderr string
	}{
		"refused":     {refused, exitUnavailable, "not now"},
		"not granted": {nil, exitDenied, "hint: be root"},
		"no end":      {sending(whole[:len(whole)-1], nil), exitFailed, "what came is none"},
		"altered":     {sending(whole[:len(whole)/2]+"x"+whole[len(whole)/2+1:], nil), exitFailed, "what came is none"},
		"more":        {sending(whole+"x", nil), exitFailed, "what came is none"},
		"cut off":     {sending("half", func() { panic(http.ErrAbortHandler) }), exitFailed, "cut off after 4 bytes"},
	} {
		d := answering(t, map[string]any{backupPath: c.answer})
		dir := t.TempDir()
		r := d.run(t, c.status, "", "store", "backup", "--output", filepath.Join(dir, "b"))
		if r.stdout != "" || !strings.Contains(r.stderr, c.stderr) || files(t, dir) != "" {
			t.Errorf("%s: files %q, %+v", name, files(t, dir), r)
		}
	}
	d := answering(t, map[string]any{backupPath: sending("whole", nil)})
	d.run(t, exitFailed, "", "store", "backup", "--output", filepath.Join(t.TempDir(), "none", "b"))
	d.nothingPosted(t)
}

func TestBackupToStdout(t *testing.T) {
	d := answering(t, map[string]any{backupPath: sending("whole\x00", nil)})
	for _, args := range [][]string{{"store", "backup"}, {"store", "backup", "--output", "-"}} {
		if r := d.run(t, exitOK, "", args...); r.stdout != "whole\x00" || r.stderr != "" {
			t.Errorf("%q: %+v", args, r)
		}
		<-d.posted
	}
	if r := d.run(t, exitUsage, "", "store", "backup", "--json"); !strings.Contains(r.stderr, "--json needs --output FILE") {
		t.Errorf("%+v", r)
	}
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0) // is a terminal for whoever asks (pts(4))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tty.Close() }()
	var stderr bytes.Buffer
	status := Main(t.Context(), IO{Stdin: strings.NewReader(""), Stdout: tty, Stderr: &stderr, Env: func(string) string { return "" }},
		[]string{"tokenvault", "store", "backup", "--socket", d.socket})
	if status != exitUsage || !strings.Contains(stderr.String(), "no text for a terminal") {
		t.Errorf("exit %d, %s", status, &stderr)
	}
	d.nothingPosted(t)
}

// TestMeter: a terminal sees how much came.
func TestMeter(t *testing.T) {
	var out bytes.Buffer
	m := &meter{to: &out}
	for range 3 {
		_, _ = m.Write(make([]byte, 1<<20))
	}
	m.end()
	if got := out.String(); !strings.HasPrefix(got, "\r1.0 MiB") || !strings.HasSuffix(got, "\r3.0 MiB\x1b[K\n") {
		t.Errorf("%q", got)
	}
	if m := newMeter(&out); m.to != nil {
		t.Error("a file is taken for a terminal")
	}
}
