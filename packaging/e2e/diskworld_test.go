package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disks says on what file systems of their own store and audit log stand.
type disks struct {
	state, log string // "tmpfs" or "ext4"; "": the machine's
	both       string // one for both
	size       int64  // bytes of each; default 24 MiB
	reserve    string // of each; default 2MiB
	whenFull   string // audit.when_full
	exchange   string // keys of [exchange]
}

// another is a second installation beside w, with the same Vault and Human API,
// an instance and disks of its own. Its daemon does not run yet.
func (w *world) another(t testing.TB, d disks) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tv")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	n := &world{t: t, dir: dir, vault: w.vault, sim: w.sim, config: filepath.Join(dir, "tokenvault.toml")}
	must(t, os.Mkdir(n.path("run"), 0o755))
	must(t, os.Chown(n.path("run"), daemonUID, daemonUID))
	for _, f := range []string{"role-id", "secret-id"} {
		b, err := os.ReadFile(w.path(f))
		must(t, err)
		n.write(f, string(b), daemonUID, 0o600)
	}
	toml, err := os.ReadFile(w.config)
	must(t, err)
	reserve := d.reserve
	if reserve == "" {
		reserve = "2MiB"
	}
	whenFull := ""
	if d.whenFull != "" {
		whenFull = fmt.Sprintf("when_full = %q\n", d.whenFull)
	}
	text := strings.NewReplacer(w.dir, dir,
		"[store]\n", fmt.Sprintf("[store]\nreserve = %q\n", reserve),
		"[audit]\n", fmt.Sprintf("[audit]\nreserve = %q\n%s", reserve, whenFull),
	).Replace(string(toml))
	text = fmt.Sprintf("instance = %q\n%s\n[exchange]\n%s\n", filepath.Base(dir), text, d.exchange)
	must(t, os.WriteFile(n.config, []byte(text), 0o644))
	n.layDisks(d)
	return n
}

// layDisks makes the two folders, each on what it is to stand on.
func (w *world) layDisks(d disks) {
	w.t.Helper()
	if d.size == 0 {
		d.size = 24 << 20
	}
	if d.both != "" {
		must(w.t, os.Mkdir(w.path("disk"), 0o755))
		mountDisk(w.t, d.both, w.path("disk"), d.size)
	}
	for name, kind := range map[string]string{"state": d.state, "log": d.log} {
		at := w.path(name)
		if d.both != "" {
			at = w.path("disk/" + name)
			must(w.t, os.Symlink(at, w.path(name)))
		}
		must(w.t, os.Mkdir(at, 0o700))
		if kind != "" {
			mountDisk(w.t, kind, at, d.size)
		}
		must(w.t, os.Chmod(at, 0o700))
		must(w.t, os.Chown(at, daemonUID, daemonUID))
	}
}

// mountDisk is a small real file system, until the test ends.
func mountDisk(t testing.TB, kind, dir string, size int64) {
	t.Helper()
	options, source := fmt.Sprintf("size=%d", size), kind
	if kind == "ext4" {
		source, options = dir+".img", "loop,errors=remount-ro"
		must(t, errors.Join(os.WriteFile(source, nil, 0o600), os.Truncate(source, size)))
		t.Cleanup(func() { must(t, os.Remove(source)) })
		command(t, "mkfs.ext4", "-q", "-F", "-m", "0", source)
	}
	command(t, "mount", "-t", kind, "-o", options, source, dir)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return strings.TrimSpace(string(out))
}

// fillUp lets another process take all the room in a folder of w, and keep
// taking what becomes free. What it returns gives the room back.
func (w *world) fillUp(name string) (free func()) {
	w.t.Helper()
	full, ballast := w.path(name+".full"), filepath.Join(w.path(name), "ballast")
	cmd := exec.Command("sh", "-c", `while :; do cat /dev/zero >>"$1" 2>/dev/null; sync "$1"; : >"$2"; sleep 0.02; done`, "sh", ballast, full)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(w.t, cmd.Start())
	running := true
	end := func() {
		if running {
			running = false
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
	}
	w.t.Cleanup(end)
	w.await("the disk to be full", func() bool { _, err := os.Stat(full); return err == nil })
	return func() {
		w.t.Helper()
		end()
		must(w.t, errors.Join(os.Remove(ballast), os.Remove(full)))
		w.await("room", func() bool { // who was killed in the middle of a write may hold it for a while
			var st unix.Statfs_t
			must(w.t, unix.Statfs(w.path(name), &st))
			return st.Bavail*uint64(st.Bsize) > 4<<20
		})
	}
}

// await polls, for at most a minute, what nobody tells.
func (w *world) await(what string, is func() bool) {
	w.t.Helper()
	for limit := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			w.t.Fatalf("waited in vain for %s\n%s", what, w.logTail())
		}
	}
}

// inject lets system calls of the running daemon on one file fail, or be slow,
// as strace(1) spells it. What it returns ends that.
func (w *world) inject(file, rule string) (end func()) {
	w.t.Helper()
	call, _, _ := strings.Cut(rule, ":")
	path, err := filepath.EvalSymlinks(w.path(file))
	must(w.t, err)
	out := w.path("strace.log")
	log, err := os.OpenFile(out, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	must(w.t, err)
	defer log.Close()
	cmd := exec.Command("strace", "-f", "-p", fmt.Sprint(w.daemon.cmd.Process.Pid), "-o", w.path("trace"), "-P", path, "-e", "trace="+call, "-e", "inject="+rule)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(w.t, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	end = func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // it detaches
		<-done
	}
	w.t.Cleanup(end)
	w.await("strace", func() bool {
		b, _ := os.ReadFile(out)
		return strings.Contains(string(b), "attached")
	})
	return end
}

// awaitEnd waits until the daemon has ended by itself, with a failure, and wants
// its log to say why.
func (w *world) awaitEnd(why string) {
	w.t.Helper()
	select {
	case <-w.daemon.done:
	case <-time.After(20 * time.Second):
		w.t.Fatalf("the daemon does not end\n%s", w.logTail())
	}
	if code := w.daemon.cmd.ProcessState.ExitCode(); code != 1 && code != 4 {
		w.t.Errorf("the daemon ended with exit status %d (%v)", code, w.daemon.err)
	}
	if !strings.Contains(w.logTail(), why) {
		w.t.Errorf("the daemon ended without saying %q:\n%s", why, w.logTail())
	}
}
