package boltstore

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/storetest"
)

// exchangeOf are the batches of the nth exchange, sized like real ones: the intent,
// and the commit that replaces it with a user, an index entry and a session.
func exchangeOf(n int) (intent, commit store.Batch) {
	random := rand.New(rand.NewPCG(uint64(n), 1))
	key := func() (k [32]byte) {
		for i := range k {
			k[i] = byte(random.Uint32())
		}
		return k
	}
	session := key()
	row := func(t store.Table, k [32]byte, size int) store.Op {
		return store.Op{Table: t, Key: k, Revision: 1, Value: make([]byte, size)}
	}
	intent = store.Batch{Ops: []store.Op{row(store.Intents, session, 700)}}
	commit = store.Batch{Spare: true, Ops: []store.Op{
		row(store.Users, key(), 560), row(store.Index, key(), 150), row(store.Sessions, session, 150),
		{Table: store.Intents, Key: session, Expect: 1},
	}}
	return intent, commit
}

// TestReserveHolds counts the commits of received tokens that a full disk takes:
// the first hundred are of exchanges that were begun, the rest are updates of
// other users, which cost as much.
func TestReserveHolds(t *testing.T) {
	for _, c := range []struct {
		kind    string
		reserve int64
		least   int
	}{{"tmpfs", 64 << 20, 10_000}, {"tmpfs", 8 << 20, 1000}, {"ext4", 2 << 20, 300}} {
		t.Run(fmt.Sprintf("%s, %d MiB", c.kind, c.reserve>>20), func(t *testing.T) {
			dir := mounted(t, c.kind, 3*c.reserve)
			db := openOn(t, dir, c.reserve)
			defer db.Close()
			const begun = 100
			for n := range begun {
				intent, _ := exchangeOf(n)
				if err := db.Apply(t.Context(), intent); err != nil {
					t.Fatal(err)
				}
			}
			fillDisk(t, dir)
			n := 0
			for ; n < 1_000_000; n++ {
				_, commit := exchangeOf(n)
				if n >= begun {
					commit.Ops = commit.Ops[:3]
				}
				if err := db.Apply(t.Context(), commit); errors.Is(err, store.ErrFull) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if n < c.least {
				t.Errorf("%d commits", n)
			}
			if err := db.Apply(t.Context(), store.Batch{}); !errors.Is(err, store.ErrFull) {
				t.Errorf("something new, when the reserve is used up: got %v", err)
			}
			t.Logf("figure: a reserve of %d MiB on a full %s held %d commits of received tokens", c.reserve>>20, c.kind, n)
		})
	}
}

// TestFullIsNothingWritten runs into a full disk again and again, with batches
// that make the file grow, split pages and free them. After each the file is
// what the batches that succeeded say, to bbolt's own check, to a reader and when
// opened anew; with and without a reserve that is used up.
func TestFullIsNothingWritten(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		for _, reserve := range []int64{0, 1 << 20} {
			t.Run(fmt.Sprintf("%s, %d", kind, reserve), func(t *testing.T) {
				dir := mounted(t, kind, 10<<20)
				m := &model{t: t, db: openOn(t, dir, reserve), rows: make(map[int]int), random: rand.New(rand.NewPCG(7, uint64(reserve)))}
				defer func() { _ = m.db.Close() }()
				for round := range 4 {
					for m.full < 12*(round+1) {
						m.step()
					}
					m.check()
					if err := m.db.Close(); err != nil {
						t.Fatal(err)
					}
					m.db = openOn(t, dir, reserve)
					m.check()
				}
				if m.full == m.tries {
					t.Error("every batch failed")
				}
				t.Logf("%d of %d batches found the disk full", m.full, m.tries)
			})
		}
	}
}

// model is what a store must hold.
type model struct {
	t           testing.TB
	db          *DB
	rows        map[int]int // number → length of the value
	random      *rand.Rand
	full, tries int
}

// step writes a few rows, or deletes some when there are many.
func (m *model) step() {
	m.t.Helper()
	b, next := store.Batch{Spare: true}, make(map[int]int)
	for range 1 + m.random.IntN(5) {
		n, size := m.random.IntN(400), m.random.IntN(60_000)
		if m.random.IntN(4) == 0 {
			size = -1
		}
		if _, twice := next[n]; twice {
			continue
		}
		old, there := m.rows[n]
		op := store.Op{Table: store.Users, Key: storetest.Key(n), Revision: 1, Value: make([]byte, max(size, 0))}
		if size < 0 {
			op.Value = nil
		}
		if op.Expect = 0; there && old >= 0 {
			op.Expect = 1
		}
		if size < 0 && op.Expect == 0 {
			continue
		}
		b.Ops, next[n] = append(b.Ops, op), size
	}
	err := m.db.Apply(m.t.Context(), b)
	m.tries++
	switch {
	case errors.Is(err, store.ErrFull):
		m.full++
	case err != nil:
		m.t.Fatalf("batch %d: %v", m.tries, err)
	default:
		for n, size := range next {
			if m.rows[n] = size; size < 0 {
				delete(m.rows, n)
			}
		}
	}
}

