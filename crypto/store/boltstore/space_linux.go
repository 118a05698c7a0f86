package boltstore

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate makes the disk blocks of a range the file's own, and the file at least
// as long. What is there already is not touched. errors.ErrUnsupported when the
// file system cannot (fallocate(2)).
func allocate(file *os.File, from, n int64) error {
	for {
		err := unix.Fallocate(int(file.Fd()), 0, from, n)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return errors.ErrUnsupported
		}
		return os.NewSyscallError("fallocate", err)
	}
}

// roomOf is how many bytes of the file system an unprivileged process may still
// use. errors.ErrUnsupported when the file system does not say.
func roomOf(file *os.File) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &s); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	if s.Blocks == 0 { // statfs(2): some do not count
		return 0, errors.ErrUnsupported
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// allocated is how many bytes of disk are the file's own.
func allocated(file *os.File) (int64, error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &s); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return s.Blocks * 512, nil // stat(2): in units of 512 bytes
}
