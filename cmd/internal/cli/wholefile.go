package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// errExists is returned for a file that is there already.
var errExists = errors.New("it exists already, and is never overwritten")

// wholeFile is a file that appears when it is whole and on the disk, or never.
// Meanwhile it has ".partial" behind its name.
type wholeFile struct {
	path string
	f    *os.File
	done bool
}

// createWhole refuses a path that exists: what is there may be the only good
// backup.
func createWhole(path string) (*wholeFile, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = errExists
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.OpenFile(path+".partial", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, advise(fmt.Errorf("%s.partial: it exists already", path),
			"another backup is writing it, or one was killed: remove it in that case")
	}
	if err != nil {
		return nil, err
	}
	return &wholeFile{path: path, f: f}, nil
}

func (w *wholeFile) Write(b []byte) (int, error) { return w.f.Write(b) }

// publish returns when the file is there under its name and survives a power
// loss.
func (w *wholeFile) publish() error {
	if err := w.f.Sync(); err != nil {
		return err
	}
	if err := w.f.Close(); err != nil {
		return err
	}
	if err := renameNew(w.f.Name(), w.path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = errExists
		}
		return fmt.Errorf("%s: %w", w.path, err)
	}
	w.done = true
	dir, err := os.Open(filepath.Dir(w.path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}

// abandon removes what is not whole.
func (w *wholeFile) abandon() {
	if w.done {
		return
	}
	_ = w.f.Close() // twice is an error that says nothing
	_ = os.Remove(w.f.Name())
}

// linkNew is a rename that replaces nothing, in two steps: link(2) fails when the
// name is taken.
func linkNew(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}
