package cli

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew renames and replaces nothing. File systems that do not know
// RENAME_NOREPLACE say EINVAL (rename(2)).
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return linkNew(from, to)
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}
