package restart

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// region is an area of memory behind a descriptor, mapped shared.
type region struct {
	file   *os.File
	bytes  []byte
	secret bool // memfd_secret: not even root reads it from outside
}

func (r *region) slots() [2][]byte {
	half := len(r.bytes) / 2
	return [2][]byte{r.bytes[:half:half], r.bytes[half:]}
}

// close lets go of the mapping and the descriptor; the memory lives as long as
// another descriptor of it.
func (r *region) close() {
	_ = unix.Munmap(r.bytes)
	r.bytes = nil
	_ = r.file.Close()
}

// memfdSecret is memfd_secret's number on every architecture that has it
// (include/uapi/asm-generic/unistd.h).
const memfdSecret = 447

// create makes a region of so many bytes, a multiple of the page size.
func create(size int, unsafe bool) (*region, error) {
	f, err := secretFile(size)
	secret := err == nil
	if unsafe && errors.Is(err, errNoSecret) {
		f, err = plainFile(size)
	}
	if err != nil {
		return nil, err
	}
	return mapped(f, size, secret)
}

// errNoSecret is returned where the kernel has no memfd_secret, or a filter hides it.
var errNoSecret = errors.New("this kernel has no memfd_secret(2) (below Linux 6.5 it needs secretmem.enable=1), or the unit's SystemCallFilter= does not name it")

func secretFile(size int) (*os.File, error) {
	fd, _, errno := unix.Syscall(memfdSecret, unix.O_CLOEXEC, 0, 0)
	switch errno {
	case 0:
	case unix.ENOSYS, unix.EPERM:
		return nil, fmt.Errorf("%w: %w", errNoSecret, errno)
	default:
		return nil, fmt.Errorf("memfd_secret: %w", errno)
	}
	f := os.NewFile(fd, Name)
	if err := f.Truncate(int64(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("size the restart memory: %w", err), f.Close())
	}
	return f, nil
}

// plainSeals keep others from taking pages away under us.
const plainSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// plainFile is memory that root can read, and that can be swapped.
func plainFile(size int) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(Name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // below Linux 6.3
		fd, err = unix.MemfdCreate(Name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), Name)
	err = f.Truncate(int64(size))
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, plainSeals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("size the restart memory: %w", err), f.Close())
	}
	return f, nil
}

// mapped maps f, and closes it when it cannot.
func mapped(f *os.File, size int, secret bool) (*region, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		if errors.Is(err, unix.EAGAIN) {
			err = fmt.Errorf("%w (LimitMEMLOCK= is too small)", err)
		}
		return nil, errors.Join(fmt.Errorf("map the restart memory: %w", err), f.Close())
	}
	// memfd_secret needs none of these; other memory is better with them.
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)
	_ = unix.Madvise(b, unix.MADV_DONTFORK)
	_ = unix.Mlock(b)
	return &region{file: f, bytes: b, secret: secret}, nil
}

// adopt maps an inherited descriptor that is what create makes, by what the kernel
// says of it. On an error f is still the caller's.
func adopt(f *os.File) (*region, error) {
	size, secret, err := inspect(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("inherit restart memory: %w", err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("inherit restart memory: %w", err)
	}
	r, err := mapped(os.NewFile(uintptr(fd), Name), size, secret)
	if err != nil {
		return nil, err
	}
	_ = f.Close() // r has a copy of its own
	return r, nil
}

func inspect(fd int) (size int, secret bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, false, err
	}
	switch page := int64(os.Getpagesize()); {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, false, errors.New("it is no memory")
	case int(st.Uid) != os.Geteuid():
		return 0, false, fmt.Errorf("it belongs to uid %d, not to %d", st.Uid, os.Geteuid())
	case st.Size < 2*page || st.Size > maxSize || st.Size%(2*page) != 0:
		return 0, false, fmt.Errorf("it has %d bytes", st.Size)
	}
	secret, err = kind(fd)
	return int(st.Size), secret, err
}

// kind refuses what is neither memfd_secret nor a sealed memfd.
func kind(fd int) (secret bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return false, err
	}
	switch fs.Type {
	case unix.SECRETMEM_MAGIC:
		return true, nil
	case unix.TMPFS_MAGIC:
	default:
		return false, errors.New("it is no memory")
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&plainSeals != plainSeals {
		return false, errors.New("its size is not sealed")
	}
	return false, nil
}

// systemBoot is Config.Boot's default.
func systemBoot() (id string, since time.Duration) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0
	}
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return "", 0
	}
	return strings.TrimSpace(string(b)), time.Duration(t.Nano())
}
