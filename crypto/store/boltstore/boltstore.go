// Package boltstore keeps a store in one bbolt file.
//
// It trusts the file system to keep what fdatasync returned for, and flock to
// keep other processes out. It does not trust the file's content: what makes no
// sense becomes an error, not the end of the process, and the rows themselves are
// the business of package store, which seals them. It never creates a store where
// one was cut to nothing, never writes to a file that lost its name, its end or
// its past while it was open, and never shortens a file.
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
//	        "loading" → 0x01, while Load fills the file
//
// The reserve is disk that is allocated (fallocate(2)) behind the pages in use,
// in the file itself: bbolt writes to its free pages, which have their disk, and
// then to just those blocks; it never shortens its file, and makes it longer only
// when it is too short. A second file, released bit by bit, would leave it to
// chance who gets what is released. ext4, xfs and tmpfs were looked at; the first
// two convert an allocated block that is written to for the first time out of a
// pool that they keep for it. Where the file system cannot allocate ahead, the
// store is low when less than the reserve is free in it, which is no promise.
//
// What is full stays usable: when the disk takes no more (space, quota, a file
// system that became read-only) before the meta page is written, nothing refers to
// what was written, and bbolt rolls back. A failed sync is the end (ErrBroken).
//
// BUG: bbolt leaves deleted rows in free pages of the file until they are used
// again; they are sealed like all others.
//
// BUG: pages carry no checksum, except the first two. An altered page that still
// makes sense is found when a row in it is opened, or, in a list of free pages,
// when bbolt has written over something. Rebalancing after a delete trusts the
// pages beside the one deleted from: a file that was crafted, not damaged, may
// still end the process.
//
// BUG: the reserve may be eaten into by the last commit before it is found to be
// less than whole, at most by as much as that commit writes. On a file system that
// copies on write (btrfs, or xfs with reflinked copies of the file) allocated disk
// does not keep an overwrite from failing: there it lasts for less.
package boltstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
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
	Now     func() time.Time // nil: time.Now; for durations in the log, and how often a full disk is asked
	Logger  *slog.Logger     // nil: discard
}

// DB is an open store. It is a store.Driver.
type DB struct {
	bolt   *bbolt.DB
	file   *os.File // bolt's
	path   string
	now    func() time.Time
	logger *slog.Logger

	commits atomic.Uint64
	last    atomic.Uint64 // number of the last transaction that is durable
	used    atomic.Int64  // where the pages in use end, in bytes
	space   space         // topped up by the writer
	turn    sync.Mutex    // held while a transaction is committed

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

	errClosed     = errors.New("the store's file is closed")
	errReadOnly   = errors.New("the store's file was opened for reading only")
	errHalfLoaded = errors.New("it was being restored when that was cut short: remove it, and restore again")
)

const (
	formatVersion = 0x01

	// mapAhead is how much address space is mapped beyond the file. bbolt moves a
	// mapping that has become too small only when nobody reads, and holds all
	// readers back meanwhile: a snapshot would stop lookups. 64 GiB, where there is
	// so much; nothing but addresses is used up.
	mapAhead = 1 << (30 + strconv.IntSize/64*6)
	// growBy is how much bbolt lengthens the file by (without allocating disk)
	// when there is no reserve, or when it is used up. Each time costs a sync.
	growBy = 1 << 20
)

var (
	metaBucket  = []byte("meta")
	formatKey   = []byte("format")
	keyringKey  = []byte("keyring")
	arrivalKey  = []byte("arrival")
	loadingKey  = []byte("loading")
	tableBucket = func() (names [][]byte) {
		for _, t := range store.Tables {
			names = append(names, []byte(t.String()))
		}
		return names
	}()
)

// Open opens or creates the file. ErrHeld when another process has it open,
// ErrDamaged when it was cut short or makes no sense.
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
	db := &DB{
		path: c.Path, now: c.Now, logger: c.Logger,
		wake: make(chan struct{}, 1), done: make(chan struct{}), failed: make(chan struct{}),
	}
	if err := db.openFile(c, tweak); err != nil {
		return nil, fmt.Errorf("open store %s: %w", c.Path, err)
	}
	if err := db.view(db.recognize); err != nil {
		_ = db.bolt.Close()
		return nil, fmt.Errorf("open store %s: %w", c.Path, err)
	}
	db.space.file, db.space.now, db.space.logger = db.file, c.Now, c.Logger
	if c.ReadOnly {
		db.broken = errReadOnly
	} else {
		db.space.reserve = max(c.Reserve, 0)
		db.space.begin(db.used.Load())
	}
	go db.write()
	return db, nil
}

