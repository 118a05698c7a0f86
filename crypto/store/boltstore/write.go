package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
)

// request is one caller's part of a commit.
type request struct {
	// check looks at everything and changes nothing; its error is the caller's
	// alone. It sees what the requests before it in the same commit wrote. It may
	// be called again.
	check func(*bbolt.Tx) error
	// change writes; its error ends the whole commit.
	change func(*bbolt.Tx) error
	// spare: may use the reserve.
	spare bool

	err   error // the verdict, before ready is closed
	taken atomic.Bool
	ready chan struct{}
}

// Apply implements store.Driver.
func (db *DB) Apply(ctx context.Context, b store.Batch) error {
	ops := append(make([]store.Op, 0, len(b.Ops)+1), b.Ops...)
	var n uint64
	return db.submit(ctx, &request{
		spare: b.Spare,
		check: func(tx *bbolt.Tx) error {
			ops = ops[:len(b.Ops)]
			if version, err := keyringVersion(tx); err != nil || version != b.Fence {
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
			last, err := lastArrival(tx)
			if err != nil {
				return err
			}
			n = last + 1
			op, err := b.Arrive(n)
			if err != nil {
				return err
			}
			ops = append(ops, op)
			return expect(tx, op)
		},
		change: func(tx *bbolt.Tx) error {
			if n != 0 {
				if err := tx.Bucket(metaBucket).Put(arrivalKey, number(n)); err != nil {
					return err
				}
			}
			return change(tx, ops)
		},
	})
}

// SwapKeyring implements keyring.Blob. It may use the reserve: it is small, and a
// key that has to be replaced has to be.
func (db *DB) SwapKeyring(ctx context.Context, old uint64, blob []byte) (uint64, error) {
	value := append(number(old+1), blob...)
	err := db.submit(ctx, &request{
		spare: true,
		check: func(tx *bbolt.Tx) error {
			version, err := keyringVersion(tx)
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

// bucketFor returns a bucket as tx has it by now, after making sure that bbolt
// will find its way to key, whatever has become of the file.
func bucketFor(tx *bbolt.Tx, name, key []byte) (*bbolt.Bucket, error) {
	err := guard(func() error {
		t, err := treeOf(tx, name)
		if err == nil {
			_, _, _, err = t.get(key)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return tx.Bucket(name), nil
}

func keyringVersion(tx *bbolt.Tx) (uint64, error) {
	meta, err := bucketFor(tx, metaBucket, keyringKey)
	if err != nil {
		return 0, err
	}
	v := meta.Get(keyringKey)
	if v == nil {
		return 0, nil
	}
	_, version, err := asKeyring(v)
	return version, err
}

func lastArrival(tx *bbolt.Tx) (uint64, error) {
	meta, err := bucketFor(tx, metaBucket, arrivalKey)
	if err != nil {
		return 0, err
	}
	return asArrival(meta.Get(arrivalKey))
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
	table, err := bucketFor(tx, name, op.Key[:])
	if err != nil {
		return err
	}
	var revision uint64
	if v := table.Get(op.Key[:]); v != nil {
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
