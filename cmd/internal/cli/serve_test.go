package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

const patience = 60 * time.Second

const serveConfig = `
[[app]]
name = "shop"
client_id = "marker-client-id"
[[listener]]
name = "public"
path = "@DIR@/public/api.sock"
group = ""
[[listener]]
name = "admin"
path = "@DIR@/admin/api.sock"
group = ""
[[rule]]
name = "web"
users = [@UID@]
apps = ["shop"]
grants = ["exchange", "lookup"]
@ADMIN@[humanapi]
user_url = "@SIM@"
unsafe_plain_http = true
[store]
path = "@DIR@/store.db"
[audit]
path = "@DIR@/audit.log"
[vault]
address = "@VAULT@"
unsafe_plain_http = true
[vault.auth]
role_id_file = "@DIR@/role-id"
secret_id_file = "@DIR@/secret-id"
`

// site is a machine with a configuration, a Vault and a Human API.
type site struct {
	t     *testing.T
	dir   string
	vault *vaulttest.Server
	sim   *humanapitest.Server

	env    []string // of every command, further
	stderr string   // of the last run
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tvc-") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t: t, dir: dir, vault: vaulttest.Start(t)}
	s.sim = humanapitest.Start(t, humanapitest.Config{Apps: map[string]string{"marker-client-id": "marker-client-secret"}})
	text := strings.NewReplacer("@DIR@", dir, "@UID@", fmt.Sprint(os.Geteuid()), "@SIM@", s.sim.URL, "@VAULT@", s.vault.Addr, "@ADMIN@", adminRule()).Replace(serveConfig)
	for name, content := range map[string]string{"tokenvault.toml": text, ".vault-token": s.vault.RootToken} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// adminRule gives the tests' user what root has without a rule.
func adminRule() string {
	if os.Geteuid() == 0 {
		return ""
	}
	return fmt.Sprintf("[[rule]]\nname = \"tester\"\nusers = [%d]\ngrants = [\"admin-read\", \"admin\"]\n", os.Geteuid())
}

func (s *site) command(args ...string) *exec.Cmd {
	return program(s.t, s.dir, append([]string{"TOKENVAULT_CONFIG=" + s.dir + "/tokenvault.toml"}, s.env...), args...)
}

// run runs a command line, checks its exit status and returns its stdout.
func (s *site) run(status int, stdin string, args ...string) string {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := s.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		s.t.Errorf("%q: %v, want exit %d; stderr %s", args, err, status, &stderr)
	}
	s.stderr = stderr.String()
	if strings.Contains(stdout.String()+stderr.String(), "marker-client-secret") {
		s.t.Errorf("%q shows the clientSecret", args)
	}
	return stdout.String()
}

// decode runs a command line with --json last among its options.
func decode[T any](s *site, status int, stdin string, args ...string) (v T) {
	s.t.Helper()
	out := s.run(status, stdin, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		s.t.Errorf("%q prints no JSON: %v", args, err)
	}
	return v
}

// manager plays systemd: it hears what the daemon says.
type manager struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

func newManager(s *site) *manager {
	s.t.Helper()
	m := &manager{t: s.t, path: filepath.Join(s.dir, "notify")}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = m.conn.Close() })
	return m
}

// await reads messages until one has the part.
func (m *manager) await(part string) {
	m.t.Helper()
	buf := make([]byte, 4096)
	if err := m.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("systemd was not told %q: %v", part, err)
		}
		if strings.Contains(string(buf[:n]), part) {
			return
		}
	}
}

// lockedBuffer is a log that a process writes while the test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// daemon starts cmd as the daemon, and stops it at the end of the test at the
// latest. stop sends SIGTERM and returns how it ended.
func (s *site) daemon(cmd *exec.Cmd, m *manager) (stop func() error) {
	s.t.Helper()
	log := &lockedBuffer{}
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.path)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := sync.OnceValue(func() error {
		return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	})
	s.t.Cleanup(func() {
		_ = ended()
		if s.t.Failed() {
			s.t.Logf("the daemon's log:\n%s", log)
		}
		if strings.Contains(log.String(), "marker-client-secret") || strings.Contains(log.String(), s.vault.RootToken) {
			s.t.Error("the daemon's log shows a secret")
		}
	})
	return ended
}

func (s *site) prepare() {
	s.t.Helper()
	if out := s.run(0, "", "vault", "setup"); !strings.Contains(out, "to do") {
		s.t.Errorf("the plan: %s", out)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "secret-id")); !errors.Is(err, os.ErrNotExist) {
		s.t.Error("the plan wrote a credential")
	}
	if out := s.run(0, "", "vault", "setup", "--apply"); strings.Contains(out, "to do") || !strings.Contains(out, "secret-id") {
		s.t.Errorf("the setup: %s", out)
	}
	s.run(1, "", "vault", "setup", "--apply") // never overwrites a credential, and then makes none
	if made := s.vault.Must("LIST", "auth/approle/role/tokenvault/secret-id", nil)["keys"].([]any); len(made) != 1 {
		s.t.Errorf("%d secret ids were made", len(made))
	}
	s.run(0, "marker-client-secret\n", "secret", "put", "shop")
}

