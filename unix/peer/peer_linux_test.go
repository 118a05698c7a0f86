package peer

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// TestMain plays the caller when it is told a socket: it connects, says so, and
// waits for its stdin to end.
func TestMain(m *testing.M) {
	if path := os.Getenv("PEER_TEST_SOCKET"); path != "" {
		conn, err := net.Dial("unix", path)
		if err != nil {
			os.Exit(3)
		}
		_, _ = conn.Write([]byte("x"))
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is another process at the other end.
type child struct {
	conn *net.UnixConn
	cmd  *exec.Cmd
	end  func()
}

func connect(t *testing.T, attr *syscall.SysProcAttr) child {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("this test starts processes of other users, and needs root")
	}
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path, binary := filepath.Join(dir, "s"), filepath.Join(dir, "caller")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	copyBinary(t, binary)
	for name, mode := range map[string]os.FileMode{dir: 0o755, path: 0o666, binary: 0o755} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", []string{"PEER_TEST_SOCKET=" + path}, attr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a process with another identity: %v", err)
	}
	end := func() { _ = stdin.Close(); _ = cmd.Wait() }
	t.Cleanup(end)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := bufio.NewReader(conn).ReadByte(); err != nil {
		t.Fatalf("the process did not connect: %v", err)
	}
	return child{conn.(*net.UnixConn), cmd, end}
}

// copyBinary puts this test where every user can run it.
func copyBinary(t *testing.T, to string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestOtherUser(t *testing.T) {
	many := make([]uint32, 300) // more than the first buffer holds
	for i := range many {
		many[i] = uint32(2000 + i)
	}
	for _, groups := range [][]uint32{{5, 60}, many} {
		c := connect(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 33, Gid: 34, Groups: groups}})
		got, err := identify(c.conn)
		if err != nil {
			t.Fatal(err)
		}
		if got.UID != 33 || got.GID != 34 || got.PID != int32(c.cmd.Process.Pid) || !slices.Equal(got.Groups, groups) || got.Contained || got.Unit != "" {
			t.Errorf("got %+v", got)
		}
	}
}

func TestContained(t *testing.T) {
	c := connect(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Credential: &syscall.Credential{Uid: 33, Gid: 34}})
	got, err := identify(c.conn)
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != 33 || !got.Contained {
		t.Errorf("got %+v, want contained", got)
	}
}

func identify(c *net.UnixConn) (Caller, error) {
	p, err := Reader{}.Hold(c)
	if err != nil {
		return Caller{}, err
	}
	defer func() { _ = p.Close() }()
	return p.Identify(), nil
}
