package boltstore

import (
	"errors"
	"runtime"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/storetest"
)

// TestReserveOutlivesProcess: what one process has allocated is the next one's
// reserve, also when nothing else is free.
func TestReserveOutlivesProcess(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			dir := mounted(t, kind, 16<<20)
			if err := openOn(t, dir, 4<<20).Close(); err != nil {
				t.Fatal(err)
			}
			fillDisk(t, dir)
			db := openOn(t, dir, 4<<20)
			defer db.Close()
			if err := db.Low(); err != nil || db.space.left < 4<<20 {
				t.Errorf("low: %v, %d bytes are left", err, db.space.left)
			}
		})
	}
}

// TestReceivedGoesFirst puts a batch for which there is no room and one that has
// to be kept into one commit: the first fails, the second is written, once.
func TestReceivedGoesFirst(t *testing.T) {
	dir := mounted(t, "tmpfs", 4<<20)
	db := openOn(t, dir, 0)
	defer db.Close()
	var arrivals []uint64
	var errLarge, errSpare error
	var wg sync.WaitGroup
	queued := func() int {
		db.mu.Lock()
		defer db.mu.Unlock()
		return len(db.queue)
	}
	db.turn.Lock() // the writer takes the first, waits, and then takes the others together
	nothing := func(*bbolt.Tx) error { return nil }
	first := &request{check: nothing, change: nothing}
	wg.Go(func() { _ = db.submit(t.Context(), first) })
	for !first.taken.Load() {
		runtime.Gosched()
	}
	large := store.Batch{Ops: []store.Op{{Table: store.Users, Key: storetest.Key(1), Revision: 1, Value: make([]byte, 6<<20)}}}
	wg.Go(func() { errLarge = db.Apply(t.Context(), large) })
	wg.Go(func() {
		errSpare = db.Apply(t.Context(), store.Batch{Spare: true, Ops: rowsOf(2), Arrive: func(n uint64) (store.Op, error) {
			arrivals = append(arrivals, n)
			return store.Op{Table: store.Intents, Key: storetest.Key(len(arrivals)), Revision: 1, Value: []byte("x")}, nil
		}})
	})
	for queued() < 2 {
		runtime.Gosched()
	}
	db.turn.Unlock()
	wg.Wait()
	if !errors.Is(errLarge, store.ErrFull) || errSpare != nil {
		t.Fatalf("the large one: %v; the received one: %v", errLarge, errSpare)
	}
	if len(arrivals) != 2 || arrivals[0] != arrivals[1] {
		t.Errorf("arrival numbers %v: not one commit, repeated", arrivals)
	}
	rows, err := db.Scan(t.Context(), store.Intents, nil, 10)
	if err != nil || len(rows) != 1 || rows[0].Key != storetest.Key(2) {
		t.Errorf("%d intents, %v", len(rows), err)
	}
}

// TestSnapshotMakesRoom: a snapshot ends when what it keeps from being used again
// would have to come out of the last half of the reserve.
func TestSnapshotMakesRoom(t *testing.T) {
	dir := mounted(t, "tmpfs", 16<<20)
	db := openOn(t, dir, 4<<20)
	defer db.Close()
	fill(t, db, 0, 600)
	fillDisk(t, dir)
	seen := 0
	err := db.Snapshot(t.Context(), func(s store.Snapshot) error {
		return s.Rows(store.Users, func(store.Row) error {
			for range 20 {
				err := db.Apply(t.Context(), store.Batch{Spare: true, Ops: []store.Op{{Table: store.Users, Key: storetest.Key(seen), Expect: 1, Revision: 1, Value: make([]byte, 500)}}})
				if err != nil {
					return err
				}
			}
			seen++
			return nil
		})
	})
	if !errors.Is(err, store.ErrFull) || seen == 0 {
		t.Errorf("after %d rows: %v", seen, err)
	}
	if left := db.space.left; left < 1<<20 {
		t.Errorf("%d bytes of the reserve are left", left)
	}
	if err := db.Apply(t.Context(), store.Batch{Spare: true, Ops: rowsOf(900)}); err != nil {
		t.Error(err)
	}
}
