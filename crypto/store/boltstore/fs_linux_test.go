package boltstore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/storetest"
)

// mounted is a small real file system of its own, until the test ends.
func mounted(t testing.TB, kind string, size int64) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems, and needs root")
	}
	dir = t.TempDir()
	switch kind {
	case "tmpfs", "ramfs":
		if err := unix.Mount(kind, dir, kind, 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Fatalf("mount %s: %v", kind, err)
		}
	default:
		image := filepath.Join(t.TempDir(), "disk.img")
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
			t.Fatal(err)
		}
		run(t, "mkfs."+kind, "-q", "-F", "-m", "0", image)
		run(t, "mount", "-t", kind, "-o", "loop", image, dir)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return strings.TrimSpace(string(out))
}

// fillDisk takes all that is free beside the store.
func fillDisk(t testing.TB, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "ballast"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		n, err := f.Write(make([]byte, size))
		if n < size {
			size /= 2
		}
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func freeDisk(t testing.TB, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
}

func openOn(t testing.TB, dir string, reserve int64) *DB {
	t.Helper()
	db, err := Open(t.Context(), Config{Path: filepath.Join(dir, "store.db"), Reserve: reserve})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestFullDisk runs the suite for full disks where disk can be allocated ahead.
func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			storetest.RunFull(t, func(t *testing.T) storetest.Disk {
				dir := mounted(t, kind, 32<<20)
				return storetest.Disk{
					Open: func() store.Driver { return openOn(t, dir, 4<<20) },
					Fill: func() { fillDisk(t, dir) },
					Free: func() { freeDisk(t, dir) },
				}
			})
		})
	}
}
