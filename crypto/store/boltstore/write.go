package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
)

// slowCommit is when a commit is worth a line in the log: a hundred times what
// two fdatasyncs take on an ordinary disk.
const slowCommit = time.Second

// request is one caller's part of a commit.
type request struct {
	// check looks at everything and changes nothing; its error is the caller's
	// alone. It sees what the requests before it in the same commit wrote.
	check func(*bbolt.Tx) error
	// change writes; its error ends the whole commit.
	change func(*bbolt.Tx) error

	err   error // the verdict, before answer is closed
	taken atomic.Bool
	ready chan struct{}
}

// Apply implements store.Driver.
func (db *DB) Apply(ctx context.Context, b store.Batch) error {
	ops := append(make([]store.Op, 0, len(b.Ops)+1), b.Ops...)
	var n uint64
	return db.submit(ctx, &request{
		check: func(tx *bbolt.Tx) error {
			if _, version, err := keyringOf(tx); err != nil || version != b.Fence {
				return errors.Join(err, store.ErrFenced)
			}
			for _, op := range ops {
				if err := expect(tx, op); err != nil {
					return err
				}
			}
			if b.Arrive == nil {
				return nil
			}
			n = arrival(tx) + 1
			op, err := b.Arrive(n)
			if err != nil {
				return err
			}
			ops = append(ops, op)
			return expect(tx, op)
		},
		change: func(tx *bbolt.Tx) error {
			if n != 0 {
				if err := tx.Bucket(metaBucket).Put(arrivalKey, binary.BigEndian.AppendUint64(nil, n)); err != nil {
					return err
				}
			}
			return change(tx, ops)
		},
	})
}

// SwapKeyring implements keyring.Blob.
func (db *DB) SwapKeyring(ctx context.Context, old uint64, blob []byte) (uint64, error) {
	value := append(binary.BigEndian.AppendUint64(nil, old+1), blob...)
	err := db.submit(ctx, &request{
		check: func(tx *bbolt.Tx) error {
			_, version, err := keyringOf(tx)
			if err == nil && version != old {
				err = keyring.ErrConflict
			}
			return err
		},
		change: func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(keyringKey, value) },
	})
	if err != nil {
		return 0, err
	}
	return old + 1, nil
}

func arrival(tx *bbolt.Tx) uint64 {
	if v := tx.Bucket(metaBucket).Get(arrivalKey); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// expect checks what an op demands of the row that is there, and of the op.
func expect(tx *bbolt.Tx, op store.Op) error {
	name, err := bucketOf(op.Table)
	if err != nil {
		return err
	}
	if !op.Check && op.Value != nil && op.Revision == 0 {
		return errors.New("a row is written without a revision")
	}
	var revision uint64
	if v := tx.Bucket(name).Get(op.Key[:]); v != nil {
		if len(v) < 8 {
			return fmt.Errorf("%w: a row of %d bytes", ErrDamaged, len(v))
		}
		revision = binary.BigEndian.Uint64(v)
	}
	if revision != op.Expect {
		return store.ErrConflict
	}
	return nil
}

func change(tx *bbolt.Tx, ops []store.Op) error {
	for _, op := range ops {
		if op.Check {
			continue
		}
		bucket := tx.Bucket(tableBucket[op.Table])
		if op.Value == nil {
			if err := bucket.Delete(op.Key[:]); err != nil {
				return err
			}
			continue
		}
		value := make([]byte, 0, 8+len(op.Value))
		value = append(binary.BigEndian.AppendUint64(value, op.Revision), op.Value...)
		if err := bucket.Put(op.Key[:], value); err != nil {
			return err
		}
	}
	return nil
}

// submit queues r and waits for its commit. Once the writer has taken it, its
// outcome is waited for, whatever ctx says: it may take effect.
func (db *DB) submit(ctx context.Context, r *request) error {
	r.ready = make(chan struct{})
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := db.enqueue(r); err != nil {
		return err
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
		if r.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-r.ready
	}
	return r.err
}

func (db *DB) enqueue(r *request) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	switch {
	case db.closed:
		return errClosed
	case db.broken != nil:
		return db.broken
	}
	db.queue = append(db.queue, r)
	db.rouse()
	return nil
}

// rouse is called under mu.
func (db *DB) rouse() {
	select {
	case db.wake <- struct{}{}:
	default:
	}
}

// write is the writer goroutine; Open starts it and Close waits for it.
func (db *DB) write() {
	defer close(db.done)
	for range db.wake {
		batch, last := db.take()
		if len(batch) > 0 {
			db.commit(batch)
		}
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

// commit runs all requests in one transaction. Those whose check fails learn so
// when it has ended, as what they lost against is only then to be seen.
func (db *DB) commit(batch []*request) {
	err := db.brokenBy()
	if err == nil {
		err = db.transact(batch)
	}
	for _, r := range batch {
		if r.err == nil {
			r.err = err
		}
		close(r.ready)
	}
}

// errNothing ends a transaction in which no request has anything to write.
var errNothing = errors.New("nothing to write")

func (db *DB) transact(batch []*request) error {
	start, started := db.now(), false
	err := guard(func() error {
		return db.bolt.Update(func(tx *bbolt.Tx) error {
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
		})
	})
	if took := db.now().Sub(start); took > slowCommit {
		db.logger.Warn("slow store commit", "seconds", took.Seconds(), "batches", len(batch))
	}
	if errors.Is(err, errNothing) {
		return nil
	}
	db.commits.Add(1)
	if err == nil {
		return nil
	}
	if !harmless(err) {
		return db.breakWith(err)
	}
	return fmt.Errorf("commit to the store's file: %w", err)
}

// harmless reports whether a failed commit certainly left the file as it was:
// when it could not grow, or a page could not be written for want of space.
// bbolt writes to pages that nothing refers to until the meta page is written
// into place that it has already. After a failed sync nothing is certain:
// the kernel may have dropped the pages and report it only once.
func harmless(err error) bool {
	// bbolt drops the type of a failed truncate, which comes before any write.
	if errors.Is(err, berrors.ErrMaxSizeReached) || strings.HasPrefix(err.Error(), "file resize error:") {
		return true
	}
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
	at, ok := errors.AsType[*fs.PathError](err)
	return full && ok && at.Op == "write"
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
	db.wedged = errors.Is(err, ErrDamaged)
	close(db.failed)
	return fmt.Errorf("commit to the store's file: %w: %w", store.ErrBroken, err)
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
