package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ListenConfig says where a socket is and whose.
type ListenConfig struct {
	Path string // required, absolute; the directory is made (0755) when it is not there
	UID  int    // owner; -1: as it is
	GID  int    // group; -1: as it is
	Mode os.FileMode
}

// Listen makes a socket that is never there with other rights than its own: it
// is bound in a private directory beside Path, gets owner and mode there, and
// listens, before it is renamed to Path. A socket file that nobody answers is
// replaced; one that somebody answers, and anything that is no socket, is an
// error, and so is a directory that belongs to, or can be written by, others than
// root and us. It never waits for another process. Close removes the file, unless
// it is another one by then; an empty lock file stays.
func Listen(c ListenConfig) (net.Listener, error) {
	l, err := listen(c)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", c.Path, err)
	}
	return l, nil
}

func listen(c ListenConfig) (net.Listener, error) {
	if !filepath.IsAbs(c.Path) || c.Mode&^os.ModePerm != 0 || c.Mode == 0 {
		return nil, errors.New("it needs an absolute path and a mode of permission bits")
	}
	dir := filepath.Dir(c.Path)
	if err := MakeDir(dir); err != nil {
		return nil, err
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := checkPlace(c.Path); err != nil {
		return nil, err
	}
	return bind(c, dir)
}

// MakeDir makes a socket's directory (0755), and what is missing above it, whatever
// the umask is. One that is there stays as it is.
func MakeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := MakeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// lockName is the file in a socket's directory that Listen holds while it works.
// Only its owner can open it, so nobody else can keep Listen from its work.
const lockName = ".tokenvault.lock"

// lockDir keeps two daemons from replacing each other's socket. It never waits:
// a lock that is held is another daemon's.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	if err := checkDir(d, os.Geteuid()); err != nil {
		return nil, err
	}
	const flags = unix.O_RDWR | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Openat(int(d.Fd()), lockName, flags, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir, lockName), Err: err}
	}
	f := os.NewFile(uintptr(fd), lockName)
	if err := lock(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func lock(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&^0o600 != 0 || !trusted(info, os.Geteuid()) {
		return fmt.Errorf("the lock file %s beside it is not a file of mode 0600 of ours: remove it", lockName)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("another daemon makes a socket in that directory just now")
	}
	return os.NewSyscallError("flock", err)
}

// CheckDir refuses a socket's directory in which somebody else could put a socket.
func CheckDir(dir string) error { return CheckDirFor(dir, os.Geteuid()) }

// CheckDirFor is CheckDir for a daemon that runs as uid.
func CheckDirFor(dir string, uid int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return checkDir(d, uid)
}

// checkDir refuses a directory in which somebody else could put a socket. A
// sticky bit keeps them from replacing ours, not from being there first.
func checkDir(d *os.File, uid int) error {
	info, err := d.Stat()
	switch {
	case err != nil:
		return err
	case !trusted(info, uid):
		return fmt.Errorf("%s belongs to another user, who could put a socket there: it must be root's or the daemon's", d.Name())
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others than its owner may write in %s, and could put a socket there: take that right away (chmod go-w)", d.Name())
	}
	return nil
}

// trusted: it belongs to root or to uid.
func trusted(info os.FileInfo, uid int) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == uid)
}

// checkPlace refuses everything but nothing and a socket that nobody answers.
func checkPlace(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("there is something that is no socket: remove it, or choose another path")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return errors.New("somebody answers there already: is another daemon running?")
	}
	return nil
}

func bind(c ListenConfig, dir string) (_ net.Listener, err error) {
	private, err := os.MkdirTemp(dir, ".tv") // 0700
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(private) }()
	tmp := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	if err := give(tmp, c); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, c.Mode); err != nil {
		return nil, err
	}
	info, err := os.Lstat(tmp)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, c.Path); err != nil {
		return nil, err
	}
	return &boundListener{UnixListener: l, path: c.Path, file: info}, nil
}

// give sets owner and group where they are not yet what they should be: in a
// directory with the set-group-ID bit a socket is born with the right group, and a
// service without chown(2) can have it.
func give(path string, c ListenConfig) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && (c.UID < 0 || int(st.Uid) == c.UID) && (c.GID < 0 || int(st.Gid) == c.GID) {
		return nil
	}
	return os.Chown(path, c.UID, c.GID)
}

// boundListener knows the name that its socket was given.
type boundListener struct {
	*net.UnixListener
	path string
	file os.FileInfo
}

func (l *boundListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *boundListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
		_ = os.Remove(l.path)
	}
	return l.UnixListener.Close()
}
