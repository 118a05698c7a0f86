package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// Get implements store.Driver.
func (db *DB) Get(ctx context.Context, t store.Table, key [32]byte) (row store.Row, found bool, err error) {
	if err := ctx.Err(); err != nil {
		return row, false, err
	}
	name, err := bucketOf(t)
	if err != nil {
		return row, false, err
	}
	err = db.view(func(tx *bbolt.Tx) error {
		table, err := treeOf(tx, name)
		if err != nil {
			return err
		}
		v, flags, there, err := table.get(key[:])
		if found = there; err != nil || !there {
			return err
		}
		row, err = rowOf(key[:], v, flags)
		return err
	})
	return row, found && err == nil, err
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
	err = db.view(func(tx *bbolt.Tx) (err error) {
		rows, err = scan(tx, name, after, limit)
		return err
	})
	return rows, err
}

func scan(tx *bbolt.Tx, name []byte, after *[32]byte, limit int) (rows []store.Row, err error) {
	table, err := treeOf(tx, name)
	if err != nil {
		return nil, err
	}
	var from []byte
	if after != nil {
		from = after[:]
	}
	w, err := table.seek(from)
	if err != nil {
		return nil, err
	}
	for len(rows) < limit {
		k, v, flags, ok := w.current()
		if !ok {
			break
		}
		if after == nil || !bytes.Equal(k, from) {
			row, err := rowOf(k, v, flags)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
		if err := w.next(); err != nil {
			return nil, err
		}
	}
	return rows, nil
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

// keyringOf returns what is valid as long as tx is, and was so when it began.
func keyringOf(tx *bbolt.Tx) (blob []byte, version uint64, err error) {
	meta, err := treeOf(tx, metaBucket)
	if err != nil {
		return nil, 0, err
	}
	v, _, found, err := meta.get(keyringKey)
	if err != nil || !found {
		return nil, 0, err
	}
	return asKeyring(v)
}

func asKeyring(v []byte) (blob []byte, version uint64, err error) {
	if len(v) < 8 {
		return nil, 0, fmt.Errorf("%w: keyring", ErrDamaged)
	}
	return v[8:], binary.BigEndian.Uint64(v), nil
}

// Position implements store.Driver: bbolt's number of the last transaction.
func (db *DB) Position(ctx context.Context) (uint64, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return 0, errClosed
	}
	return db.last.Load(), ctx.Err()
}

// Size implements store.Driver: the pages in use, and those free between them.
func (db *DB) Size() (int64, error) { return db.used.Load(), nil }

func bucketOf(t store.Table) ([]byte, error) {
	if int(t) >= len(tableBucket) {
		return nil, fmt.Errorf("there is no table %d", t)
	}
	return tableBucket[t], nil
}

// rowOf copies a row out of the file's memory.
func rowOf(k, v []byte, flags uint32) (store.Row, error) {
	if len(k) != 32 || len(v) < 8 || flags != 0 {
		return store.Row{}, fmt.Errorf("%w: a row of %d and %d bytes", ErrDamaged, len(k), len(v))
	}
	return store.Row{Key: [32]byte(k), Revision: binary.BigEndian.Uint64(v), Value: append([]byte{}, v[8:]...)}, nil
}
