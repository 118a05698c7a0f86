package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// After a workload with faults, denials and every question that there is, a kill, a
// panic in a handler and one that ends the daemon, SIGQUIT and SIGABRT, at each level of
// the log, nothing that must not leak is found in anything that the daemon wrote or
// answered, nor in its environment and arguments.
func TestNothingLeaks(t *testing.T) {
	h := newHunting(t)
	h.work("1")
	h.adminShows(t)
	h.hunt(t, h.markers, "while it runs")
	h.huntProcess(t, h.markers)
	h.pried(t)
	h.kill()

	h.life1("info", "TOKENVAULT_TEST_PANIC=answering:1")
	s := h.finishEvent(h.sim.NewHumanID(), "marker-panic@example.test")
	h.markers["sessionToken of a panic"], h.markers["humanId of a panic"] = s.sessionToken, s.humanID
	h.ask("", "private", "POST", tokens, s.json()).want(t, 500, "internal")
	h.work("2")
	h.stop()

	h.life1("warn", "TOKENVAULT_TEST_PANIC=answered:1")
	s = h.finishEvent(h.sim.NewHumanID(), "marker-panic@example.test")
	h.markers["sessionToken of the end"], h.markers["humanId of the end"] = s.sessionToken, s.humanID
	if _, err := h.root("private").try("POST", tokens, s.json()); err == nil {
		t.Error("a daemon that has ended answers")
	}
	h.ends("a panic", "handler panicked", "panic: a test wants it", "goroutine ")

	h.life1("error", "GOTRACEBACK=system")
	h.work("3")
	h.underWay("SIGQUIT")
	must(t, h.daemon.cmd.Process.Signal(syscall.SIGQUIT))
	h.ends("SIGQUIT", "SIGQUIT: quit")

	h.life1("debug", "GOTRACEBACK=crash")
	h.work("4")
	h.underWay("SIGABRT")
	must(t, h.daemon.cmd.Process.Signal(syscall.SIGABRT))
	if status := h.ends("SIGABRT", "SIGABRT: abort"); status.Signal() != syscall.SIGABRT {
		t.Errorf("SIGABRT ended it as %v", status)
	}
	second := h.elsewhere(h.path("hunted-4.backup"))
	files := h.hunt(t, h.markers, "after the end") + second.hunt(t, h.markers, "on another machine")
	h.nothingElsewhere()
	h.huntDumps(t)
	h.huntAnswers()
	t.Logf("figure: %d markers in %d forms each: in none of %d files", len(h.markers), len(forms("marker"+strings.Repeat("x", 20))), files)
	h.plant(t, h.markers)
}

// adminShows: users show prints ids and publicToken, never an access token.
func (w *world) adminShows(t *testing.T) {
	human, cuid := w.sim.NewHumanID(), "shown@example.test"
	w.root("public").do("POST", tokens, w.finishEvent(human, cuid).json()).want(t, 200, "")
	access, public := w.sim.Current(shop, human)
	for _, out := range []string{
		w.must("", "users", "show", "--client-id", shop, human),
		w.must("", "users", "show", "--json", "--client-id", shop, human),
		w.must("", "users", "show", "--client-id", shop, "--client-user-id", cuid),
	} {
		for _, part := range []string{human, cuid, public} {
			if !strings.Contains(out, part) {
				t.Error("users show lacks an id or the publicToken")
			}
		}
		if strings.Contains(out, access) {
			t.Error("users show prints an access token")
		}
	}
}

// forms of a marker: raw, hex, base64 at each of the three alignments, as JSON, Go
// and URLs write it.
func forms(marker string) [][]byte {
	m := []byte(marker)
	out := [][]byte{m, []byte(hex.EncodeToString(m)), []byte(strings.ToUpper(hex.EncodeToString(m))), []byte(url.QueryEscape(marker)), []byte(url.PathEscape(marker))}
	quoted, _ := json.Marshal(marker) // a string always can be
	plain := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(marker)
	for _, q := range []string{string(quoted[1 : len(quoted)-1]), plain, strings.ReplaceAll(plain, "/", `\/`), strings.Trim(strconv.Quote(marker), `"`), strings.Trim(strconv.QuoteToASCII(marker), `"`)} {
		out = append(out, []byte(q))
	}
	for shift := range 3 {
		if len(m) < shift+12 {
			continue
		}
		whole := m[shift : shift+(len(m)-shift)/3*3]
		out = append(out, []byte(base64.RawStdEncoding.EncodeToString(whole)), []byte(base64.RawURLEncoding.EncodeToString(whole)))
	}
	return out
}

var hexWords = regexp.MustCompile(`0x[0-9a-f]{10,16}`)

