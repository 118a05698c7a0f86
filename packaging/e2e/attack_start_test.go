package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const ready = `"msg":"ready"`

// startAttack is something that lies in wait for the daemon when it starts.
type startAttack struct {
	attempt string
	plant   func(w *world) (undo func())
	want    string // in what the daemon says before it ends
}

// attackAtStart: files, sockets and descriptors that are not what the administrator
// made. The daemon says so and does not start; what it says in its log is the record,
// since nothing is served that an audit log could be about.
func attackAtStart(t *testing.T) (tried int) {
	w := newWorld(t, options{})
	s := w.connected()
	w.stop()
	for _, a := range startAttacks() {
		w.atStart(t, a)
	}
	tried = len(startAttacks()) + w.inheritedAttacks(t)
	w.start() // all of it is undone, and nothing was lost
	w.awaitReady()
	w.as(webUID, "public").do("GET", "/v1/users/"+s.humanID+"?clientId="+shop, "").want(t, 200, "")
	w.stop()
	return tried + w.environmentAttacks(t) + w.argumentAttacks(t)
}

// atStart starts the daemon with the attack in place.
func (w *world) atStart(t *testing.T, a startAttack, through ...string) {
	t.Helper()
	defer a.plant(w)()
	before := len(w.read("daemon.log"))
	w.start(through...)
	code, said := w.endsOrSays(a.want, before)
	if code == 0 || !strings.Contains(said, a.want) || strings.Contains(said, ready) {
		t.Errorf("%s: exit %d, want %q in\n%s", a.attempt, code, a.want, said)
	}
	outcome := fmt.Sprintf("exit %d", code)
	if code < 0 {
		outcome = "serves administrators only"
	}
	attackRow{"start", a.attempt, outcome, "the log: " + a.want}.print(t)
}

// endsOrSays waits for the daemon's end, or for what it says when it stays to serve
// administrators only. code is -1 if it had to be killed.
func (w *world) endsOrSays(want string, from int) (code int, said string) {
	w.t.Helper()
	for {
		select {
		case <-w.daemon.done:
			return w.daemon.cmd.ProcessState.ExitCode(), w.read("daemon.log")[from:]
		case <-time.After(20 * time.Millisecond): // nobody tells
		}
		if said = w.read("daemon.log")[from:]; strings.Contains(said, want) || strings.Contains(said, ready) {
			w.settle() // it may end by itself, or serve in spite of what it says
			return w.daemon.cmd.ProcessState.ExitCode(), w.read("daemon.log")[from:]
		}
	}
}

// settle gives the daemon a moment to end by itself.
func (w *world) settle() {
	select {
	case <-w.daemon.done:
	case <-time.After(2 * time.Second):
		w.kill()
	}
}

func startAttacks() []startAttack {
	table := []startAttack{
		{"the secret id is there for everybody to read", chmod("secret-id", 0o604), "chmod o-rwx"},
		{"the secret id is another user's", chown("secret-id", strangerUID), "permission denied"},
		{"the secret id is a FIFO", instead("secret-id", fifo), "is not a regular file"},
		{"the configuration can be written by its group", chmod("tokenvault.toml", 0o664), "chmod go-w"},
		{"the configuration can be written by everybody", chmod("tokenvault.toml", 0o646), "chmod go-w"},
		{"the configuration is another user's", chown("tokenvault.toml", strangerUID), "chown root"},
		{"the configuration's directory can be written by everybody", chmod(".", 0o757), "chmod go-w"},
		{"conf.d can be written by everybody", added("conf.d", 0o777), "chmod go-w"},
		{"a file of conf.d can be written by its group", dropIn(0o664), "chmod go-w"},
		{"the store's directory is open to everybody", chmod("state", 0o777), "chmod go-w"},
		{"the audit log's directory can be written by everybody", chmod("log", 0o777), "chmod go-w"},
		{"the store is a link to a file of somebody's", instead("state/store.db", func(p string) error { return os.Symlink("/etc/hostname", p) }), "not a regular file"},
		{"the audit log is a link to a file of somebody's", instead("log/audit.log", func(p string) error { return os.Symlink("/etc/hostname", p) }), "only the admin socket serves"},
		{"a socket's directory can be written by everybody", chmod("run/private", 0o777), "could put a socket there"},
		{"a socket's directory is another user's", chown("run/private", strangerUID), "belongs to another user"},
		{"a socket's path is a link", instead("run/private/api.sock", func(p string) error { return os.Symlink("/tmp/elsewhere.sock", p) }), "is no socket"},
		{"a socket's path is a file", instead("run/private/api.sock", func(p string) error { return os.WriteFile(p, nil, 0o600) }), "is no socket"},
		{"a socket's path is a directory", instead("run/private/api.sock", func(p string) error { return os.Mkdir(p, 0o700) }), "is no socket"},
		{"somebody listens at a socket's path", listening, "somebody answers there"},
	}
	return table
}

