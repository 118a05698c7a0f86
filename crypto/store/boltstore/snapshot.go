package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// Position implements store.Driver: bbolt's number of the last transaction.
func (db *DB) Position(ctx context.Context) (position uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	err = db.view(func(tx *bbolt.Tx) error {
		position = uint64(tx.ID())
		return nil
	})
	return position, err
}

// Low implements store.Driver.
func (db *DB) Low() error { return nil }

// snapshot is a store.Snapshot over one read transaction.
type snapshot struct {
	ctx     context.Context
	tx      *bbolt.Tx
	blob    []byte
	version uint64
}

// Snapshot implements store.Driver.
func (db *DB) Snapshot(ctx context.Context, visit func(store.Snapshot) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return db.view(func(tx *bbolt.Tx) error {
		blob, version, err := keyringOf(tx)
		if err != nil {
			return err
		}
		return visit(&snapshot{ctx: ctx, tx: tx, blob: append([]byte(nil), blob...), version: version})
	})
}

func (s *snapshot) Keyring() (blob []byte, version uint64) { return s.blob, s.version }

func (s *snapshot) Arrival() uint64 { return arrival(s.tx) }

func (s *snapshot) Position() uint64 { return uint64(s.tx.ID()) }

func (s *snapshot) Rows(t store.Table, visit func(store.Row) error) error {
	name, err := bucketOf(t)
	if err != nil {
		return err
	}
	c := s.tx.Bucket(name).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		row, err := rowOf(k, v)
		if err != nil {
			return err
		}
		if err := visit(row); err != nil {
			return err
		}
	}
	return nil
}

const (
	loadRows  = 10_000  // rows in one transaction of Load
	loadBytes = 8 << 20 // bytes after which it ends earlier
)

var errNotEmpty = errors.New("the store is not empty")

// Load implements store.Driver.
func (db *DB) Load(ctx context.Context, i store.Image) error {
	if len(i.Blob) == 0 {
		return errors.New("load a store: no keyring given")
	}
	if err := db.submit(ctx, &request{check: isEmpty, change: func(*bbolt.Tx) error { return nil }}); err != nil {
		return fmt.Errorf("load a store: %w", err)
	}
	for {
		ops, last, err := part(i.Next)
		if err != nil {
			return fmt.Errorf("load a store: %w", err)
		}
		if err := db.Apply(ctx, store.Batch{Ops: ops}); err != nil {
			return fmt.Errorf("load a store: %w", err)
		}
		if last {
			break
		}
	}
	err := db.submit(ctx, &request{
		check:  func(*bbolt.Tx) error { return nil },
		change: func(tx *bbolt.Tx) error { return finishLoad(tx, i) },
	})
	if err != nil {
		return fmt.Errorf("load a store: %w", err)
	}
	return nil
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

func isEmpty(tx *bbolt.Tx) error {
	if _, version, err := keyringOf(tx); err != nil || version != 0 {
		return errors.Join(err, errNotEmpty)
	}
	for _, name := range tableBucket {
		if k, _ := tx.Bucket(name).Cursor().First(); k != nil {
			return errNotEmpty
		}
	}
	if arrival(tx) != 0 {
		return errNotEmpty
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
	return meta.Put(keyringKey, append(number(1), i.Blob...))
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
