package peer

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func pidText(c *child) string { return strconv.Itoa(c.cmd.Process.Pid) }

// takeOver starts a process of that user with a pid that was another's
// (ns_last_pid: proc_sys_kernel(5)). Other programs start processes too, so it
// takes some attempts.
func takeOver(t *testing.T, pid int, uid uint32) {
	t.Helper()
	for range 2000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/cat")
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		end := func() { _ = in.Close(); _ = cmd.Wait() }
		if cmd.Process.Pid == pid {
			t.Cleanup(end)
			return
		}
		end()
	}
	t.Fatal("the pid was never given again")
}

// TestPidReuseBeforeAccept: the process that connected is gone, and its number
// another's, before anybody looks. With the socket's own pidfd that is found out.
// Before Linux 6.5 another user is found out; the same user is taken for the
// caller, and that is what Proven says.
func TestPidReuseBeforeAccept(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		for _, uid := range []uint32{33, 34} {
			at := newPlace(t)
			c := at.start("caller", as(33))
			conn := at.accept()
			c.end()
			takeOver(t, c.cmd.Process.Pid, uid)
			p := held(t, r, conn)
			got := p.Identify()
			older := r.WithoutPeerPIDFD || !hasPeerPIDFD(t)
			t.Logf("number reused by uid %d: uid %d, contained %v, proven %v, alive %v", uid, got.UID, got.Contained, got.Proven, p.Alive())
			want(t, r, got, Caller{UID: 33, PID: int32(c.cmd.Process.Pid), Contained: !older || uid != 33})
			if p.Alive() != older {
				t.Errorf("alive: %v", p.Alive())
			}
		}
	})
}

// TestPidReuseAfterAccept: the pidfd is that of the process that was there when
// the connection was accepted; whoever comes later is nobody.
func TestPidReuseAfterAccept(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		at := newPlace(t)
		c := at.start("caller", as(33))
		p := held(t, r, at.accept())
		c.end()
		takeOver(t, c.cmd.Process.Pid, 33)
		want(t, r, p.Identify(), Caller{UID: 33, PID: int32(c.cmd.Process.Pid), Contained: true})
		if p.Alive() {
			t.Error("another process is taken for the caller")
		}
	})
}

// hierarchy is where this system has systemd's cgroups.
func hierarchy(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if f[2] == "cgroup" && strings.Contains(f[3], "name=systemd") || f[2] == "cgroup2" && found == "" {
			found = f[1]
		}
	}
	if found == "" {
		t.Fatal("this test makes cgroups, and there is no hierarchy")
	}
	return found
}

// TestUnits: real processes in real cgroups, under a slice of the test's own.
func TestUnits(t *testing.T) {
	root := hierarchy(t)
	slice := "tokenvaulttest" + strconv.Itoa(os.Getpid()) + ".slice"
	everyReader(t, func(t *testing.T, r Reader) {
		for path, unit := range map[string]string{
			"shop.service":                                          "shop.service",
			"system-app.slice/app@eu-1.service":                     "app@eu-1.service",
			"deleg.service/shop.service":                            "deleg.service",
			"user-1.slice/user@1.service/app.slice/x.service":       "user@1.service",
			"user-1.slice/user@1.service/system.slice/shop.service": "user@1.service",
			"session-c1.scope":                                      "session-c1.scope",
			`a\x2db.service`:                                        `a\x2db.service`,
			"docker/0123":                                           "",
			"lxc.payload/system.slice/a.service":                    "",
		} {
			at := newPlace(t)
			c := at.start("caller", as(33))
			p := held(t, r, at.accept())
			full := filepath.Join(root, slice, path)
			if err := os.MkdirAll(full, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				c.end()
				for dir := full; dir != root && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
					continue
				}
			})
			if err := os.WriteFile(filepath.Join(full, "cgroup.procs"), []byte(pidText(c)), 0); err != nil {
				t.Fatal(err)
			}
			want(t, r, p.Identify(), Caller{UID: 33, PID: int32(c.cmd.Process.Pid), Unit: unit, Proven: true})
		}
	})
}

// TestLabel: a security module's word where there is one.
func TestLabel(t *testing.T) {
	at := newPlace(t)
	at.start("caller", as(33))
	got := held(t, Reader{}, at.accept()).Caller().Label
	text, err := os.ReadFile("/proc/self/attr/current")
	t.Logf("label %q; our own %q, %v", got, text, err)
	if err != nil && got != "" {
		t.Error("a label without a security module")
	}
}

// TestOutsideOurPidNamespace: pid 0 cannot be looked at, and is contained.
func TestOutsideOurPidNamespace(t *testing.T) {
	for _, pid := range []int32{0, -1} {
		p := &Process{caller: Caller{PID: pid, Contained: true}, hold: hold{fd: -1, open: true, socket: true}}
		if got := p.Identify(); !got.Contained || got.Proven || got.Unit != "" {
			t.Errorf("pid %d: got %+v", pid, got)
		}
	}
}

// TestZeroProcess: for other packages' tests.
func TestZeroProcess(t *testing.T) {
	var nobody *Process
	if p := new(Process); !p.Alive() || p.Close() != nil || nobody.Alive() || nobody.Close() != nil {
		t.Error("the zero Process is not what it says")
	}
}
