package cli_test

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
)

// onStderr checks what the last run said there.
func (s *site) onStderr(parts ...string) {
	s.t.Helper()
	for _, part := range parts {
		if !strings.Contains(s.stderr, part) {
			s.t.Errorf("%q is not in %q", part, s.stderr)
		}
	}
}

// rewrite changes a file of the site.
func (s *site) rewrite(name, from, to string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), from) {
		s.t.Fatalf("%v, or it is not in %s", err, name)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from, to)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Where systemd hands the credentials over, they are written beside the
// configuration, and the store can be checked while the daemon is down.
func TestCredentialsOfSystemd(t *testing.T) {
	s := newSite(t)
	s.rewrite("tokenvault.toml", s.dir+"/role-id", "$CREDENTIALS_DIRECTORY/role-id")
	s.rewrite("tokenvault.toml", s.dir+"/secret-id", "$CREDENTIALS_DIRECTORY/secret-id")
	s.prepare()
	m := newManager(s)
	cmd := s.command("serve")
	cmd.Env = append(cmd.Env, "CREDENTIALS_DIRECTORY="+s.dir)
	stop := s.daemon(cmd, m)
	m.await("READY=1")
	if err := stop(); err != nil {
		t.Error(err)
	}
	s.run(1, "", "store", "check")
	s.onStderr("CREDENTIALS_DIRECTORY=" + s.dir + " tokenvault store check\n")
	s.env = []string{"CREDENTIALS_DIRECTORY=" + s.dir}
	if check := decode[api.StoreCheck](s, 0, "", "store", "check"); !check.OK {
		t.Errorf("store check: %+v", check)
	}
}

// What an operator gets wrong is told in the operator's terms.
func TestOperatorMistakes(t *testing.T) {
	s := newSite(t)
	s.prepare()
	s.onStderr("hint: the daemon reads it within a minute; tokenvault secret check makes it look now\n")
	s.run(1, "", "vault", "setup", "--apply")
	s.onStderr("is there already", "hint: tokenvault vault setup without --apply shows")
	s.rewrite(".vault-token", s.vault.RootToken, "marker-wrong-token")
	out := s.run(3, "", "vault", "setup")
	s.onStderr("your own token", "vault token lookup", "sys/mounts", "sys/policies/acl", "auth/approle/role", "transit/keys")
	if strings.Contains(out, "to do") || !strings.Contains(out, "unknown  KV version 2") {
		t.Errorf("the plan of somebody who may not look: %q", out)
	}
	s.run(3, "marker-client-secret", "secret", "put", "shop")
	s.onStderr("vault token lookup", "create, update and read on secret/data/tokenvault/apps/marker-client-id")
	if strings.Contains(s.stderr, "vault policy") {
		t.Errorf("the daemon's rights are meant: %q", s.stderr)
	}
}

// Closing the terminal of the try-out leaves nothing behind.
func TestDevHangup(t *testing.T) {
	cmd := program(t, t.TempDir(), nil, "dev")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if _, path, found := strings.Cut(lines.Text(), "Everything is in "); found {
			dir = path
		}
		if lines.Text() == "Serving until Ctrl-C." {
			break
		}
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("the directory of the try-out: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // Wait closes the pipe
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("how it ended: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}