// ---- what is planted ----

func chmod(name string, mode os.FileMode) func(*world) func() {
	return func(w *world) func() {
		info, err := os.Stat(w.path(name))
		must(w.t, err)
		must(w.t, os.Chmod(w.path(name), mode))
		return func() { must(w.t, os.Chmod(w.path(name), info.Mode())) }
	}
}

func chown(name string, uid int) func(*world) func() {
	return func(w *world) func() {
		was := int(ownerOf(w.t, w.path(name)))
		must(w.t, os.Chown(w.path(name), uid, -1))
		return func() { must(w.t, os.Chown(w.path(name), was, -1)) }
	}
}

// instead puts something where a file is, or none.
func instead(name string, put func(path string) error) func(*world) func() {
	return func(w *world) func() {
		path, aside := w.path(name), w.path("aside")
		there := os.Rename(path, aside) == nil
		must(w.t, put(path))
		must(w.t, os.Lchown(path, daemonUID, -1))
		return func() {
			must(w.t, os.Remove(path))
			if there {
				must(w.t, os.Rename(aside, path))
			}
		}
	}
}

func added(dir string, mode os.FileMode) func(*world) func() {
	return func(w *world) func() {
		must(w.t, os.Mkdir(w.path(dir), 0o755))
		must(w.t, os.Chmod(w.path(dir), mode))
		return func() { must(w.t, os.RemoveAll(w.path(dir))) }
	}
}

func dropIn(mode os.FileMode) func(*world) func() {
	return func(w *world) func() {
		undo := added("conf.d", 0o755)(w)
		w.write("conf.d/10.toml", "[log]\nlevel = \"debug\"\n", 0, mode)
		must(w.t, os.Chmod(w.path("conf.d/10.toml"), mode))
		return undo
	}
}

// listening is another program's socket, with somebody who answers.
func listening(w *world) func() {
	_ = os.Remove(w.socket("private")) // one that was left
	l, err := net.Listen("unix", w.socket("private"))
	must(w.t, err)
	must(w.t, os.Chown(w.socket("private"), daemonUID, -1))
	return func() { must(w.t, l.Close()) }
}

// ---- descriptors ----

