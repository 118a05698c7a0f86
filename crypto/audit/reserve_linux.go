package audit

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives f blocks for size bytes at offset at, and leaves its size alone
// (fallocate(2), FALLOC_FL_KEEP_SIZE).
func allocate(f *os.File, at, size int64) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for range 100 { // signals of Go's scheduler
			if err = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, at, size); err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		return os.ErrClosed
	}
	return os.NewSyscallError("fallocate", err)
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}

// freeSpace is what this process may still use; a file system without a limit, and
// one that does not say, is not known.
func freeSpace(f *os.File) (bytes int64, known bool) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, false
	}
	var st unix.Statfs_t
	cerr := raw.Control(func(fd uintptr) {
		for {
			if err = unix.Fstatfs(int(fd), &st); err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil || err != nil || st.Blocks == 0 || st.Bsize <= 0 {
		return 0, false
	}
	// fstatfs(2): f_bavail, not f_bfree, which counts what is kept for root.
	return int64(min(st.Bavail, math.MaxInt64/2/uint64(st.Bsize))) * st.Bsize, true
}
