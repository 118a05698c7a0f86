package boltstore

import (
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// snapshotRows is how many rows are read before they are handed out.
const snapshotRows = 256

// snapshot is a store.Snapshot over one read transaction.
type snapshot struct {
	db      *DB
	ctx     context.Context
	tx      *bbolt.Tx
	blob    []byte
	version uint64
	arrival uint64
}

// Snapshot implements store.Driver. It fails with ErrFull when less than half of
// the reserve is left: pages cannot be used again as long as it lasts.
//
// BUG: a visit that blocks is not ended, and the reserve may be used up while it
// does. What is written meanwhile makes the file, and the list of free pages that
// every commit writes, longer; the file does not become shorter afterwards.
func (db *DB) Snapshot(ctx context.Context, visit func(store.Snapshot) error) error {
	tx, err := db.beginDurable()
	if err != nil {
		return fmt.Errorf("begin a snapshot: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // a read transaction's cannot fail
	s := &snapshot{db: db, ctx: ctx, tx: tx}
	if err := s.proceed(); err != nil {
		return err
	}
	if err := guard(s.begin); err != nil {
		return err
	}
	return visit(s)
}

// beginDurable begins a read transaction between two commits: what a commit has
// written, and not synced yet, is to be seen already.
func (db *DB) beginDurable() (*bbolt.Tx, error) {
	db.turn.Lock()
	defer db.turn.Unlock()
	return db.bolt.Begin(false)
}

func (s *snapshot) begin() error {
	blob, version, err := keyringOf(s.tx)
	if err != nil {
		return err
	}
	s.blob, s.version = append([]byte(nil), blob...), version
	s.arrival, err = arrivalOf(s.tx)
	return err
}

func (s *snapshot) proceed() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if s.db.space.short() {
		return fmt.Errorf("a snapshot would use up the reserve: %w", store.ErrFull)
	}
	return nil
}

func (s *snapshot) Keyring() (blob []byte, version uint64) {
	return append([]byte(nil), s.blob...), s.version
}

func (s *snapshot) Arrival() uint64 { return s.arrival }

func (s *snapshot) Position() uint64 { return uint64(s.tx.ID()) }

func (s *snapshot) Rows(t store.Table, visit func(store.Row) error) error {
	name, err := bucketOf(t)
	if err != nil {
		return err
	}
	var after *[32]byte
	for {
		var rows []store.Row
		err := guard(func() (err error) {
			rows, err = scan(s.tx, name, after, snapshotRows)
			return err
		})
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := s.proceed(); err != nil {
				return err
			}
			if err := visit(row); err != nil {
				return err
			}
		}
		if len(rows) < snapshotRows {
			return nil
		}
		after = &rows[len(rows)-1].Key
	}
}

// arrivalOf is as of when tx began.
func arrivalOf(tx *bbolt.Tx) (uint64, error) {
	meta, err := treeOf(tx, metaBucket)
	if err != nil {
		return 0, err
	}
	v, _, _, err := meta.get(arrivalKey)
	if err != nil {
		return 0, err
	}
	return asArrival(v)
}

func asArrival(v []byte) (uint64, error) {
	switch len(v) {
	case 0:
		return 0, nil
	case 8:
		return binary.BigEndian.Uint64(v), nil
	}
	return 0, fmt.Errorf("%w: arrival number", ErrDamaged)
}
