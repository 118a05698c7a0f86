package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkPlaces refuses a store or an audit log that others could take away, put
// back from an earlier day, or read. What is not there yet is no concern of it.
func (d *daemon) checkPlaces() error {
	for _, path := range []string{d.cfg.Store.Path, d.cfg.Audit.Path} {
		if err := ours(filepath.Dir(path), 0o022, "chmod go-w"); err != nil {
			return err
		}
	}
	if info, err := os.Lstat(d.cfg.Store.Path); err != nil || !info.Mode().IsRegular() {
		return nil // opening it says what it is
	}
	return ours(d.cfg.Store.Path, 0o077, "chmod 600")
}

// ours: it belongs to root or to us, and none of these bits is set. A sticky
// directory is no exception: who is first there decides what is found.
func ours(path string, forbidden os.FileMode, mend string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("see who may change %s: %w", path, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user, who could replace what is there: chown it to the user that the daemon runs as", path)
	case info.Mode().Perm()&forbidden != 0:
		return fmt.Errorf("%s has mode %04o, and is open to others than its owner: %s %s", path, info.Mode().Perm(), mend, path)
	}
	return nil
}
