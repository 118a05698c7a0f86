// Package boltstore keeps a store in one bbolt file.
//
// It trusts the file system to keep what fdatasync returned for, and flock to
// keep other processes out. It does not trust the file's content: what bbolt
// cannot make sense of becomes an error, not the end of the process, and the
// rows themselves are the business of package store, which seals them.
//
// It never waits to fill a batch: one goroutine writes, and takes along whatever
// has queued up since its last commit. A commit is two fdatasyncs (pages, then
// meta), shared by all batches in it.
//
// The file has one bucket a table and "meta":
//
//	table   32-byte key → revision (uint64, big-endian) ‖ value
//	meta    "format" → 0x01
//	        "keyring" → version (uint64, big-endian) ‖ blob
//	        "arrival" → last arrival number given (uint64, big-endian)
//
// BUG: bbolt leaves deleted rows in free pages of the file until they are used
// again; they are sealed like all others. A file that was cut short, or whose
// pages were altered, can make bbolt loop.
package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// Config says what to open.
type Config struct {
	// Path of the file; required. It is made with mode 0600 when it is not there;
	// its folder must exist.
	Path string
	// ReadOnly opens an existing file without writing to it: Apply and
	// SwapKeyring fail. Not possible while a daemon holds the file.
	ReadOnly bool
	// Reserve is how many bytes of disk stay allocated to the file beyond what it
	// uses, so that commits of what was received already go on when the disk is
	// full; 0: none.
	Reserve int64
	Now     func() time.Time // nil: time.Now; for durations in the log only
	Logger  *slog.Logger     // nil: discard
}

// DB is an open store. It is a store.Driver.
type DB struct {
	bolt   *bbolt.DB
	path   string
	now    func() time.Time
	logger *slog.Logger

	commits atomic.Uint64

	mu     sync.Mutex
	queue  []*request    // under mu
	closed bool          // under mu; no request is queued afterwards
	broken error         // under mu; why no write is taken any more
	wedged bool          // under mu; bbolt panicked in a write
	wake   chan struct{} // one token: the queue is not empty, or closed is set
	done   chan struct{} // closed when the writer has ended
	failed chan struct{} // closed when broken is set
}

var (
	// ErrHeld is returned by Open when another process, or another DB of this
	// one, has the file open.
	ErrHeld = errors.New("is held by another process")
	// ErrDamaged is matched when bbolt could not make sense of the file.
	ErrDamaged = errors.New("the file is damaged")

	errClosed   = errors.New("the store's file is closed")
	errReadOnly = errors.New("the store's file was opened for reading only")
)

const formatVersion = 0x01

var (
	metaBucket  = []byte("meta")
	formatKey   = []byte("format")
	keyringKey  = []byte("keyring")
	arrivalKey  = []byte("arrival")
	tableBucket = func() (names [][]byte) {
		for _, t := range store.Tables {
			names = append(names, []byte(t.String()))
		}
		return names
	}()
)

// Open opens or creates the file. ErrHeld when another process has it open.
func Open(ctx context.Context, c Config) (*DB, error) { return open(ctx, c, nil) }

// open lets tests change what bbolt is opened with.
func open(ctx context.Context, c Config, tweak func(*bbolt.Options)) (*DB, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", c.Path, err)
	}
	b, err := openFile(c, tweak)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", c.Path, err)
	}
	db := &DB{
		bolt: b, path: c.Path, now: c.Now, logger: c.Logger,
		wake: make(chan struct{}, 1), done: make(chan struct{}), failed: make(chan struct{}),
	}
	if err := db.prepare(c.ReadOnly); err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("open store %s: %w", c.Path, err)
	}
	if c.ReadOnly {
		db.broken = errReadOnly
	}
	go db.write()
	return db, nil
}