// The commands of an operator's first day, against the real daemon, a real Vault
// and the simulator.
func TestServe(t *testing.T) {
	s := newSite(t)
	s.prepare()
	m := newManager(s)
	stop := s.daemon(s.command("serve"), m)
	m.await("READY=1")

	s.run(0, "", "status", "--check")
	status := decode[api.Status](s, 0, "", "status")
	if !status.Health.Ready || status.Version == "" {
		t.Errorf("status: %+v", status)
	}
	s.run(0, "", "status")
	if who := decode[api.WhoAmI](s, 0, "", "whoami"); len(who.Rights) == 0 || who.Rights[0].Rule != "web" || int(who.UID) != os.Geteuid() {
		t.Errorf("whoami: %+v", who)
	}
	s.exchanges()
	if check := decode[api.SecretCheck](s, 0, "", "secret", "check"); !check.OK {
		t.Errorf("secret check: %+v", check)
	}
	if check := decode[api.StoreCheck](s, 0, "", "store", "check"); !check.OK {
		t.Errorf("store check: %+v", check)
	}
	s.vault.Must("DELETE", "secret/metadata/tokenvault/apps/marker-client-id", nil)
	s.run(5, "", "secret", "check")
	s.run(5, "", "status", "--check")

	if err := stop(); err != nil {
		t.Errorf("the daemon's end: %v", err)
	}
	m.await("STOPPING=1")
	s.run(4, "", "status", "--check")
	s.run(0, "", "audit", "verify", "--key", status.Audit.PublicKey)
	s.run(5, "", "audit", "verify", "--key", strings.Repeat("00", 32))
	if check := decode[api.StoreCheck](s, 0, "", "store", "check"); !check.OK || check.Counts["users"] != 1 {
		t.Errorf("store check without the daemon: %+v", check)
	}
}

// exchanges is the part of the users.
func (s *site) exchanges() {
	s.t.Helper()
	human := s.sim.NewHumanID()
	object := fmt.Sprintf(`{"humanId":%q,"clientId":"marker-client-id","sessionToken":%q}`, human,
		s.sim.NewSession("marker-client-id", human, "alice"))
	tokens := decode[api.Tokens](s, 0, object, "exchange", "--client-user-id", "alice")
	if tokens.PublicToken == "" || tokens.HumanID != human {
		s.t.Errorf("exchange: %+v", tokens)
	}
	s.run(1, object, "exchange", "--client-user-id", "bob")
	for _, args := range [][]string{{"users", "show", "--client-user-id", "alice", "--json"}, {"users", "show", "--json", human}, {"users", "show", "--json", "-"}} {
		out := s.run(0, human+"\n", args...)
		var users api.Users
		if err := json.Unmarshal([]byte(out), &users); err != nil || len(users.Users) != 1 || users.Users[0].HumanID != human {
			s.t.Errorf("%q: %v", args, err)
		}
	}
	s.run(1, "", "users", "show", "nobody")
	if list := decode[api.Users](s, 0, "", "users", "list", "--state", "indeterminate", "--app", "shop"); list.Users == nil || len(list.Users) != 0 {
		s.t.Errorf("users list: %+v", list)
	}
	s.run(1, "", "users", "prefer", "--client-user-id", "alice", "--yes", "nobody")
	s.run(3, "", "reload", "--socket", filepath.Join(s.dir, "public", "api.sock"))
	s.run(3, "", "users", "show", "--socket", filepath.Join(s.dir, "public", "api.sock"), human) // not an admin socket
}

// Under socket activation the daemon takes the sockets by name, whatever their
// order, and leaves the files to systemd. SIGHUP reloads.
func TestServeActivated(t *testing.T) {
	s := newSite(t)
	s.prepare()
	m := newManager(s)
	var files []*os.File
	for _, name := range []string{"admin", "public"} {
		files = append(files, s.systemdSocket(name))
	}
	inner := s.command("serve")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" serve`, inner.Path)
	cmd.Dir, cmd.ExtraFiles = inner.Dir, files
	cmd.Env = append(inner.Env, "LISTEN_FDS=2", "LISTEN_FDNAMES=admin:public")
	stop := s.daemon(cmd, m)
	m.await("READY=1")
	s.run(0, "", "status", "--check")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.await("RELOADING=1")
	m.await("READY=1")
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "public", "api.sock")); err != nil {
		t.Errorf("systemd's socket: %v", err)
	}
}

// While it drains SIGHUP does not kill it.
func TestServeHangupWhileStopping(t *testing.T) {
	s := newSite(t)
	s.prepare()
	m := newManager(s)
	cmd := s.command("serve")
	stop := s.daemon(cmd, m)
	m.await("READY=1")
	release := make(chan struct{})
	s.sim.Misbehave(humanapitest.Fault{HoldAnswer: release})
	caller := s.command("exchange")
	caller.Stdin = strings.NewReader(s.object("alice"))
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.sim.Await(t.Context(), humanapitest.TokensPath, 1); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	m.await("STOPPING=1")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Error(err)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Errorf("the daemon's end: %v", err)
	}
	if err := caller.Wait(); err != nil {
		t.Errorf("the exchange in flight: %v", err)
	}
}

// systemdSocket makes a socket as a socket unit does.
func (s *site) systemdSocket(name string) *os.File {
	s.t.Helper()
	path := filepath.Join(s.dir, name, "api.sock")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		s.t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o660); err != nil {
		s.t.Fatal(err)
	}
	f, err := l.File()
	if err = errors.Join(err, l.Close()); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = f.Close() })
	return f
}