// openFile leaves nothing open when it fails.
func (db *DB) openFile(c Config, tweak func(*bbolt.Options)) error {
	missing, err := fit(c)
	if err == nil && missing {
		err = create(c.Path)
	}
	if err != nil {
		return err
	}
	options := &bbolt.Options{ReadOnly: c.ReadOnly, InitialMmapSize: mapAhead, OpenFile: os.OpenFile}
	if tweak != nil {
		tweak(options)
	}
	inner := options.OpenFile
	options.OpenFile = func(path string, flag int, mode os.FileMode) (_ *os.File, err error) {
		if db.file, err = inner(path, flag&^os.O_CREATE|syscall.O_NOFOLLOW, mode); err != nil {
			return nil, err
		}
		if err = lock(db.file, path, c.ReadOnly); err == nil {
			err = inspect(db.file)
		}
		if err != nil {
			return nil, errors.Join(err, db.file.Close())
		}
		return db.file, nil
	}
	db.bolt, err = openBolt(c.Path, options)
	if errors.Is(err, syscall.ENOMEM) && options.InitialMmapSize != 0 { // a limit on address space
		options.InitialMmapSize = 0
		db.bolt, err = openBolt(c.Path, options)
	}
	if err != nil {
		return err
	}
	db.bolt.AllocSize = growBy
	if !c.ReadOnly {
		err = db.file.Chmod(0o600)
	}
	if err != nil {
		return errors.Join(err, db.bolt.Close())
	}
	return nil
}

// openBolt leaves nothing open when it fails, not even when bbolt panics over a
// damaged file.
func openBolt(path string, options *bbolt.Options) (b *bbolt.DB, err error) {
	options.Timeout = time.Nanosecond // one try: whoever holds it holds it for long
	options.FreelistType = bbolt.FreelistMapType
	options.NoStatistics = true
	var file *os.File
	o := *options
	o.OpenFile = func(path string, flag int, mode os.FileMode) (_ *os.File, err error) {
		file, err = options.OpenFile(path, flag, mode)
		return file, err
	}
	err = guard(func() (err error) {
		b, err = bbolt.Open(path, 0o600, &o)
		return err
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrHeld
	case isFault(err) && file != nil:
		return nil, errors.Join(err, file.Close())
	}
	return b, err
}

// fit reports whether the file is still to be made, and refuses what is no
// regular file.
func fit(c Config) (missing bool, err error) {
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

// recognize refuses what is not a complete store of this format.
func (db *DB) recognize(tx *bbolt.Tx) error {
	db.last.Store(uint64(tx.ID()))
	db.used.Store(tx.Size())
	meta, err := treeOf(tx, metaBucket)
	if err != nil {
		return fmt.Errorf("not a tokenvault store: %w", err)
	}
	format, _, _, err := meta.get(formatKey)
	if err != nil {
		return err
	}
	if len(format) != 1 || format[0] != formatVersion {
		return fmt.Errorf("format %x is not one that this version knows", format)
	}
	if _, _, found, err := meta.get(loadingKey); err != nil || found {
		return errors.Join(err, errHalfLoaded)
	}
	for _, name := range tableBucket {
		if _, err := treeOf(tx, name); err != nil {
			return err
		}
	}
	return nil
}

// fault is a panic that guard caught. It matches ErrDamaged.
type fault struct{ cause any }

func (f *fault) Error() string { return fmt.Sprintf("%v: %v", ErrDamaged, f.cause) }

func (f *fault) Unwrap() error { return ErrDamaged }

func isFault(err error) bool {
	_, ok := errors.AsType[*fault](err)
	return ok
}

// guard turns a panic, and a fault at an address outside the file, into
// ErrDamaged: bbolt asserts what it reads, and the file may have been altered.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &fault{p}
		}
	}()
	return f()
}

func (db *DB) view(f func(*bbolt.Tx) error) error {
	return guard(func() error { return db.bolt.View(f) })
}
