package restart

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// systemd is the receiving end of $NOTIFY_SOCKET.
type systemd struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T, name string) *systemd {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", name)
	return &systemd{t: t, conn: conn}
}

// receive returns one message and its only descriptor, if any.
func (s *systemd) receive() (message string, f *os.File) {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	n, m, _, _, err := s.conn.ReadMsgUnix(b, oob)
	if err != nil {
		s.t.Error(err)
		return "", nil
	}
	parts, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || len(parts) > 1 {
		s.t.Errorf("%d control messages, %v", len(parts), err)
	}
	for _, p := range parts {
		fds, err := unix.ParseUnixRights(&p)
		if err != nil || len(fds) != 1 {
			s.t.Errorf("%d descriptors, %v", len(fds), err)
			continue
		}
		f = os.NewFile(uintptr(fds[0]), "received")
	}
	return string(b[:n]), f
}

// take receives a message and the barrier behind it, and lets the sender go on.
func (s *systemd) take() (message string, f *os.File) {
	message, f = s.receive()
	if barrier, pipe := s.receive(); barrier != "BARRIER=1" || pipe == nil {
		s.t.Errorf("%q follows, with a descriptor %t", barrier, pipe != nil)
	} else {
		_ = pipe.Close()
	}
	return message, f
}

func sockets(t *testing.T) map[string]string {
	return map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": fmt.Sprintf("@tokenvault-restart-test-%d", os.Getpid()),
	}
}

// TestKeptBySystemd: what systemd gets is the area itself.
func TestKeptBySystemd(t *testing.T) {
	for kind, name := range sockets(t) {
		t.Run(kind, func(t *testing.T) {
			s, m := listen(t, name), newMachine()
			opened := make(chan *Area, 1)
			go func() {
				a, err := Open(Config{Instance: "main", Keep: Keep, Drop: Drop, Now: m.Now, Boot: m.Boot})
				if err != nil {
					t.Error(err)
				}
				opened <- a
			}()
			message, f := s.take()
			if message != "FDSTORE=1\nFDNAME=tokenvault-memory\nFDPOLL=0" || f == nil {
				t.Fatalf("%q, with a descriptor %t", message, f != nil)
			}
			a := <-opened
			defer a.Close()
			save(t, a, sample(m, 1, 1))
			b, err := Open(Config{Instance: "main", Keep: Keep, Drop: Drop, Inherited: f, Now: m.Now, Boot: m.Boot})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			finds(t, b, sample(m, 1, 1))

			done := make(chan error, 1)
			go func() { done <- Drop(Name) }()
			if message, f := s.take(); message != "FDSTOREREMOVE=1\nFDNAME=tokenvault-memory" || f != nil {
				t.Errorf("%q, with a descriptor %t", message, f != nil)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBarrier: Keep returns only after systemd has read everything.
func TestBarrier(t *testing.T) {
	s := listen(t, filepath.Join(t.TempDir(), "notify"))
	f := memfd(t, 0)
	defer func() { _ = f.Close() }()
	done := make(chan error, 1)
	go func() { done <- Keep(Name, f) }()
	_, stored := s.receive()
	_, barrier := s.receive()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	_ = barrier.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = stored.Close()
}

func TestNobodyListens(t *testing.T) {
	f := memfd(t, 0)
	defer func() { _ = f.Close() }()
	for name, address := range map[string]string{
		"not under systemd": "",
		"relative":          "notify",
		"vsock":             "vsock:2:1234",
		"gone":              filepath.Join(t.TempDir(), "notify"),
		"too long":          "/" + strings.Repeat("x", 200),
	} {
		t.Setenv("NOTIFY_SOCKET", address)
		if err := Keep(Name, f); err == nil || !strings.HasPrefix(err.Error(), "keep tokenvault-memory: ") {
			t.Errorf("%s: keep: %v", name, err)
		}
		if err := Drop(Name); err == nil {
			t.Errorf("%s: dropped", name)
		}
	}
	a, err := Open(Config{Instance: "main", Keep: Keep, Drop: Drop})
	if err != nil {
		t.Fatal(err)
	}
	isOff(t, a, "does not keep it")
}

// TestSystemdHangs: a receiver that reads nothing costs a bounded time.
func TestSystemdHangs(t *testing.T) {
	listen(t, filepath.Join(t.TempDir(), "notify"))
	began := time.Now()
	if err := push("STATUS=marker", 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not read it") {
		t.Errorf("unread: %v", err)
	}
	var err error
	for err == nil || !errors.Is(err, unix.EAGAIN) { // until its queue is full
		err = push(string(bytes.Repeat([]byte("x"), 1000)), time.Millisecond)
		if time.Since(began) > patience {
			t.Fatalf("the queue is never full: %v", err)
		}
	}
}

// TestSystemBoot: the kernel's own clocks.
func TestSystemBoot(t *testing.T) {
	id, since := systemBoot()
	again, later := systemBoot()
	if len(id) != 36 || again != id || since <= 0 || later < since {
		t.Errorf("boot %q since %v, then %q since %v", id, since, again, later)
	}
	k := newKeeper(t)
	word := time.Now().Add(-time.Minute)
	c := Config{Instance: "main", Keep: k.Keep, Drop: k.Drop}
	a, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	contents := sample(newMachine(), 1, 0)
	contents.Vault.LastWord = word
	save(t, a, contents)
	a.Close()
	c.Inherited = k.back()
	if a, err = Open(c); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	got, ok := a.Load()
	if off := got.Vault.LastWord.Sub(word); !ok || off < -time.Second || off > time.Second {
		t.Errorf("%t, the last word moved by %v", ok, off)
	}
}
