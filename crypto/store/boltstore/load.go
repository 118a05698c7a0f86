package boltstore

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/tokenvault/tokenvault/crypto/store"
)

const (
	loadRows  = 10_000  // rows in one transaction of Load
	loadBytes = 8 << 20 // bytes of values after which it ends earlier
	// loadFill is how full pages are made. Rows come in order and only once;
	// later ones split them.
	loadFill = 0.9
)

var errNotEmpty = errors.New("the store is not empty")

// Load implements store.Driver. Until it is complete the file says so, and is not
// opened.
func (db *DB) Load(ctx context.Context, i store.Image) error {
	if err := db.load(ctx, i); err != nil {
		return fmt.Errorf("load a store: %w", err)
	}
	return nil
}

func (db *DB) load(ctx context.Context, i store.Image) error {
	if len(i.Blob) == 0 {
		return errors.New("no keyring given")
	}
	err := db.submit(ctx, &request{check: isEmpty, change: func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket).Put(loadingKey, []byte{1})
	}})
	for last := false; err == nil && !last; {
		var ops []store.Op
		if ops, last, err = part(i.Next); err == nil && len(ops) > 0 {
			err = db.submit(ctx, loadPart(ops))
		}
	}
	if err != nil {
		return err
	}
	return db.submit(ctx, &request{
		check:  func(tx *bbolt.Tx) error { _, err := lastArrival(tx); return err },
		change: func(tx *bbolt.Tx) error { return finishLoad(tx, i) },
	})
}

// part collects the rows of one transaction.
func part(next func() (store.Table, store.Row, bool, error)) (ops []store.Op, last bool, err error) {
	for size := 0; len(ops) < loadRows && size < loadBytes; {
		t, row, ok, err := next()
		if err != nil || !ok {
			return ops, true, err
		}
		value := append([]byte{}, row.Value...) // never nil, which would delete
		ops = append(ops, store.Op{Table: t, Key: row.Key, Revision: row.Revision, Value: value})
		size += len(row.Value)
	}
	return ops, false, nil
}

func loadPart(ops []store.Op) *request {
	return &request{
		check: func(tx *bbolt.Tx) error {
			for _, op := range ops {
				if err := expect(tx, op); err != nil {
					return err
				}
			}
			return nil
		},
		change: func(tx *bbolt.Tx) error {
			for _, name := range tableBucket {
				tx.Bucket(name).FillPercent = loadFill
			}
			return change(tx, ops)
		},
	}
}

// isEmpty fails when there is, or was by Load, anything.
func isEmpty(tx *bbolt.Tx) error {
	for _, key := range [][]byte{keyringKey, arrivalKey, loadingKey} {
		meta, err := bucketFor(tx, metaBucket, key)
		if err != nil {
			return err
		}
		if meta.Get(key) != nil {
			return errNotEmpty
		}
	}
	for _, name := range tableBucket {
		table, err := bucketFor(tx, name, nil)
		if err != nil {
			return err
		}
		if k, _ := table.Cursor().First(); k != nil {
			return errNotEmpty
		}
	}
	return nil
}

func finishLoad(tx *bbolt.Tx, i store.Image) error {
	meta := tx.Bucket(metaBucket)
	if i.Arrival != 0 {
		if err := meta.Put(arrivalKey, number(i.Arrival)); err != nil {
			return err
		}
	}
	if err := meta.Put(keyringKey, append(number(1), i.Blob...)); err != nil {
		return err
	}
	return meta.Delete(loadingKey)
}
