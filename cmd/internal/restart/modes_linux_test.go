package restart

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestConfig(t *testing.T) {
	k := newKeeper(t)
	for name, c := range map[string]Config{
		"no instance": {Keep: k.Keep, Drop: k.Drop},
		"mode":        {Instance: "main", Mode: "require"},
		"half":        {Instance: "main", Keep: k.Keep},
	} {
		if a, err := Open(c); err == nil {
			a.Close()
			t.Errorf("%s: opened", name)
		}
	}
}

// isOff expects an area that says why it is off, and does nothing without an error.
func isOff(t *testing.T, a *Area, why string) {
	t.Helper()
	if !strings.Contains(a.Off(), why) || a.Off() == "" {
		t.Errorf("off because %q, not %q", a.Off(), why)
	}
	if err := a.Save(Contents{}); err != nil {
		t.Error(err)
	}
	a.Wipe()
	if _, ok := a.Load(); ok || a.Missing() == "" {
		t.Error("it holds something, or does not say why not")
	}
}

func TestOff(t *testing.T) {
	m, k := newMachine(), newKeeper(t)
	isOff(t, start(t, m, k, func(c *Config) { c.Mode = Off }), "switched off")
	isOff(t, start(t, m, k, func(c *Config) { c.Keep, c.Drop = nil, nil }), "no service manager")
	k.fail = errors.New("marker-refusal")
	isOff(t, start(t, m, k), "marker-refusal")
	k.fail, m.boot = nil, ""
	isOff(t, start(t, m, k), "which boot")
	if k.kept != 0 {
		t.Errorf("kept %d times", k.kept)
	}
}

// TestSwitchedOffLater: what was kept before is wiped and dropped.
func TestSwitchedOffLater(t *testing.T) {
	m, k := newMachine(), newKeeper(t)
	a := start(t, m, k)
	save(t, a, sample(m, 1, 1))
	isOff(t, start(t, m, k, func(c *Config) { c.Mode = Off }), "switched off")
	if k.back() != nil || !zero(a.region.bytes) {
		t.Error("it is still kept, or not wiped")
	}
}

// without runs f on a thread for which the kernel has no memfd_secret.
func without(t *testing.T, errno unix.Errno, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its filter
		err := filter(errno)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// filter has memfd_secret fail on this thread (seccomp(2)).
func filter(errno unix.Errno) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: memfdSecret},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p)))
	if e != 0 {
		return e
	}
	return nil
}

func TestKernelWithoutIt(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		m, k := newMachine(), newKeeper(t)
		without(t, errno, func() {
			isOff(t, start(t, m, k), "no memfd_secret(2)")
			a := start(t, m, k, func(c *Config) { c.Mode = UnsafeMemfd })
			save(t, a, sample(m, 1, 1))
			if a.region.secret {
				t.Error("it counts as memfd_secret")
			}
		})
		finds(t, start(t, m, k, func(c *Config) { c.Mode = UnsafeMemfd }), sample(m, 1, 1))
		plain := k.back()
		a := start(t, m, k) // auto: what root could read is wiped and not gone on with
		lost(t, a, "not to be used")
		if !a.region.secret || a.Off() != "" {
			t.Errorf("no new area: %s", a.Off())
		}
		if r, err := adopt(plain); err != nil || !zero(r.bytes) {
			t.Errorf("the old one was not wiped: %v", err)
		} else {
			r.close()
		}
	}
	m, k := newMachine(), newKeeper(t)
	without(t, unix.EMFILE, func() {
		isOff(t, start(t, m, k, func(c *Config) { c.Mode = UnsafeMemfd }), "memfd_secret: too many open files")
	})
}

// TestUnsafePrefersSecret: where there is memfd_secret it is taken all the same.
func TestUnsafePrefersSecret(t *testing.T) {
	if a := start(t, newMachine(), newKeeper(t), func(c *Config) { c.Mode = UnsafeMemfd }); !a.region.secret {
		t.Error("it is plain memory")
	}
}

func sized(t *testing.T, f *os.File, err error, size int64) *os.File {
	t.Helper()
	if err == nil && size != 0 {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func memfd(t *testing.T, flags int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("marker", flags|unix.MFD_CLOEXEC)
	return sized(t, os.NewFile(uintptr(fd), "marker"), err, firstSize)
}

// TestInheritedThatIsNone: whatever else the name is given to is refused, and the
// daemon starts with a new area.
func TestInheritedThatIsNone(t *testing.T) {
	page := int64(os.Getpagesize())
	secretOf := func(size int64) *os.File {
		f, err := secretFile(int(size))
		return sized(t, f, err, 0)
	}
	disk, err := os.Create(filepath.Join(t.TempDir(), "file"))
	disk = sized(t, disk, err, firstSize)
	foreign, err := secretFile(firstSize)
	foreign = sized(t, foreign, err, 0)
	if err := foreign.Chown(os.Getuid()+1, -1); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	socket, err := listener.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*os.File{
		"a file":            disk,
		"a socket":          socket,
		"a device":          readOnly,
		"unsealed memory":   memfd(t, unix.MFD_ALLOW_SEALING),
		"unsealable memory": memfd(t, 0),
		"somebody else's":   foreign,
		"one page":          secretOf(page),
		"odd pages":         secretOf(3 * page),
		"too large":         secretOf(2 * maxSize),
		"closed":            func() *os.File { f := memfd(t, 0); _ = f.Close(); return f }(),
	} {
		m, k := newMachine(), newKeeper(t)
		a := start(t, m, k, func(c *Config) { c.Mode, c.Inherited = UnsafeMemfd, f })
		if a.Off() != "" || k.kept != 1 || a.Missing() == "" {
			t.Errorf("%s: off %q, kept %d times", name, a.Off(), k.kept)
		}
		if _, err := f.Stat(); err == nil {
			t.Errorf("%s: it is still open", name)
		}
		a.Close()
	}
}
