package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	osuser "os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/tokenvault/tokenvault/unix/server"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func init() { children["work"] = work }

// TestWork: what the daemon does works inside, as root and as a user, with all of
// Landlock and with what Debian 12 has of it.
func TestWork(t *testing.T) {
	for _, c := range []struct {
		name   string
		abi    int
		asUser bool
	}{{"root", 0, false}, {"a user", 0, true}, {"root, Linux 6.1", 2, false}, {"a user, Linux 6.1", 2, true}} {
		t.Run(c.name, func(t *testing.T) {
			o := battlefield(t)
			o.Child, o.ABI = "work", c.abi
			o.Profile.Resolve, o.Profile.Chown, o.Profile.MemfdSecret = true, true, true
			o.Args["dns"] = nameServer(t)
			if c.asUser && os.Geteuid() == 0 { // its directories are its own, as systemd makes them
				for _, dir := range []string{"read", "write"} {
					if err := os.Chown(o.Args[dir], user, user); err != nil {
						t.Fatal(err)
					}
				}
			}
			r := run(t, o, c.asUser)
			if r.Error != "" || len(r.Got) != len(jobs) {
				t.Fatalf("the sandbox is not entered: %s (%d of %d jobs)", r.Error, len(r.Got), len(jobs))
			}
			for name, got := range r.Got {
				if got != "" {
					t.Errorf("%s: %s", name, got)
				}
			}
		})
	}
}

func work(o order) report {
	Harden()
	notify := filepath.Join(o.Args["write"], "notify")
	if err := os.Setenv("NOTIFY_SOCKET", notify); err != nil {
		return report{Error: err.Error()}
	}
	parts, err := enterAs(o)
	r := report{Parts: parts, Error: text(err), Got: map[string]string{}}
	if err != nil {
		return r
	}
	for name, job := range jobs {
		r.Got[name] = text(job(o.Args))
	}
	return r
}

var jobs = map[string]func(a args) error{
	"read a file of the profile":   func(a args) error { return read(a.in("read", "file")) },
	"read one put in its place":    replaceAndRead,
	"read the accounts":            func(args) error { return errors.Join(read("/etc/passwd"), read("/etc/group")) },
	"look up an account":           func(args) error { _, err := osuser.LookupGroupId("0"); return err },
	"read the system's roots":      roots,
	"look up a name in DNS":        lookup,
	"look up a name in the file":   func(args) error { _, err := net.LookupHost("localhost"); return err },
	"dial an allowed port":         func(a args) error { return connect("tcp", "127.0.0.1:"+a["allowed"]) },
	"reach for DNS over TCP":       dnsOverTCP,
	"read a caller's /proc":        caller,
	"load a time zone":             func(args) error { _, err := time.LoadLocation("Europe/Berlin"); return err },
	"keep a store":                 keepStore,
	"rotate a log":                 rotate,
	"lock and allocate":            lockAndAllocate,
	"listen on a Unix socket":      listenUnix,
	"tell the service manager":     notify,
	"hold memory that nobody sees": hidden,
	"start many threads":           threads,
	"signal itself":                func(args) error { return unix.Kill(os.Getpid(), 0) },
	"ask whether a caller lives":   pidfd,
	"ask for the free space":       func(a args) error { var st unix.Statfs_t; return unix.Statfs(a["write"], &st) },
	"make a nonce":                 func(args) error { _, err := rand.Read(make([]byte, 24)); return err },
	"know the host's name":         func(args) error { _, err := os.Hostname(); return err },
}

// replaceAndRead is what an operator's editor does, from inside for once: the write
// directory holds the new file, and both hang below the profile's directories.
func replaceAndRead(a args) error {
	path := a.in("write", "replaced")
	for _, text := range []string{"first", "second"} {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			return fmt.Errorf("read %q, %w", got, err)
		}
	}
	return nil
}

func roots(args) error {
	entries, err := os.ReadDir("/etc/ssl/certs")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := read(filepath.Join("/etc/ssl/certs", e.Name())); err != nil && !errors.Is(err, unix.EISDIR) {
			return err
		}
	}
	return nil
}