func (m *model) check() {
	m.t.Helper()
	err := m.db.bolt.View(func(tx *bbolt.Tx) error {
		var all error
		for err := range tx.Check() {
			all = errors.Join(all, err)
		}
		return all
	})
	if err != nil {
		m.t.Fatalf("bbolt's own check: %v", err)
	}
	rows, err := m.db.Scan(m.t.Context(), store.Users, nil, 1000)
	if err != nil || len(rows) != len(m.rows) {
		m.t.Fatalf("%d rows, %d are to be there, %v", len(rows), len(m.rows), err)
	}
	for n, size := range m.rows {
		row, found, err := m.db.Get(m.t.Context(), store.Users, storetest.Key(n))
		if err != nil || !found || len(row.Value) != size {
			m.t.Fatalf("row %d: found %v, %d bytes of %d, %v", n, found, len(row.Value), size, err)
		}
	}
}

// TestCannotAllocateAhead: where fallocate(2) does not work free room is looked
// at; where even that cannot be told the store just works.
func TestCannotAllocateAhead(t *testing.T) {
	t.Run("ext2", func(t *testing.T) {
		dir := mounted(t, "ext2", 16<<20)
		db := openOn(t, dir, 4<<20)
		defer db.Close()
		if err := db.Low(); err != nil || !db.space.bare {
			t.Fatalf("low on an empty disk: %v, bare %v", err, db.space.bare)
		}
		db.space.now = laterEachTime()
		fillDisk(t, dir)
		if err := db.Apply(t.Context(), store.Batch{Ops: rowsOf(1)}); !errors.Is(err, store.ErrFull) {
			t.Fatalf("on a full disk: got %v", err)
		}
		freeDisk(t, dir)
		if err := db.Apply(t.Context(), store.Batch{Ops: rowsOf(1)}); err != nil {
			t.Fatalf("on an empty one again: %v", err)
		}
	})
	t.Run("ramfs", func(t *testing.T) {
		db := openOn(t, mounted(t, "ramfs", 0), 4<<20)
		defer db.Close()
		if err := db.Apply(t.Context(), store.Batch{Ops: rowsOf(1)}); err != nil || db.Low() != nil {
			t.Fatalf("got %v, low %v", err, db.Low())
		}
	})
}

// laterEachTime is a clock that is asked again at each look.
func laterEachTime() func() time.Time {
	now := time.Now()
	return func() time.Time { now = now.Add(2 * probeEvery); return now }
}

// TestAllocatesSeldom: topping up is not part of every commit, and a file that
// has its reserve is not made longer when it is opened.
func TestAllocatesSeldom(t *testing.T) {
	dir := t.TempDir()
	db := openOn(t, dir, 8<<20)
	ends := map[int64]bool{}
	for n := range 1000 {
		if err := db.Apply(t.Context(), store.Batch{Ops: []store.Op{{Table: store.Users, Key: storetest.Key(n), Revision: 1, Value: make([]byte, 2000)}}}); err != nil {
			t.Fatal(err)
		}
		ends[db.space.end] = true
	}
	if len(ends) > 6 {
		t.Errorf("allocated %d times in 1000 commits", len(ends))
	}
	length := func() int64 {
		info, err := os.Stat(db.path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := length()
	size, err := db.Size()
	if err != nil || before < size+8<<20 {
		t.Fatalf("a file of %d bytes for %d of content, %v", before, size, err)
	}
	if has, err := allocated(db.file); err != nil || has < before {
		t.Errorf("%d of %d bytes are allocated, %v", has, before, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openOn(t, dir, 8<<20)
	defer db.Close()
	if after := length(); after != before {
		t.Errorf("%d bytes after %d, when opened again", after, before)
	}
}

// TestReadOnlyFileSystem opens stores where nothing can be written.
func TestReadOnlyFileSystem(t *testing.T) {
	dir := mounted(t, "tmpfs", 4<<20)
	db := openOn(t, dir, 1<<20)
	fill(t, db, 0, 3)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-o", "remount,ro", dir)
	for _, name := range []string{"store.db", "new.db"} {
		if _, err := Open(t.Context(), Config{Path: filepath.Join(dir, name)}); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Open(t.Context(), Config{Path: filepath.Join(dir, "new.db"), ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a store that is not there: got %v", err)
	}
	ro, err := Open(t.Context(), Config{Path: filepath.Join(dir, "store.db"), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if n := count(t, ro); n != 3 {
		t.Errorf("%d rows", n)
	}
}

// TestTurnsReadOnly lets ext4 find an error of its own, after which it takes no
// more writes: the store says so, goes on reading, and is not broken.
func TestTurnsReadOnly(t *testing.T) {
	dir := mounted(t, "ext4", 16<<20)
	run(t, "mount", "-o", "remount,errors=remount-ro", dir)
	db := openOn(t, dir, 1<<20)
	defer db.Close()
	fill(t, db, 0, 3)
	device := filepath.Base(run(t, "findmnt", "-n", "-o", "SOURCE", dir))
	if err := os.WriteFile("/sys/fs/ext4/"+device+"/trigger_fs_error", []byte("a test"), 0); err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		err := db.Apply(t.Context(), store.Batch{Spare: true, Ops: rowsOf(9)})
		if !errors.Is(err, store.ErrFull) || !errors.Is(err, syscall.EROFS) {
			t.Fatalf("write %d: got %v", n, err)
		}
	}
	if err := db.Low(); !errors.Is(err, syscall.EROFS) {
		t.Errorf("low: %v", err)
	}
	if n := count(t, db); n != 3 {
		t.Errorf("%d rows can be read", n)
	}
	select {
	case <-db.Failed():
		t.Error("the store says that it is broken")
	default:
	}
}
