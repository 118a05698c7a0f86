package server_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/server"
)

// group is another group than the test's own where it may give files away.
func group() int {
	if os.Getuid() == 0 {
		return 7
	}
	return os.Getgid()
}

func listenAt(path string) (net.Listener, error) {
	return server.Listen(server.ListenConfig{Path: path, UID: -1, GID: group(), Mode: 0o660})
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "s")
	l, err := listenAt(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o660 || int(info.Sys().(*syscall.Stat_t).Gid) != group() || l.Addr().String() != path {
		t.Fatalf("the socket is not as asked for: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "a", "b", ".tv*")); len(left) != 0 {
		t.Fatal("something is left behind")
	}
	if _, err := listenAt(path); err == nil || !strings.Contains(err.Error(), "somebody answers") {
		t.Fatalf("an answered socket: got %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Fatal("Close leaves the file")
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	l, err := listenAt(path)
	if err != nil {
		t.Fatal(err)
	}
	// Another daemon's socket is not removed by ours.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := listenAt(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	_ = l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("Close removed somebody else's socket")
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file, link, open := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "open")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir, filepath.Join(open, "s"), "relative", filepath.Join(dir, strings.Repeat("x", 200), "s")} {
		if l, err := listenAt(path); err == nil {
			_ = l.Close()
			t.Errorf("listens on a path that it must refuse")
		}
	}
	if _, err := server.Listen(server.ListenConfig{Path: filepath.Join(dir, "s"), UID: -1, GID: -1}); err == nil {
		t.Error("listens without a mode")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("a file was removed")
	}
}

// TestListenIsNotHeldUp: a lock that any local user can take on the directory
// does not matter, and another daemon's is an error at once.
func TestListenIsNotHeldUp(t *testing.T) {
	dir := t.TempDir()
	hold := func(path string) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
	}
	listen := func() error {
		done := make(chan error, 1)
		go func() {
			l, err := listenAt(filepath.Join(dir, "s"))
			if err == nil {
				_ = l.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("Listen hangs")
			return nil
		}
	}
	hold(dir)
	if err := listen(); err != nil {
		t.Fatalf("a lock on the directory: %v", err)
	}
	lock := filepath.Join(dir, ".tokenvault.lock")
	if info, err := os.Lstat(lock); err != nil || info.Mode() != 0o600 {
		t.Fatalf("the lock file is not ours alone: %v", err)
	}
	hold(lock)
	if err := listen(); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Fatalf("another daemon's lock: got %v", err)
	}
}

// TestListenDistrustsItsDirectory: whoever could put a socket there first could
// be taken for the daemon.
func TestListenDistrustsItsDirectory(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"group": 0o770, "all": 0o757, "all, sticky": 0o777 | os.ModeSticky} {
		dir := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := listenAt(filepath.Join(dir, "s")); err == nil || !strings.Contains(err.Error(), "go-w") {
			t.Errorf("writable by %s: got %v", name, err)
		}
	}
	dir := t.TempDir()
	lock := filepath.Join(dir, ".tokenvault.lock")
	for name, make := range map[string]func() error{
		"a symlink":       func() error { return os.Symlink("target", lock) },
		"a fifo":          func() error { return syscall.Mkfifo(lock, 0o600) },
		"open to readers": func() error { return os.WriteFile(lock, nil, 0o644) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if _, err := listenAt(filepath.Join(dir, "s")); err == nil {
			t.Errorf("the lock file is %s: listens all the same", name)
		}
		if err := os.Remove(lock); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "target")); err == nil {
		t.Error("a symlink was followed")
	}
}

// TestListenDistrustsOtherOwners needs a directory of another user.
func TestListenDistrustsOtherOwners(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this test makes a directory of another user, and needs root")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 33, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := listenAt(filepath.Join(dir, "s")); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Fatalf("got %v", err)
	}
}

// TestNoWindow looks at the path all the time: whenever it is there it has its
// final mode.
func TestNoWindow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var stop atomic.Bool
	bad := make(chan os.FileMode, 1)
	go func() {
		for !stop.Load() {
			if info, err := os.Lstat(path); err == nil && info.Mode().Perm() != 0o660 {
				bad <- info.Mode()
				return
			}
		}
		close(bad)
	}()
	for range 200 {
		l, err := listenAt(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
	stop.Store(true)
	if mode, ok := <-bad; ok {
		t.Fatalf("the socket was there with mode %v", mode)
	}
}
