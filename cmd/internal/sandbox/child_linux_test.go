package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// The sandbox is for life, so everything is tried in processes of its own: this test
// again, told by its environment which child to be and what to do.

const childEnv = "SANDBOX_TEST_CHILD"

// order is what a child gets on its environment.
type order struct {
	Child   string
	Profile Profile
	ABI     int               // what the kernel claims to have; 0: its own word
	Args    map[string]string // paths and ports to try
}

// report is what a child prints at its end.
type report struct {
	Parts []Part
	Error string            // of Enter
	Got   map[string]string // by attempt: "" or the error
}

var children = map[string]func(o order) report{}

func TestMain(m *testing.M) {
	text := os.Getenv(childEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	out, err := json.Marshal(children[o.Child](o))
	if err != nil {
		panic(err)
	}
	_, _ = os.Stdout.Write(append(out, '\n'))
	os.Exit(0)
}

// user is who runs a child, when the test is root: an id that nobody has.
const user = 64001

// command is a child that is not started yet. Without root it is one of our own user.
func command(t testing.TB, o order, asUser bool) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	if asUser && os.Geteuid() == 0 {
		cmd.Path = readable(t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
	cmd.Dir = "/"
	return cmd
}

// readable copies this test where every user can run it.
func readable(t testing.TB) string {
	t.Helper()
	dir := openDir(t)
	path := filepath.Join(dir, "child")
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// openDir is a directory that every user may enter: t.TempDir() is not.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandbox")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// run runs a child to its end.
func run(t testing.TB, o order, asUser bool) report {
	t.Helper()
	cmd := command(t, o, asUser)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("child %s: %v\n%s", o.Child, err, stderr.String())
	}
	var r report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("child %s printed %q: %v\n%s", o.Child, stdout.String(), err, stderr.String())
	}
	return r
}

// enterAs is Enter on the kernel that the order asks for.
func enterAs(o order) ([]Part, error) {
	k := running
	if o.ABI != 0 {
		k.landlock = func() (int, error) { return o.ABI, nil }
	}
	return enter(o.Profile, k)
}

func text(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

func mustWrite(t testing.TB, path string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("content of "+filepath.Base(path)), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// errnoOf names the error of a system call as errno(3) does, or "".
func errnoOf(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return ""
	case errorsAs(err, &errno):
		if name, ok := names[errno]; ok {
			return name
		}
	}
	return fmt.Sprint(err)
}

// nameServer answers every question for an IPv4 address with 192.0.2.7, and every
// other one with nothing (RFC 1035 §4.1).
func nameServer(t testing.TB) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		for buf := make([]byte, 512); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if n > 16 {
				_, _ = c.WriteTo(nameAnswer(buf[:n]), from)
			}
		}
	}()
	return c.LocalAddr().String()
}

// nameAnswer repeats the question, without its additional section.
func nameAnswer(question []byte) []byte {
	end := 12
	for question[end] != 0 { // labels
		end += int(question[end]) + 1
	}
	end += 5 // the root, type, class
	out := append([]byte{}, question[:end]...)
	out[2], out[3] = 0x84, 0                          // an answer, by who knows
	copy(out[4:12], []byte{0, 1, 0, 0, 0, 0, 0, 0})   // one question
	if question[end-4] != 0 || question[end-3] != 1 { // not A
		return out
	}
	out[7] = 1
	return append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7)
}
