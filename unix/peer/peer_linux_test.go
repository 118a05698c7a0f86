package peer

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain plays the caller when it is told a role.
func TestMain(m *testing.M) {
	if role := os.Getenv("PEER_TEST_ROLE"); role != "" {
		os.Exit(play(role, os.Getenv("PEER_TEST_SOCKET")))
	}
	os.Exit(m.Run())
}

// play connects, says so with a byte, and waits for its stdin to end. Descriptor 3
// is one that it was given.
func play(role, socket string) int {
	if role == "user" { // of a descriptor that somebody else connected
		f := os.NewFile(3, "inherited")
		_, _ = f.Write([]byte("x"))
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 0
	}
	if role == "receiver" { // the same, passed over descriptor 3
		_, _ = os.NewFile(uintptr(receive(3)), "passed").Write([]byte("x"))
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 0
	}
	if role == "undumpable" && unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) != nil {
		return 4
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) // kept over exec
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	}
	if err != nil {
		return 3
	}
	switch role {
	case "exec":
		_, _ = unix.Write(fd, []byte("x"))
		_ = syscall.Exec("/bin/cat", []string{"cat"}, nil)
		return 5
	case "heir": // connects, leaves the descriptor to a child and exits
		cmd := exec.Command("/proc/self/exe")
		cmd.Env, cmd.Stdin = []string{"PEER_TEST_ROLE=user"}, os.Stdin
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "s")}
		if cmd.Start() != nil {
			return 6
		}
		return 0
	}
	_, _ = unix.Write(fd, []byte("x"))
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func receive(over int) int {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(over, make([]byte, 1), oob, 0)
	if err != nil {
		return -1
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1
	}
	return fds[0]
}

// readers: every test of an identity runs with what this kernel has, and as
// before Linux 6.5.
var readers = map[string]Reader{"peer pidfd": {}, "before 6.5": {WithoutPeerPIDFD: true}}

func everyReader(t *testing.T, test func(*testing.T, Reader)) {
	for name, r := range readers {
		t.Run(name, func(t *testing.T) { test(t, r) })
	}
}

// place is a socket and a copy of this test that every user can reach.
type place struct {
	t      *testing.T
	l      *net.UnixListener
	socket string
	binary string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test starts processes of other users, and needs root")
	}
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &place{t: t, socket: filepath.Join(dir, "s"), binary: filepath.Join(dir, "caller")}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p.l = l.(*net.UnixListener)
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(p.binary, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{dir: 0o755, p.socket: 0o666, p.binary: 0o755} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// child is a process that plays a role.
type child struct {
	cmd *exec.Cmd
	end func() // returns when it is reaped
}

func (p *place) start(role string, attr *syscall.SysProcAttr, files ...*os.File) *child {
	p.t.Helper()
	cmd := exec.Command(p.binary)
	cmd.Dir, cmd.SysProcAttr, cmd.ExtraFiles = "/", attr, files
	cmd.Env = []string{"PEER_TEST_SOCKET=" + p.socket, "PEER_TEST_ROLE=" + role}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		p.t.Fatalf("start a process with another identity: %v", err)
	}
	end := func() { _ = stdin.Close(); _ = cmd.Wait() }
	p.t.Cleanup(end)
	return &child{cmd, end}
}

// accept takes the next connection, and returns once its other end has written.
func (p *place) accept() *net.UnixConn {
	p.t.Helper()
	conn, err := p.l.AcceptUnix()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	if _, err := bufio.NewReader(conn).ReadByte(); err != nil {
		p.t.Fatalf("the process did not connect: %v", err)
	}
	return conn
}

func held(t *testing.T, r Reader, c *net.UnixConn) *Process {
	t.Helper()
	p, err := r.Hold(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// hasPeerPIDFD asks this kernel.
func hasPeerPIDFD(t *testing.T) bool {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) }()
	pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, soPeerPIDFD)
	if err == nil {
		_ = unix.Close(pidfd)
	}
	return err == nil
}

func as(uid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid + 1}}
}

// want checks an identity. proven is what it is where the kernel can prove it.
func want(t *testing.T, r Reader, got, want Caller) {
	t.Helper()
	want.Proven = want.Proven && !r.WithoutPeerPIDFD && hasPeerPIDFD(t)
	if got.UID != want.UID || got.PID != want.PID || got.Contained != want.Contained || got.Proven != want.Proven || got.Unit != want.Unit {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOtherUser(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		many := make([]uint32, 300) // more than the first buffer holds
		for i := range many {
			many[i] = uint32(2000 + i)
		}
		for _, groups := range [][]uint32{{5, 60}, many} {
			at, attr := newPlace(t), as(33)
			attr.Credential.Groups = groups
			c := at.start("caller", attr)
			p := held(t, r, at.accept())
			if before := p.Caller(); before.UID != 33 || !before.Contained || before.Proven {
				t.Errorf("before anything is known: %+v", before)
			}
			got := p.Identify()
			want(t, r, got, Caller{UID: 33, PID: int32(c.cmd.Process.Pid), Proven: true})
			if got.GID != 34 || !slices.Equal(got.Groups, groups) || !p.Alive() {
				t.Errorf("got %+v", got)
			}
		}
	})
}

