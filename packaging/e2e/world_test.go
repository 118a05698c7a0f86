package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// The users of the tests. None of them is in /etc/passwd, but www-data's id is.
const (
	daemonUID   = 64000
	webUID      = 33
	workerUID   = 64002
	strangerUID = 64003

	publicGID  = 64010
	privateGID = 64020
	adminGID   = 64030
)

// The apps of the tests.
const (
	shop       = "client-id-of-the-shop"
	shopSecret = "marker-client-secret-of-the-shop"
	club       = "client-id-of-the-club"
	clubSecret = "marker-client-secret-of-the-club"
)

// world is one installation: Vault, Human API, configuration, daemon.
type world struct {
	t      testing.TB
	dir    string // 0755, short, the daemon's user may traverse it
	vault  *vaulttest.Server
	sim    *humanapitest.Server
	config string
	daemon *process
	// binary is what runs as the daemon, and env what it gets beside PATH; "" is the
	// product.
	binary string
	env    []string
	// sockets are what it inherits, from descriptor 3 on.
	sockets []*os.File
	// life is whose end kills the daemon; nil: t's.
	life testing.TB
}

// options of a world. The zero value is a good one.
type options struct {
	mode     humanapitest.Mode
	storage  bool   // Vault over storage, so that it survives Stop and Restart
	settings string // TOML tables added to the configuration
	rules    string // instead of defaultRules
	level    string // of the log, default info
}

// defaultRules: the web app may exchange on both sockets, the worker may read.
const defaultRules = `
[[rule]]
name = "shop-web"
users = ["33"]
apps = ["shop"]
grants = ["exchange", "public-token", "lookup"]

[[rule]]
name = "shop-worker"
users = ["64002"]
apps = ["shop"]
grants = ["access-token"]

[[rule]]
name = "root-load"
users = ["0"]
apps = ["shop", "club"]
grants = ["exchange", "public-token", "lookup", "access-token"]
`

// newWorld sets everything up as the README tells an administrator to, up to a
// running, ready daemon.
func newWorld(t testing.TB, o options) *world {
	t.Helper()
	w := prepareWorld(t, o)
	w.setUpVault()
	w.start()
	w.awaitReady()
	return w
}

// prepareWorld stops before Vault is set up.
func prepareWorld(t testing.TB, o options) *world {
	t.Helper()
	w := &world{t: t}
	if o.storage {
		w.vault = vaulttest.StartStorage(t)
	} else {
		w.vault = vaulttest.Start(t)
	}
	w.sim = humanapitest.Start(t, humanapitest.Config{Apps: map[string]string{shop: shopSecret, club: clubSecret}, Mode: o.mode})
	w.place(o)
	return w
}

// place makes the directories, and the configuration.
func (w *world) place(o options) {
	w.t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tv")
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, os.RemoveAll(dir)) })
	must(w.t, os.Chmod(dir, 0o755))
	w.dir, w.config = dir, filepath.Join(dir, "tokenvault.toml")
	for _, d := range []string{"state", "log", "run"} {
		must(w.t, os.Mkdir(filepath.Join(dir, d), 0o755))
		must(w.t, os.Chown(filepath.Join(dir, d), daemonUID, daemonUID))
	}
	must(w.t, os.Chmod(filepath.Join(dir, "state"), 0o700))
	w.write("operator-token", w.vault.RootToken, 0, 0o600)
	must(w.t, os.WriteFile(w.config, []byte(w.toml(o)), 0o644))
}

func (w *world) toml(o options) string {
	rules := o.rules
	if rules == "" {
		rules = defaultRules
	}
	level := o.level
	if level == "" {
		level = "info"
	}
	return fmt.Sprintf(`
[[app]]
name = "shop"
client_id = %q
[[app]]
name = "club"
client_id = %q

[[listener]]
name = "public"
path = %q
group = "%d"
mode = "0660"
ceiling = ["exchange", "public-token", "lookup"]
[[listener]]
name = "private"
path = %q
group = "%d"
mode = "0660"
ceiling = ["exchange", "public-token", "lookup", "access-token"]
[[listener]]
name = "admin"
path = %q
group = "%d"
mode = "0660"
ceiling = ["metrics", "admin-read", "admin"]

[vault]
address = %q
unsafe_plain_http = true
[vault.auth]
role_id_file = %q
secret_id_file = %q
[humanapi]
user_url = %q
unsafe_plain_http = true
[store]
path = %q
[audit]
path = %q
[log]
level = %q
%s
%s
`, shop, club, w.socket("public"), publicGID, w.socket("private"), privateGID, w.socket("admin"), adminGID,
		w.vault.Addr, w.path("role-id"), w.path("secret-id"), w.sim.URL,
		w.path("state/store.db"), w.path("log/audit.log"), level, o.settings, rules)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) socket(listener string) string { return w.path("run/" + listener + "/api.sock") }