// huntDumps looks through the goroutine dumps for arguments that were passed by
// value: eight bytes of a marker, as a word.
func (h *hunting) huntDumps(t *testing.T) {
	t.Helper()
	words := map[string]bool{}
	for _, word := range hexWords.FindAllString(h.read("daemon.log"), -1) {
		words[word] = true
	}
	for name, marker := range h.markers {
		for i := 0; i+8 <= len(marker); i++ {
			b := []byte(marker[i : i+8])
			slices.Reverse(b) // as a little-endian machine reads it
			if words["0x"+strings.TrimLeft(hex.EncodeToString(b), "0")] {
				t.Errorf("a dump has a part of %s as a word", name)
				break
			}
		}
	}
	t.Logf("figure: %d different words in goroutine dumps: none is of a marker", len(words))
	if len(words) < 100 {
		t.Error("there is no dump")
	}
}

// pried: nobody but root looks into the process, its own user included.
func (w *world) pried(t *testing.T) {
	t.Helper()
	idle := exec.Command("sleep", "60")
	idle.SysProcAttr = asUser(daemonUID)
	must(t, idle.Start())
	defer func() { _ = idle.Process.Kill(); _ = idle.Wait() }()
	refused := 0
	for _, uid := range []uint32{daemonUID, strangerUID, webUID} {
		for _, file := range []string{"environ", "maps", "smaps", "auxv", "mem", "syscall", "io", "fd/", "map_files/", "exe", "cwd", "root"} {
			if !reads(t, idle.Process.Pid, file, daemonUID) && file != "mem" && file != "syscall" && file != "map_files/" {
				t.Fatalf("%s cannot be read of any process: the test is wrong", file)
			}
			if reads(t, w.daemon.cmd.Process.Pid, file, uid) {
				t.Errorf("uid %d reads %s of the daemon", uid, file)
			}
			refused++
		}
	}
	t.Logf("figure: %d attempts to read /proc/PID, by the daemon's own user and others: all refused", refused)
}

// reads reports whether that user can read the file of the process.
func reads(t *testing.T, pid int, file string, uid uint32) bool {
	t.Helper()
	path := fmt.Sprintf("/proc/%d/%s", pid, file)
	args := []string{"head", "-c", "1", path}
	switch {
	case strings.HasSuffix(file, "/"):
		args = []string{"ls", path}
	case file == "exe" || file == "cwd" || file == "root":
		args = []string{"readlink", path}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr, cmd.Dir = asUser(uid), "/"
	return runCommand(t, cmd, "").code == 0
}

func leaks(content []byte, markers map[string]string) []string {
	var found []string
	for name, marker := range markers {
		if slices.ContainsFunc(forms(marker), func(f []byte) bool { return bytes.Contains(content, f) }) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// hunt looks through every file that the daemon wrote, and returns how many.
func (w *world) hunt(t *testing.T, markers map[string]string, when string) int {
	t.Helper()
	files := 0
	for _, root := range []string{"state", "log", "run", "tmp", "daemon.log"} {
		if _, err := os.Stat(w.path(root)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(t, filepath.WalkDir(w.path(root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			content = bytes.ReplaceAll(content, make([]byte, 4096), nil) // what is reserved
			if found := leaks(content, markers); len(found) > 0 {
				t.Errorf("%s, %s has in clear: %s", when, filepath.Base(path), strings.Join(found, ", "))
			}
			files++
			return err
		}))
	}
	backups, err := filepath.Glob(w.path("*.backup"))
	must(t, err)
	for _, path := range backups {
		if found := leaks([]byte(w.read(filepath.Base(path))), markers); len(found) > 0 {
			t.Errorf("%s, a backup has in clear: %s", when, strings.Join(found, ", "))
		}
		files++
	}
	if files < 3 {
		t.Fatalf("only %d files: the hunt looks in the wrong place", files)
	}
	return files
}

func (w *world) huntProcess(t *testing.T, markers map[string]string) {
	t.Helper()
	for _, name := range []string{"environ", "cmdline"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", w.daemon.cmd.Process.Pid, name))
		must(t, err)
		if found := leaks(content, markers); len(found) > 0 || len(content) == 0 {
			t.Errorf("%s of the daemon has %d bytes and in clear: %s", name, len(content), strings.Join(found, ", "))
		}
	}
}

// plant shows that the hunt finds what is there: each form of each marker.
func (w *world) plant(t *testing.T, markers map[string]string) {
	for name, marker := range markers {
		padded := "x" + marker
		for _, form := range []string{marker, hex.EncodeToString([]byte(marker)), base64.StdEncoding.EncodeToString([]byte(padded)), base64.URLEncoding.EncodeToString([]byte(marker))} {
			if !slices.Contains(leaks([]byte("{\"k\":\""+form+"\"}"), markers), name) {
				t.Fatalf("the hunt does not find %s", name)
			}
		}
	}
}
