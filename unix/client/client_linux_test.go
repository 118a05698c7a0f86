package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFullBacklog: the kernel answers EAGAIN at once; the client waits.
func TestFullBacklog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for full := false; !full; {
		conn, err := net.Dial("unix", path)
		if full = errors.Is(err, syscall.EAGAIN); !full && err != nil {
			t.Fatal(err)
		}
		if conn != nil {
			defer func() { _ = conn.Close() }()
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := open(t, path).WhoAmI(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"uid":5}`) })}
	time.AfterFunc(20*time.Millisecond, func() { _ = s.Serve(l) })
	defer func() { _ = s.Close() }()
	if who, err := open(t, path).WhoAmI(t.Context()); err != nil || who.UID != 5 {
		t.Fatalf("got %v", err)
	}
}
