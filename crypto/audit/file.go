package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	fileMode  = 0o640
	openFlags = os.O_RDWR | os.O_APPEND | syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
)

// openActive opens the file at path, or creates it, and locks it.
func openActive(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, openFlags, 0)
		if errors.Is(err, fs.ErrNotExist) {
			f, err = create(path)
		}
		if errors.Is(err, fs.ErrExist) {
			continue // made by somebody else between the two
		}
		if err != nil {
			return nil, err
		}
		if err := claim(f, path); err != nil {
			_ = f.Close()
			return nil, err
		}
		return f, nil
	}
}

// create makes a new file. The mode does not depend on the umask.
func create(path string) (*os.File, error) {
	f, err := os.OpenFile(path, openFlags|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(fileMode); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

// claim checks that f is a regular file of ours that others cannot read or
// write, locks it, and checks that it is still the one at path.
func claim(f *os.File, path string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("it is not owned by uid %d", os.Geteuid())
	}
	if st.Mode().Perm()&^fileMode != 0 {
		return fmt.Errorf("its mode is %#o, at most %#o is accepted", st.Mode().Perm(), fileMode)
	}
	if err := lock(f); err != nil {
		return err
	}
	now, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(st, now) {
		return errors.New("it was replaced while it was opened")
	}
	return nil
}

// lock keeps other processes from appending. The kernel drops it with the file.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("it is held by another process")
	}
	return os.NewSyscallError("flock", err)
}

// syncDir makes the names in the directory of path durable.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lastLine returns the last whole line of a closed segment.
func lastLine(f *os.File) (record, error) {
	st, err := f.Stat()
	if err != nil {
		return record{}, err
	}
	n := min(st.Size(), 2*maxLine)
	in := newLines(io.NewSectionReader(f, st.Size()-n, n))
	var r record
	for {
		switch err := in.next(); {
		case err == io.EOF:
			if r.kind == "" {
				return record{}, errFormat
			}
			return r, nil
		case err != nil:
			return record{}, err
		}
		r, err = parseLine(in.line) // the first one may be cut
		r.body = nil
		if err != nil {
			r = record{}
		}
	}
}