// TestNamespaces: only a pid namespace makes a caller contained, and nobody
// becomes another user by calling itself so.
func TestNamespaces(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		mapped := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 33, Size: 1}}
		inside := &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true}
		for name, c := range map[string]struct {
			attr      syscall.SysProcAttr
			uid       uint32
			contained bool
		}{
			"pid":               {syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Credential: &syscall.Credential{Uid: 33, Gid: 34}}, 33, true},
			"pid, root":         {syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}, 0, true},
			"user, as root":     {syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mapped, GidMappings: mapped, Credential: inside}, 33, false},
			"user and pid":      {syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID, UidMappings: mapped, GidMappings: mapped, Credential: inside}, 33, true},
			"all but pid":       {syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS, Credential: &syscall.Credential{Uid: 33}}, 33, false},
			"none, for compare": {syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 33}}, 33, false},
		} {
			at := newPlace(t)
			child := at.start("caller", &c.attr)
			got := held(t, r, at.accept()).Identify()
			t.Logf("%s namespace: uid %d, contained %v, proven %v", name, got.UID, got.Contained, got.Proven)
			want(t, r, got, Caller{UID: c.uid, PID: int32(child.cmd.Process.Pid), Contained: c.contained, Proven: true})
		}
	})
}

// TestUndumpable: status, stat and cgroup of such a process stay readable.
func TestUndumpable(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		at := newPlace(t)
		c := at.start("undumpable", as(33))
		want(t, r, held(t, r, at.accept()).Identify(), Caller{UID: 33, PID: int32(c.cmd.Process.Pid), Proven: true})
	})
}

// TestExecAfterConnect: another program is the same process.
func TestExecAfterConnect(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		at := newPlace(t)
		c := at.start("exec", as(33))
		conn := at.accept()
		p := held(t, r, conn)
		for exe := ""; !strings.HasSuffix(exe, "/cat"); {
			exe, _ = os.Readlink("/proc/" + pidText(c) + "/exe")
		}
		want(t, r, p.Identify(), Caller{UID: 33, PID: int32(c.cmd.Process.Pid), Proven: true})
		if !p.Alive() {
			t.Error("it is taken to have exited")
		}
	})
}

// TestPassed: whoever uses a descriptor that root connected, passed or
// inherited, is root to us.
func TestPassed(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		for _, role := range []string{"user", "receiver"} {
			at := newPlace(t)
			mine, err := net.Dial("unix", at.socket)
			if err != nil {
				t.Fatal(err)
			}
			f, err := mine.(*net.UnixConn).File()
			if err != nil {
				t.Fatal(err)
			}
			if role == "user" {
				at.start(role, as(33), f)
			} else {
				pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				over := os.NewFile(uintptr(pair[1]), "over")
				at.start(role, as(33), over)
				if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
					t.Fatal(err)
				}
				_, _ = unix.Close(pair[0]), over.Close()
			}
			_, _ = f.Close(), mine.Close()
			got := held(t, r, at.accept()).Identify()
			t.Logf("%s, uid 33, of a descriptor that root connected: uid %d", role, got.UID)
			want(t, r, got, Caller{UID: 0, PID: int32(os.Getpid()), Proven: true})
		}
	})
}

// TestInheritedAndOrphaned: the process that connected has exited, its child goes
// on. User and groups are the dead one's, and nothing else is known.
func TestInheritedAndOrphaned(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		at := newPlace(t)
		c := at.start("heir", as(33))
		conn := at.accept()
		_ = c.cmd.Wait() // the parent; the child keeps stdin
		p := held(t, r, conn)
		want(t, r, p.Identify(), Caller{UID: 33, PID: int32(c.cmd.Process.Pid), Contained: true})
		if p.Alive() {
			t.Error("the dead process is taken to be alive")
		}
	})
}

// TestGone: who exits is not alive, at once, whether reaped or not; what was known
// stays known, for the record.
func TestGone(t *testing.T) {
	everyReader(t, func(t *testing.T, r Reader) {
		at := newPlace(t)
		c := at.start("caller", as(33))
		p := held(t, r, at.accept())
		before := p.Identify()
		if !p.Alive() || before.Contained {
			t.Fatalf("got %+v", before)
		}
		c.end()
		if p.Alive() || p.Identify().Contained {
			t.Error("it is taken to be alive, or another one")
		}
		if err := p.Close(); err != nil || p.Close() != nil || p.Alive() {
			t.Errorf("closing: %v", err)
		}
	})
}