// lookup asks our name server in place of the system's, with the same code.
func lookup(a args) error {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", a["dns"])
	}}
	addrs, err := r.LookupHost(context.Background(), "vault.example.test.")
	if err == nil && (len(addrs) != 1 || addrs[0] != "192.0.2.7") {
		err = fmt.Errorf("got %v", addrs)
	}
	return err
}

// dnsOverTCP: nobody listens there, which the kernel says only to whom it lets.
func dnsOverTCP(args) error {
	if err := dial(53, unix.AF_INET, 0); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return nil
}

func connect(network, address string) error {
	c, err := net.Dial(network, address)
	if err == nil {
		err = c.Close()
	}
	return err
}

func caller(a args) error {
	for _, name := range []string{"status", "cgroup", "stat"} {
		if err := read("/proc/" + a["parent"] + "/" + name); err != nil {
			return err
		}
	}
	return read("/proc/sys/kernel/random/boot_id")
}

func keepStore(a args) error {
	db, err := bbolt.Open(a.in("write", "store.db"), 0o600, &bbolt.Options{InitialMmapSize: 1 << 24})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("rows"))
		for i := range 2000 {
			if err == nil {
				err = b.Put([]byte(strconv.Itoa(i)), make([]byte, 1000))
			}
		}
		return err
	})
	return errors.Join(err, db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(a.in("write", "copy.db"), 0o600) }), db.Close())
}

func rotate(a args) error {
	path := a.in("write", "log")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString("line\n")
	return errors.Join(err, unix.Fdatasync(int(f.Fd())), f.Truncate(3), f.Close(),
		os.Link(path, path+".1"), os.Remove(path), os.Chmod(path+".1", 0o400))
}

func lockAndAllocate(a args) error {
	f, err := os.OpenFile(a.in("write", "reserve"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	fd := int(f.Fd())
	return errors.Join(unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1<<16), f.Sync(), f.Close())
}

// listenUnix binds the way the daemon does: a private directory, owner, mode, rename.
func listenUnix(a args) error {
	dir := a.in("write", "sockets")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, "api.sock")
	l, err := server.Listen(server.ListenConfig{Path: path, UID: -1, GID: os.Getegid(), Mode: 0o660})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write([]byte("x"))
			err = errors.Join(err, c.Close())
		}
		served <- err
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != "x" {
		err = fmt.Errorf("read %q", got)
	}
	return errors.Join(err, <-served, c.Close(), l.Close())
}

func notify(args) error {
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return err
	}
	sent, err := daemon.SdNotify(false, daemon.SdNotifyReady)
	if err == nil && !sent {
		err = errors.New("nothing was sent")
	}
	return errors.Join(err, l.Close())
}

func hidden(args) error {
	fd, _, errno := unix.Syscall(unix.SYS_MEMFD_SECRET, unix.O_CLOEXEC, 0, 0)
	if errno == unix.ENOSYS { // the kernel has it switched off, which is no refusal
		return nil
	}
	if errno != 0 {
		return errno
	}
	if err := unix.Ftruncate(int(fd), 4096); err != nil {
		return err
	}
	b, err := unix.Mmap(int(fd), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return errors.Join(unix.Madvise(b, unix.MADV_DONTDUMP), unix.Mprotect(b, unix.PROT_NONE), unix.Munmap(b), unix.Close(int(fd)))
}

// threads keeps many at work, which makes the runtime start new ones and preempt them.
func threads(args) error {
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			runtime.LockOSThread() // and is thrown away at the end
			for range 1000 {
				runtime.Gosched()
			}
		})
	}
	runtime.GC()
	all.Wait()
	return nil
}

func pidfd(a args) error {
	fd, err := unix.PidfdOpen(args(a).port("parent"), 0)
	if err != nil {
		return err
	}
	if err = unix.PidfdSendSignal(fd, 0, nil, 0); errors.Is(err, unix.EPERM) {
		err = nil // of another user, and alive
	}
	return errors.Join(err, unix.Close(fd))
}