// inheritedAttacks are sockets that come with the wrong name, or are not what the
// configuration says.
func (w *world) inheritedAttacks(t *testing.T) int {
	for _, name := range []string{"public", "private", "admin"} {
		must(t, os.RemoveAll(filepath.Dir(w.socket(name))))
	}
	w.inherit()
	names := w.env[len(w.env)-1]
	called := func(as string) func(*world) func() {
		return func(w *world) func() {
			w.env[len(w.env)-1] = "LISTEN_FDNAMES=" + as
			return func() { w.env[len(w.env)-1] = names }
		}
	}
	table := []startAttack{
		{"the names of two sockets are swapped: public gets private's ceiling", called("private:public:admin"), "must be of one listener"},
		{"the names of the app's and the admin's socket are swapped", called("admin:private:public"), "must be of one listener"},
		{"a socket has a name that no listener has", called("public:private:other"), "not this one"},
		{"two sockets have one name", called("public:public:admin"), "two sockets with the name"},
		{"an inherited socket is everybody's to connect", chmod("run/private/api.sock", 0o666), "SocketMode="},
		{"an inherited socket is of another group", chgrp("run/private/api.sock", publicGID), "SocketGroup="},
		{"an inherited socket is another user's", chown("run/private/api.sock", strangerUID), "SocketUser="},
		{"the path of an inherited socket is a file now", instead("run/private/api.sock", func(p string) error { return os.WriteFile(p, nil, 0o660) }), "no socket any more"},
		{"the directory of an inherited socket is everybody's", chmod("run/private", 0o777), "could put a socket there"},
	}
	for _, a := range table {
		w.atStart(t, a, "/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh")
	}
	w.env, w.sockets = w.env[:len(w.env)-2], nil
	for _, name := range []string{"public", "private", "admin"} {
		must(t, os.RemoveAll(filepath.Dir(w.socket(name))))
	}
	return len(table)
}

func chgrp(name string, gid int) func(*world) func() {
	return func(w *world) func() {
		must(w.t, os.Chown(w.path(name), -1, gid))
		return func() { must(w.t, os.Chown(w.path(name), -1, privateGID)) }
	}
}

// ---- environment and arguments ----

// environmentAttacks point the libraries elsewhere. The daemon starts, and nothing
// comes to the address they name. The rows of proxies see only half: net/http itself
// spares loopback addresses, to which everything goes here.
func (w *world) environmentAttacks(t *testing.T) int {
	trap, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer trap.Close()
	came := make(chan net.Addr, 64)
	go func() {
		for {
			c, err := trap.Accept()
			if err != nil {
				return
			}
			came <- c.LocalAddr()
			_ = c.Close()
		}
	}()
	url := "http://" + trap.Addr().String()
	table := []string{
		"VAULT_ADDR=" + url, "VAULT_AGENT_ADDR=" + url, "VAULT_PROXY_ADDR=" + url, "VAULT_HTTP_PROXY=" + url,
		"HTTP_PROXY=" + url, "http_proxy=" + url, "HTTPS_PROXY=" + url, "ALL_PROXY=" + url,
		"VAULT_TOKEN=marker-token", "VAULT_CACERT=/nowhere",
	}
	for _, variable := range table {
		env := w.env
		w.env = append(env[:len(env):len(env)], variable)
		w.start()
		w.awaitReady()
		w.connected()
		w.stop()
		w.env = env
		if len(came) != 0 {
			t.Errorf("%s: the daemon went there", variable)
		}
		attackRow{"environment", strings.Replace(variable, url, "an attacker's", 1), "ignored, exchange works", "—"}.print(t)
	}
	return len(table)
}

// argumentAttacks are secrets where every user could see them: none is taken, and
// none is repeated in what is said.
func (w *world) argumentAttacks(t *testing.T) int {
	const marker = "marker-secret-in-an-argument"
	table := [][]string{
		{"serve", "--client-secret", marker},
		{"serve", marker},
		{"secret", "put", "shop", marker},
		{"secret", "put", "--value", marker, "shop"},
		{"vault", "setup", "--token", marker},
		{"import", "--access-token", marker},
	}
	for _, args := range table {
		out := w.cli("", args...)
		attempt := "tokenvault " + strings.ReplaceAll(strings.Join(args, " "), marker, "SECRET")
		if out.code == 0 || strings.Contains(out.stdout+out.stderr, marker) {
			t.Errorf("%s: exit %d:\n%s%s", attempt, out.code, out.stdout, out.stderr)
		}
		first, _, _ := strings.Cut(out.stderr, "\n")
		attackRow{"argument", attempt, fmt.Sprintf("exit %d", out.code), first}.print(t)
	}
	return len(table)
}

func ownerOf(t testing.TB, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Uid
}

func fifo(path string) error { return syscall.Mkfifo(path, 0o600) }
