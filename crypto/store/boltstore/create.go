package boltstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"go.etcd.io/bbolt"
)

// create makes an empty store at a path where there is nothing. It is made beside
// it and linked there when it is complete: what stands at the path was a store
// once, so that a file that is empty or half there was damaged, not begun. Making
// it can be cut short anywhere; the next attempt begins anew.
func create(path string) (err error) {
	beside := path + ".new"
	var file *os.File
	b, err := openBolt(beside, &bbolt.Options{OpenFile: func(path string, _ int, mode os.FileMode) (*os.File, error) {
		file, err = openBeside(path, mode)
		return file, err
	}})
	if err != nil {
		return fmt.Errorf("make %s: %w", beside, err)
	}
	err = b.Update(layOut)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = place(beside, path)
	}
	if err2 := os.Remove(beside); !errors.Is(err2, fs.ErrNotExist) { // it was not only renamed
		err = errors.Join(err, err2)
	}
	err = errors.Join(err, b.Close())
	if err != nil {
		return fmt.Errorf("make %s: %w", beside, err)
	}
	return syncFolder(filepath.Dir(path))
}

// openBeside makes a new file, unless another process is making it. What is left
// of an attempt that was cut short is only unlinked, never written to: it may be
// another name of the store.
func openBeside(path string, mode os.FileMode) (*os.File, error) {
	if old, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0); err == nil {
		err = lock(old, path, false)
		if err == nil {
			err = os.Remove(path)
		}
		if err = errors.Join(err, old.Close()); err != nil {
			return nil, err
		}
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil, ErrHeld
	} else if err != nil {
		return nil, err
	}
	if err := lock(file, path, false); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// lock takes the lock that bbolt takes, too, and does not wait for it.
func lock(file *os.File, path string, shared bool) error {
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || err == nil && !standsAt(file, path) {
		return ErrHeld
	}
	return err
}

// standsAt reports whether path still leads to file.
func standsAt(file *os.File, path string) bool {
	mine, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}

// place gives a file its name, unless there is something of that name.
func place(beside, path string) error {
	err := os.Link(beside, path)
	switch {
	case err == nil || errors.Is(err, fs.ErrExist): // somebody else made it meanwhile
		return nil
	case errors.Is(err, syscall.EPERM), errors.Is(err, errors.ErrUnsupported): // no links there
		return os.Rename(beside, path)
	}
	return err
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// layOut makes the buckets of a new file.
func layOut(tx *bbolt.Tx) error {
	for _, name := range tableBucket {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	meta, err := tx.CreateBucket(metaBucket)
	if err != nil {
		return err
	}
	return meta.Put(formatKey, []byte{formatVersion})
}
