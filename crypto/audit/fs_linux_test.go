package audit

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// needsRoot is for tests that mount file systems of their own.
func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this test mounts small file systems, and needs root")
	}
}

// tmpfs mounts a file system of that many KiB.
func tmpfs(t testing.TB, kib string) string {
	t.Helper()
	needsRoot(t)
	return mounted(t, "tmpfs", "tmpfs", "size="+kib+"k")
}

// image mounts an ext4 file system of that size, made with more arguments of mkfs.
func image(t testing.TB, size int64, args ...string) string {
	t.Helper()
	needsRoot(t)
	file := filepath.Join(t.TempDir(), "image")
	write(t, file, nil)
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", append([]string{"-q", "-F", "-m", "0", file}, args...)...)
	device := strings.TrimSpace(command(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() { command(t, "losetup", "-d", device) })
	return mounted(t, device, "ext4", "")
}

func mounted(t testing.TB, source, kind, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(source, dir, kind, 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

// fill takes all the room there is under dir, and returns what gives it back. left
// is how many bytes it leaves.
func fill(t testing.TB, dir string, left int64) (release func()) {
	t.Helper()
	path := filepath.Join(dir, "fill")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := 1 << 20; chunk > 0; {
		if _, err = f.Write(make([]byte, chunk)); err != nil {
			chunk /= 2
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err == nil {
		err = errors.Join(f.Truncate(max(0, st.Size()-left)), f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// retryNow is as if a second had passed.
func retryNow(l *Log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserve.tried = l.reserve.tried.Add(-retryDelay)
}

// wantFull checks that err says no more than that there is no room.
func wantFull(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrBroken) {
		t.Fatalf("not an error of a full disk: %v", err)
	}
}

// wantBroken checks that the process is told to end.
func wantBroken(t testing.TB, l *Log) {
	t.Helper()
	select {
	case <-l.Broken():
	default:
		t.Fatal("Broken is not closed")
	}
}

// writeUntilFull returns how many lookups there was room for. Afterwards there is
// none for the shortest line either.
func writeUntilFull(t testing.TB, l *Log) int {
	t.Helper()
	n := until(t, l, lookup("0123456789abcdef"))
	until(t, l, Event{Kind: Note})
	return n
}

func until(t testing.TB, l *Log, e Event) int {
	t.Helper()
	for n := 0; ; n++ {
		if err := l.Write(e); err != nil {
			wantFull(t, err)
			if !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			return n
		}
	}
}

// reserved opens a log with a reserve.
func reserved(t testing.TB, dir string, reserve int64) (*Log, Config) {
	t.Helper()
	c := testConfig(filepath.Join(dir, "audit.log"))
	c.Reserve, c.Now = reserve, nil
	return mustOpen(t, c), c
}
