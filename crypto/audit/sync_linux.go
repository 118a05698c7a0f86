package audit

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData is fdatasync(2), which also writes the size of a file that has grown.
func syncData(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for {
			if err = unix.Fdatasync(int(fd)); err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		return os.ErrClosed // the only reason for which Control fails
	}
	return os.NewSyscallError("fdatasync", err)
}
