package boltstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/storetest"
)

var _ store.Driver = (*DB)(nil)

func mustOpen(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(context.Background(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func fill(t testing.TB, db *DB, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := db.Apply(context.Background(), store.Batch{Ops: []store.Op{{Table: store.Users, Key: storetest.Key(n), Revision: 1, Value: make([]byte, 500)}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func count(t testing.TB, db *DB) int {
	t.Helper()
	rows, err := db.Scan(context.Background(), store.Users, nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return len(rows)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Driver {
		path := filepath.Join(t.TempDir(), "store.db")
		return func() store.Driver {
			db, err := Open(t.Context(), Config{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			return db
		}
	})
}

func TestOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db := mustOpen(t, path)
	for _, readOnly := range []bool{false, true} {
		if _, err := Open(t.Context(), Config{Path: path, ReadOnly: readOnly}); !errors.Is(err, ErrHeld) {
			t.Errorf("a second open, read-only %v: got %v", readOnly, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatalf("a second close: %v", err)
	}
	mustOpen(t, path)
}

func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if _, err := Open(t.Context(), Config{Path: path, ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a file that is not there: got %v", err)
	}
	db := mustOpen(t, path)
	fill(t, db, 0, 3)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ro, err := Open(t.Context(), Config{Path: path, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, ro); n != 3 {
		t.Errorf("%d rows", n)
	}
	if err := ro.Apply(t.Context(), store.Batch{}); err == nil {
		t.Error("a read-only store was written")
	}
	if _, err := ro.SwapKeyring(t.Context(), 0, []byte("x")); err == nil {
		t.Error("the keyring of a read-only store was written")
	}
	if err := ro.Close(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("reading changed the file (%v)", err)
	}
}

func TestFileIsOurs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	db := mustOpen(t, path)
	if err := errors.Join(db.Close(), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Symlink(path, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: filepath.Join(dir, "link")}); err == nil {
		t.Error("a symbolic link was opened")
	}
	if _, err := Open(t.Context(), Config{Path: dir}); err == nil {
		t.Error("a folder was opened")
	}
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("no path was opened")
	}
}

func TestNotOurs(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.db")
	b, err := bbolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("else")); return err }); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: other}); err == nil {
		t.Error("another program's bbolt file was opened")
	}
	newer := filepath.Join(dir, "newer.db")
	db := mustOpen(t, newer)
	if err := db.bolt.Update(func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(formatKey, []byte{2}) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: newer}); err == nil {
		t.Error("a newer format was opened")
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no store, but longer than nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: text}); err == nil {
		t.Error("a text file was opened")
	}
}

// TestCrashImage copies the file while it is written to, as a crash would leave it
// with the page cache kept: every acknowledged write is there.
func TestCrashImage(t *testing.T) {
	dir := t.TempDir()
	db := mustOpen(t, filepath.Join(dir, "store.db"))
	for round := range 5 {
		fill(t, db, round*20, round*20+20)
		image := filepath.Join(dir, fmt.Sprintf("image-%d.db", round))
		data, err := os.ReadFile(db.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(image, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if n := count(t, mustOpen(t, image)); n != round*20+20 {
			t.Fatalf("image %d has %d rows", round, n)
		}
	}
}

// TestFailedWriteBreaks opens the file so that no write can succeed.
func TestFailedWriteBreaks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db := mustOpen(t, path)
	fill(t, db, 0, 3)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := open(t.Context(), Config{Path: path}, func(o *bbolt.Options) {
		o.OpenFile = func(path string, _ int, mode os.FileMode) (*os.File, error) {
			return os.OpenFile(path, os.O_RDONLY, mode)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b := store.Batch{Ops: []store.Op{{Table: store.Users, Key: storetest.Key(9), Revision: 1, Value: []byte("x")}}}
	for range 2 {
		if err := db.Apply(t.Context(), b); !errors.Is(err, store.ErrBroken) {
			t.Fatalf("got %v", err)
		}
	}
	select {
	case <-db.Failed():
	default:
		t.Error("Failed is not closed")
	}
	if n := count(t, db); n != 3 {
		t.Errorf("%d rows can be read", n)
	}
}

// TestFullIsNoEnd fills the file to a limit: writes fail, reads go on, and there is
// room again after a delete.
func TestFullIsNoEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db, err := open(t.Context(), Config{Path: path}, func(o *bbolt.Options) { o.MaxSize = 1 << 20 })
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	big := func(n int) error {
		return db.Apply(t.Context(), store.Batch{Ops: []store.Op{{Table: store.Users, Key: storetest.Key(n), Revision: 1, Value: make([]byte, 64<<10)}}})
	}
	n := 0
	for err = big(n); err == nil && n < 100; err = big(n) {
		n++
	}
	if err == nil || errors.Is(err, store.ErrBroken) {
		t.Fatalf("a full file: got %v", err)
	}
	if got := count(t, db); got != n {
		t.Errorf("%d rows of %d can be read", got, n)
	}
	for i := range 2 {
		if err := db.Apply(t.Context(), store.Batch{Ops: []store.Op{{Table: store.Users, Key: storetest.Key(i), Expect: 1}}}); err != nil {
			t.Fatalf("delete from a full file: %v", err)
		}
	}
	if err := big(1); err != nil {
		t.Errorf("no room after a delete: %v", err)
	}
}

func TestFullOrBroken(t *testing.T) {
	path := func(op string, err error) error { return fmt.Errorf("x: %w", &fs.PathError{Op: op, Err: err}) }
	for _, c := range []struct {
		err  error
		want bool
	}{
		{path("write", syscall.ENOSPC), true}, {path("write", syscall.EDQUOT), true}, {path("write", syscall.EIO), false},
		{syscall.ENOSPC, false}, {syscall.EIO, false}, {path("sync", syscall.ENOSPC), false},
		{fmt.Errorf("file sync error: %s", syscall.ENOSPC), false}, {fmt.Errorf("file resize error: %s", syscall.EFBIG), true},
		{ErrDamaged, false}, {berrors.ErrTxClosed, false},
	} {
		if got := isFull(c.err); got != c.want {
			t.Errorf("%v: full %v", c.err, got)
		}
	}
}

// TestAltered flips bytes all over the file, and cuts it anywhere. Whatever bbolt
// makes of it, the process survives.
func TestAltered(t *testing.T) {
	dir := t.TempDir()
	db := mustOpen(t, filepath.Join(dir, "store.db"))
	fill(t, db, 0, 60)
	data, err := os.ReadFile(db.path)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "altered.db")
	used, err := db.Size()
	if err != nil {
		t.Fatal(err)
	}
	data = data[:used]
	damaged := 0
	look := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if readAll(t, path) {
			damaged++
		}
	}
	for at := 3; at < len(data); at += 509 {
		data[at] ^= 0x80
		look(data)
		data[at] ^= 0x80
	}
	for cut := 0; cut < len(data); cut += 1024 {
		look(data[:cut])
	}
	if damaged == 0 {
		t.Error("nothing was found damaged")
	}
}

// readAll reads a file that may be damaged, and reports whether that was said.
func readAll(t *testing.T, path string) (damaged bool) {
	db, err := Open(t.Context(), Config{Path: path, ReadOnly: true})
	if err != nil {
		return errors.Is(err, ErrDamaged)
	}
	for n := range 60 {
		_, _, err := db.Get(t.Context(), store.Users, storetest.Key(n))
		damaged = damaged || errors.Is(err, ErrDamaged)
	}
	_, err = db.Scan(t.Context(), store.Users, nil, 100)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return damaged || errors.Is(err, ErrDamaged)
}

// TestWithdrawn ends the contexts of writers that wait for their turn: what said
// that it was withdrawn is not there, what said nothing is.
func TestWithdrawn(t *testing.T) {
	db := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make([]error, 64)
	var wg sync.WaitGroup
	for n := range errs {
		wg.Go(func() {
			errs[n] = db.Apply(ctx, store.Batch{
				Ops: []store.Op{{Table: store.Users, Key: storetest.Key(n), Revision: 1, Value: []byte("x")}},
				Arrive: func(uint64) (store.Op, error) {
					cancel()
					return store.Op{Table: store.Intents, Key: storetest.Key(n), Revision: 1, Value: []byte("x")}, nil
				},
			})
		})
	}
	wg.Wait()
	if err := db.Close(); err != nil { // whatever was still to be written is now
		t.Fatal(err)
	}
	db = mustOpen(t, db.path)
	for n, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if _, found, _ := db.Get(t.Context(), store.Users, storetest.Key(n)); found != (err == nil) {
			t.Errorf("writer %d: error %v, row there %v", n, err, found)
		}
	}
}
