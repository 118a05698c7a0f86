package cli

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// Who may not ask the admin socket hears what to ask for.
func TestHintForNoAdministrator(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "tvh-") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for code, want := range map[string]bool{"not_granted": true, "unknown_caller": true, "starting": false} {
		l, err := net.Listen("unix", filepath.Join(dir, code))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"statusCode":403,"error":"`+code+`","message":"no","requestId":"r"}`)
		})}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		r := invoke(t, nil, "", "status", "--socket", l.Addr().String())
		if got := strings.Contains(r.stderr, "hint: be root, or ask for a [[rule]] with the grant admin-read"); got != want || r.status != exitDenied {
			t.Errorf("%s: exit %d, stderr %q", code, r.status, r.stderr)
		}
		if r := invoke(t, nil, "", "whoami", "--socket", l.Addr().String()); strings.Contains(r.stderr, "admin-read") {
			t.Errorf("%s, to an app: %q", code, r.stderr)
		}
	}
	err = &adminError{fmt.Errorf("%w: %w", client.ErrUnavailable, fs.ErrPermission)}
	if got := strings.Join(hints(err), ""); !strings.Contains(got, "admin-read") || status(err) != exitDenied {
		t.Errorf("a socket that may not be opened: exit %d, %q", status(err), got)
	}
}

// A mistake in the file on disk does not keep anybody from asking a daemon that
// runs on what was there before.
func TestSocketWithBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	path := filepath.Join(dir, "bad.toml")
	if err := os.WriteFile(path, []byte("[vault]\ntimeout = 5\ncolour = 'red'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(dir, "wrong.toml") // can be decoded, and says where the daemon listens
	if err := os.WriteFile(wrong, []byte("instance = 'NOT SO'\n[[listener]]\nname = 'admin'\npath = '/srv/admin/api.sock'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, flag, socket, warning, more string }{
		{path, "", "/run/tokenvault/admin/api.sock", "warning: the configuration cannot be read: " + path + ":2: vault.timeout: ", " (and 1 more problem)"},
		{wrong, "", "/srv/admin/api.sock", "warning: the configuration cannot be read: " + wrong + ": ", " more problems)"},
		{path, "/elsewhere", "/elsewhere", "", ""},
	} {
		var stderr bytes.Buffer
		p := &program{IO: IO{Stdout: io.Discard, Stderr: &stderr, Env: func(string) string { return "" }}}
		var got string
		app := &cli.App{Flags: []cli.Flag{configFlag(), socketFlag()}, Action: func(c *cli.Context) (err error) {
			got, err = p.adminSocket(c)
			return err
		}}
		args := []string{"tokenvault", "--config", c.path}
		if c.flag != "" {
			args = append(args, "--socket", c.flag)
		}
		if err := app.RunContext(t.Context(), args); err != nil || got != c.socket {
			t.Errorf("%q: asks %q, %v", args, got, err)
		}
		if text := stderr.String(); !strings.HasPrefix(text, c.warning) || (c.warning == "") != (text == "") ||
			c.warning != "" && !strings.HasSuffix(text, c.more+"; asking "+c.socket+"\n") {
			t.Errorf("%q: %q", args, text)
		}
	}
}

func TestGroupList(t *testing.T) {
	if got := groupList(api.WhoAmI{GID: 4294960000, Groups: []uint32{4294960000, 0, 4294960000}}); got != "4294960000, 0 root" {
		t.Errorf("%q", got)
	}
}