func (w *world) write(name, content string, uid int, mode os.FileMode) {
	w.t.Helper()
	must(w.t, os.WriteFile(w.path(name), []byte(content), mode))
	must(w.t, os.Chown(w.path(name), uid, -1))
}

// setUpVault does what an administrator does, with the product's own CLI.
func (w *world) setUpVault() {
	w.t.Helper()
	w.must("", "vault", "setup", "--apply", "--token-file", w.path("operator-token"))
	for _, f := range []string{"role-id", "secret-id"} {
		must(w.t, os.Chown(w.path(f), daemonUID, daemonUID))
	}
	w.must(shopSecret+"\n", "secret", "put", "--token-file", w.path("operator-token"), "shop")
	w.must(clubSecret+"\n", "secret", "put", "--token-file", w.path("operator-token"), "club")
}

// ---- the command line ----

type output struct {
	stdout, stderr string
	code           int
}

// cli runs the product as root with the world's configuration.
func (w *world) cli(stdin string, args ...string) output {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// Flags stand before arguments: the configuration goes first.
	cmd := exec.CommandContext(ctx, binary, append([]string{"--config", w.config}, args...)...)
	cmd.Env = []string{"HOME=" + w.dir, "PATH=" + os.Getenv("PATH")}
	return runCommand(w.t, cmd, stdin)
}

// must is cli for a command that has to succeed; it returns its stdout.
func (w *world) must(stdin string, args ...string) string {
	w.t.Helper()
	out := w.cli(stdin, args...)
	if out.code != 0 {
		w.t.Fatalf("tokenvault %s: exit %d\n%s%s", strings.Join(args, " "), out.code, out.stdout, out.stderr)
	}
	return out.stdout
}

func runCommand(t testing.TB, cmd *exec.Cmd, stdin string) output {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatalf("running %s: %v", filepath.Base(cmd.Path), err)
	}
	return output{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ---- the daemon ----

// process is a running daemon.
type process struct {
	cmd  *exec.Cmd
	log  string // file with its stderr
	done chan struct{}
	err  error
}

// start starts the daemon as its own user; wrap is put before its command line.
func (w *world) start(wrap ...string) {
	w.t.Helper()
	log, err := os.OpenFile(w.path("daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(w.t, err)
	defer log.Close()
	args := append(wrap, cmp.Or(w.binary, binary), "--config", w.config, "serve")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, w.env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, w.sockets
	cmd.SysProcAttr = asUser(daemonUID, publicGID, privateGID, adminGID)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	must(w.t, cmd.Start())
	p := &process{cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	w.daemon = p
	life := w.t
	if w.life != nil {
		life = w.life
	}
	life.Cleanup(func() { p.end() })
}

func asUser(uid uint32, groups ...uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
}

// end kills what is still running.
func (p *process) end() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// kill is kill -9, and waits.
func (w *world) kill() { w.daemon.end() }

// stop is SIGTERM, and the daemon must end well within the time it has.
func (w *world) stop() {
	w.t.Helper()
	must(w.t, w.daemon.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-w.daemon.done:
		if w.daemon.err != nil {
			w.t.Fatalf("the daemon ended with %v\n%s", w.daemon.err, w.logTail())
		}
	case <-time.After(30 * time.Second):
		w.t.Fatalf("the daemon does not stop\n%s", w.logTail())
	}
}

func (w *world) awaitReady() {
	w.t.Helper()
	w.awaitHealth(func(status int, _ health) bool { return status == 200 })
}

type health struct {
	Ready    bool     `json:"ready"`
	Degraded bool     `json:"degraded"`
	Reasons  []string `json:"reasons"`
}

func (h health) text() string { return strings.Join(h.Reasons, "; ") }

// awaitHealth polls health until it is as wanted, for at most a minute.
func (w *world) awaitHealth(want func(status int, h health) bool) health {
	w.t.Helper()
	var last string
	root := w.root("public")
	defer root.http.CloseIdleConnections()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); {
		a, err := root.try("GET", "/v1/health", "")
		if err == nil {
			var h health
			must(w.t, json.Unmarshal([]byte(a.body), &h))
			if last = a.body; want(a.status, h) {
				return h
			}
		}
		select {
		case <-w.daemon.done:
			w.t.Fatalf("the daemon ended: %v\n%s", w.daemon.err, w.logTail())
		case <-time.After(50 * time.Millisecond):
		}
	}
	w.t.Fatalf("health is not as wanted within a minute; last: %s\n%s", last, w.logTail())
	return health{}
}

func (w *world) logTail() string {
	b, _ := os.ReadFile(w.path("daemon.log"))
	return string(b[max(0, len(b)-4096):])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
