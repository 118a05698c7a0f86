package boltstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// slowCommit is when a commit is worth a line in the log: a hundred times what
// two fdatasyncs take on an ordinary disk.
const slowCommit = time.Second

// write is the writer goroutine; Open starts it and Close waits for it.
func (db *DB) write() {
	defer close(db.done)
	for range db.wake {
		batch, last := db.take()
		db.commit(batch)
		if last {
			return
		}
	}
}

// take empties the queue. last: nothing will ever be queued again.
func (db *DB) take() (batch []*request, last bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, r := range db.queue {
		if r.taken.CompareAndSwap(false, true) {
			batch = append(batch, r)
		}
	}
	db.queue = nil
	return batch, db.closed
}

// commit runs all requests in one transaction, and answers them; with none it
// looks after the reserve. Those whose check fails learn so when it has ended, as
// what they lost against is only then to be seen.
func (db *DB) commit(batch []*request) {
	db.turn.Lock()
	defer db.turn.Unlock()
	defer func() {
		for _, r := range batch {
			close(r.ready)
		}
	}()
	if err := db.brokenBy(); err != nil {
		verdict(batch, err)
		return
	}
	db.space.keep(db.used.Load())
	low, _ := db.space.due()
	admitted := batch
	if low != nil {
		admitted = spareOf(batch)
		verdict(refusedOf(batch), low)
	}
	err := db.transact(admitted)
	if errors.Is(err, store.ErrFull) {
		db.space.fail(err)
		// Together they were too much: what was received already goes alone.
		if spare := spareOf(admitted); len(spare) < len(admitted) {
			verdict(refusedOf(admitted), err)
			admitted, err = spare, db.transact(spare)
		}
	}
	verdict(admitted, err)
	db.space.keep(db.used.Load())
}

// verdict is for those who have none of their own.
func verdict(batch []*request, err error) {
	for _, r := range batch {
		if r.err == nil {
			r.err = err
		}
	}
}

func spareOf(batch []*request) (spare []*request) {
	return slices.DeleteFunc(slices.Clone(batch), func(r *request) bool { return !r.spare })
}

func refusedOf(batch []*request) (refused []*request) {
	return slices.DeleteFunc(slices.Clone(batch), func(r *request) bool { return r.spare })
}

var (
	// errNothing ends a transaction in which no request has anything to write.
	errNothing = errors.New("nothing to write")

	errMoved    = errors.New("the file was moved, removed or replaced while it was open")
	errReplaced = errors.New("the file's content was replaced while it was open")
	errCut      = errors.New("the file was cut short while it was open")
)

func (db *DB) transact(batch []*request) error {
	if len(batch) == 0 {
		return nil
	}
	if err := db.inPlace(); err != nil {
		return db.breakWith(err)
	}
	start := db.now()
	err := guard(func() error {
		return db.bolt.Update(func(tx *bbolt.Tx) error { return db.run(tx, batch) })
	})
	if took := db.now().Sub(start); took > slowCommit {
		db.logger.Warn("slow store commit", "seconds", took.Seconds(), "batches", len(batch))
	}
	if errors.Is(err, errNothing) {
		return nil
	}
	db.commits.Add(1)
	switch {
	case err == nil:
		return db.view(func(tx *bbolt.Tx) error {
			db.last.Store(uint64(tx.ID()))
			db.used.Store(tx.Size())
			return nil
		})
	case isFull(err):
		return fmt.Errorf("commit to the store's file: %w: %w", store.ErrFull, err)
	}
	return db.breakWith(err)
}

// run does what the requests ask for within tx.
func (db *DB) run(tx *bbolt.Tx, batch []*request) error {
	if uint64(tx.ID()) != db.last.Load()+1 {
		return errReplaced // what bbolt remembers of its free pages is not true of it
	}
	started := false
	for _, r := range batch {
		if r.err = r.check(tx); r.err != nil {
			continue
		}
		started = true
		if err := r.change(tx); err != nil {
			return err
		}
	}
	if !started {
		return errNothing
	}
	return nil
}

// inPlace fails when what would be committed could not be found again: the file
// has lost its name, or its end.
func (db *DB) inPlace() error {
	mine, err := db.file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(db.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !os.SameFile(mine, there):
		return errMoved
	case mine.Size() < db.used.Load():
		return errCut
	}
	return nil // a name that cannot be looked up is no reason to stop
}

// isFull reports whether a failed commit certainly left the file as it was because
// the disk takes no more: it could not grow, or a page could not be written.
// bbolt writes to pages that nothing refers to until the meta page is written
// into place that it has already, and then rolls back what it has in memory; that
// it did is checked by run. After a failed sync nothing is certain: the kernel may
// have dropped the pages and report it only once.
func isFull(err error) bool {
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		return true
	}
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EROFS} {
		// bbolt drops the type of a failed truncate, which comes before any write.
		if text := err.Error(); strings.HasPrefix(text, "file resize error:") && strings.HasSuffix(text, full.Error()) {
			return true
		}
		at, ok := errors.AsType[*fs.PathError](err)
		if ok && at.Op == "write" && errors.Is(at.Err, full) {
			return true
		}
	}
	return false
}

func (db *DB) brokenBy() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.broken
}

// breakWith refuses every later write, and says why for this one.
func (db *DB) breakWith(err error) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.broken = store.ErrBroken
	db.wedged = isFault(err)
	close(db.failed)
	return fmt.Errorf("commit to the store's file: %w: %w", store.ErrBroken, err)
}

// Low implements store.Driver.
func (db *DB) Low() error {
	low, due := db.space.due()
	if low != nil && due {
		db.mu.Lock()
		db.rouse() // the writer asks the disk
		db.mu.Unlock()
	}
	return low
}

// Commits is how many transactions were committed, or failed to be, since Open;
// each costs two syncs.
func (db *DB) Commits() uint64 { return db.commits.Load() }

// Failed is closed when a write has failed in such a way that no more are taken
// (store.ErrBroken). The process should end, and open the store anew.
func (db *DB) Failed() <-chan struct{} { return db.failed }

// Close writes what is queued, waits for readers, and gives the file free. Calls
// after it fail; a second Close does nothing. When bbolt panicked in a write, it
// may still hold its own locks: the file then stays open until the process ends.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		<-db.done
		return nil
	}
	db.closed = true
	db.rouse()
	db.mu.Unlock()
	<-db.done
	if db.wedged {
		return fmt.Errorf("close store %s: %w", db.path, ErrDamaged)
	}
	if err := db.bolt.Close(); err != nil {
		return fmt.Errorf("close store %s: %w", db.path, err)
	}
	return nil
}