// openFile leaves nothing open when it fails, not even when bbolt panics over a
// damaged file.
func openFile(c Config, tweak func(*bbolt.Options)) (b *bbolt.DB, err error) {
	created, err := fit(c)
	if err != nil {
		return nil, err
	}
	var file *os.File
	options := &bbolt.Options{
		ReadOnly:     c.ReadOnly,
		Timeout:      time.Nanosecond, // one try: whoever holds it holds it for long
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
		OpenFile: func(path string, flag int, mode os.FileMode) (_ *os.File, err error) {
			file, err = os.OpenFile(path, flag, mode)
			return file, err
		},
	}
	if tweak != nil {
		tweak(options)
	}
	err = guard(func() (err error) {
		b, err = bbolt.Open(c.Path, 0o600, options)
		return err
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrHeld
	case errors.Is(err, ErrDamaged) && file != nil:
		return nil, errors.Join(err, file.Close())
	case err != nil:
		return nil, err
	}
	if created {
		err = syncFolder(filepath.Dir(c.Path))
	}
	if err == nil && !c.ReadOnly {
		err = os.Chmod(c.Path, 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// fit reports whether the file is still to be made, and refuses what is no
// regular file.
func fit(c Config) (create bool, err error) {
	if c.Path == "" {
		return false, errors.New("no path given")
	}
	info, err := os.Lstat(c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !c.ReadOnly:
		return true, nil
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, errors.New("not a regular file")
	}
	return false, nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// prepare makes the buckets of a new file, and checks those of another.
func (db *DB) prepare(readOnly bool) error {
	fresh := false
	err := db.view(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if fresh = meta == nil && empty(tx); fresh {
			return nil
		}
		if meta == nil {
			return errors.New("not a tokenvault store")
		}
		if f := meta.Get(formatKey); len(f) != 1 || f[0] != formatVersion {
			return fmt.Errorf("format %x is not one that this version knows", f)
		}
		for _, name := range tableBucket {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: table %s is missing", ErrDamaged, name)
			}
		}
		return nil
	})
	switch {
	case err != nil || !fresh:
		return err
	case readOnly:
		return errors.New("the store is empty")
	}
	return db.bolt.Update(func(tx *bbolt.Tx) error {
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
	})
}

func empty(tx *bbolt.Tx) bool {
	k, _ := tx.Cursor().First()
	return k == nil
}

// guard turns a panic, and a fault at an address outside the file, into
// ErrDamaged: bbolt asserts what it reads, and the file may have been altered.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return f()
}

func (db *DB) view(f func(*bbolt.Tx) error) error {
	return guard(func() error { return db.bolt.View(f) })
}

// Get implements store.Driver.
func (db *DB) Get(ctx context.Context, t store.Table, key [32]byte) (row store.Row, found bool, err error) {
	if err := ctx.Err(); err != nil {
		return row, false, err
	}
	name, err := bucketOf(t)
	if err != nil {
		return row, false, err
	}
	err = db.view(func(tx *bbolt.Tx) (err error) {
		v := tx.Bucket(name).Get(key[:])
		if found = v != nil; found {
			row, err = rowOf(key[:], v)
		}
		return err
	})
	return row, found, err
}

// Scan implements store.Driver.
func (db *DB) Scan(ctx context.Context, t store.Table, after *[32]byte, limit int) (rows []store.Row, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name, err := bucketOf(t)
	if err != nil {
		return nil, err
	}
	err = db.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(name).Cursor()
		var k, v []byte
		if after == nil {
			k, v = c.First()
		} else if k, v = c.Seek(after[:]); k != nil && string(k) == string(after[:]) {
			k, v = c.Next()
		}
		for ; k != nil && len(rows) < limit; k, v = c.Next() {
			row, err := rowOf(k, v)
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
		return nil
	})
	return rows, err
}

// LoadKeyring implements keyring.Blob.
func (db *DB) LoadKeyring(ctx context.Context) (blob []byte, version uint64, err error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	err = db.view(func(tx *bbolt.Tx) (err error) {
		blob, version, err = keyringOf(tx)
		blob = append([]byte(nil), blob...)
		return err
	})
	return blob, version, err
}

// keyringOf returns what is valid as long as tx is.
func keyringOf(tx *bbolt.Tx) (blob []byte, version uint64, err error) {
	v := tx.Bucket(metaBucket).Get(keyringKey)
	if v == nil {
		return nil, 0, nil
	}
	if len(v) < 8 {
		return nil, 0, fmt.Errorf("%w: keyring", ErrDamaged)
	}
	return v[8:], binary.BigEndian.Uint64(v), nil
}

// Size implements store.Driver: the length of the file.
func (db *DB) Size() (int64, error) {
	info, err := os.Stat(db.path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func bucketOf(t store.Table) ([]byte, error) {
	if int(t) >= len(tableBucket) {
		return nil, fmt.Errorf("there is no table %d", t)
	}
	return tableBucket[t], nil
}

// rowOf copies a row out of the file's memory.
func rowOf(k, v []byte) (store.Row, error) {
	if len(k) != 32 || len(v) < 8 {
		return store.Row{}, fmt.Errorf("%w: a row of %d and %d bytes", ErrDamaged, len(k), len(v))
	}
	return store.Row{Key: [32]byte(k), Revision: binary.BigEndian.Uint64(v), Value: append([]byte{}, v[8:]...)}, nil
}
