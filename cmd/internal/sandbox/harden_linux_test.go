package sandbox

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	children["hold"] = hold
	children["spy"] = spy
	children["harden twice"] = func(order) report { Harden(); return report{Parts: Harden()} }
}

// hold stands for the daemon: it has something secret in its environment, says that
// it is ready, and then waits for its stdin to end, or dies of itself.
func hold(o order) report {
	if o.Args["cores"] != "" {
		limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if os.Geteuid() != 0 {
			_ = unix.Getrlimit(unix.RLIMIT_CORE, &limit)
			limit.Cur = limit.Max
		}
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &limit)
		_ = os.Chdir(o.Args["cores"])
	}
	r := report{}
	if o.Args["hardened"] != "" {
		r.Parts = Harden()
	}
	_, _ = os.Stdout.WriteString("ready\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for o.Args["cores"] != "" { // until the signal that it is to die of
		_ = unix.Pause()
	}
	return r
}

// spy is another process of the same user, or of another one.
func spy(o order) report {
	a := args(o.Args)
	pid, proc := a.port("victim"), "/proc/"+o.Args["victim"]
	return report{Got: map[string]string{
		"read its environment":  errnoOf(read(proc + "/environ")),
		"open its memory":       errnoOf(open(proc+"/mem", os.O_RDONLY)),
		"read its maps":         errnoOf(read(proc + "/maps")),
		"list its descriptors":  errnoOf(list(proc + "/fd")),
		"look at its program":   errnoOf(readlink(proc + "/exe")),
		"trace it":              errnoOf(seize(pid)),
		"read its memory":       errnoOf(readv(pid)),
		"take its descriptor":   errnoOf(take(pid)),
		"read what is for all":  errnoOf(read(proc + "/status")),
		"read its command line": errnoOf(read(proc + "/cmdline")),
	}}
}

func list(dir string) error      { _, err := os.ReadDir(dir); return err }
func readlink(path string) error { _, err := os.Readlink(path); return err }

func seize(pid int) error {
	err := unix.PtraceSeize(pid)
	if err == nil {
		_ = unix.PtraceDetach(pid)
	}
	return err
}

// take asks for the victim's stdin. Where it may, it has a copy.
func take(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	got, err := unix.PidfdGetfd(fd, 0, 0)
	if err == nil {
		err = unix.Close(got)
	}
	return err
}

// victim starts hold and waits until it is ready. end closes its stdin and gives how
// it ended.
func victim(t *testing.T, a map[string]string, env ...string) (pid int, end func() *os.ProcessState) {
	t.Helper()
	cmd := command(t, order{Child: "hold", Args: a}, true)
	cmd.Env = append(cmd.Env, env...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the victim says %q, %v", line, err)
	}
	ended := false
	end = func() *os.ProcessState {
		if !ended {
			ended = true
			_ = in.Close()
			_ = cmd.Wait()
		}
		return cmd.ProcessState
	}
	t.Cleanup(func() { end() })
	return cmd.Process.Pid, end
}

// TestMemoryIsClosedToItsOwnUser: another process of the daemon's user gets nothing of
// a hardened one, and gets it of one that is not.
func TestMemoryIsClosedToItsOwnUser(t *testing.T) {
	public := map[string]bool{"read what is for all": true, "read its command line": true}
	for _, hardened := range []string{"", "yes"} {
		pid, _ := victim(t, map[string]string{"hardened": hardened})
		r := run(t, order{Child: "spy", Args: map[string]string{"victim": strconv.Itoa(pid)}}, true)
		opened := 0
		for name, got := range r.Got {
			switch {
			case public[name] && got != "":
				t.Errorf("%s: %s", name, got)
			case public[name]:
			case hardened != "" && got != "EPERM" && got != "EACCES":
				t.Errorf("%s: got %q of a hardened process", name, got)
			case got == "":
				opened++
			}
			t.Logf("hardened %-4q %-24s %s", hardened, name, got)
		}
		if hardened == "" && opened < 4 {
			t.Errorf("without Harden only %d of 8 are open: the test proves nothing", opened)
		}
	}
}

// TestNoCoreDump: a signal that dumps core leaves none, although the limit was raised
// before.
func TestNoCoreDump(t *testing.T) {
	for _, hardened := range []string{"", "yes"} {
		dir := openDir(t)
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		pid, end := victim(t, map[string]string{"hardened": hardened, "cores": dir}, "GOTRACEBACK=crash")
		if err := syscall.Kill(pid, syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		status := end().Sys().(syscall.WaitStatus)
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("hardened %q: %v, dumped %v, files %v", hardened, status.Signal(), status.CoreDump(), files)
		if status.Signal() != syscall.SIGABRT {
			t.Fatalf("it ended by %v, want by its own SIGABRT", status)
		}
		if hardened != "" && (status.CoreDump() || len(files) > 0) {
			t.Errorf("a hardened process dumped core: %v", files)
		}
	}
}

// TestHarden: all parts hold in all threads, and again when it is called again.
func TestHarden(t *testing.T) {
	r := run(t, order{Child: "harden twice"}, true)
	if len(r.Parts) != 3 || Missing(r.Parts) != "" {
		t.Errorf("parts: %+v", r.Parts)
	}
}

// TestRootStillInjectsFaults: root's strace makes calls of a process in the sandbox
// fail. The tests of full and broken disks live by it; and nothing here keeps root
// out.
func TestRootStillInjectsFaults(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("strace is needed (apt-get install strace): %v", err)
	}
	o := battlefield(t)
	o.Child = "skips"
	path := filepath.Join(o.Args["read"], "file")
	child := command(t, o, false)
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-o", trace, "-P", path, "-e", "trace=openat", "-e", "inject=openat:error=EIO", child.Path)
	cmd.Env, cmd.Dir = child.Env, child.Dir
	cmd.Args[len(cmd.Args)-1] = readable(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("strace: %v", err)
	}
	if !strings.Contains(string(out), `"read the file":"EIO"`) {
		t.Errorf("no fault was injected: %s", out)
	}
}
