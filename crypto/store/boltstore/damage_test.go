package boltstore

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/storetest"
)

// closedStore is the path of a store with n users of 500 bytes.
func closedStore(t testing.TB, n int) string {
	t.Helper()
	db := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	var ops []store.Op
	for k := range n {
		ops = append(ops, store.Op{Table: store.Users, Key: storetest.Key(k), Revision: 1, Value: make([]byte, 500)})
	}
	if err := errors.Join(db.Apply(t.Context(), store.Batch{Ops: ops}), db.Close()); err != nil {
		t.Fatal(err)
	}
	return db.path
}

func contents(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// overwrite keeps the file and replaces what is in it.
func overwrite(t testing.TB, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(data, 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func broken(t *testing.T, db *DB, why error) {
	t.Helper()
	for n := range 2 {
		err := db.Apply(t.Context(), store.Batch{Ops: rowsOf(900)})
		if !errors.Is(err, store.ErrBroken) || n == 0 && !errors.Is(err, why) {
			t.Fatalf("write %d: got %v", n, err)
		}
	}
	select {
	case <-db.Failed():
	default:
		t.Error("Failed is not closed")
	}
}

func rowsOf(n int) []store.Op {
	return []store.Op{{Table: store.Users, Key: storetest.Key(n), Revision: 1, Value: []byte("x")}}
}

// TestNoStore opens what is no store, or none any more. Nothing is made of it.
func TestNoStore(t *testing.T) {
	whole := contents(t, closedStore(t, 300))
	db := mustOpen(t, filepath.Join(t.TempDir(), "fresh.db"))
	used := db.used.Load()
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("no store, but longer than nothing\n"), "zeros": make([]byte, 1<<16),
		"random": random(1 << 16), "first page": whole[:4096], "half a page": whole[:6000], "cut": whole[:used+4096],
	} {
		for _, readOnly := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "store.db")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), Config{Path: path, ReadOnly: readOnly}); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s, read-only %v: got %v", name, readOnly, err)
			}
			if string(contents(t, path)) != string(data) {
				t.Errorf("%s was written to", name)
			}
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(b) // never fails
	return b
}

// TestFreeListIsChecked alters the list of pages that bbolt will write to: it has no
// checksum.
func TestFreeListIsChecked(t *testing.T) {
	path := closedStore(t, 300)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := readHead(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	at := int64(h.freelist) * h.pageSize
	whole := contents(t, path)
	if order.Uint16(whole[at+10:]) < 2 {
		t.Fatal("too short a list for this test")
	}
	for name, alter := range map[string]func(list []byte){
		"too long":     func(l []byte) { order.PutUint16(l[10:], 60_000) },
		"huge":         func(l []byte) { order.PutUint16(l[10:], manyFree); order.PutUint64(l[16:], 1<<63) },
		"other page":   func(l []byte) { order.PutUint64(l, 1) },
		"no list":      func(l []byte) { order.PutUint16(l[8:], leafFlag) },
		"out of order": func(l []byte) { order.PutUint64(l[24:], order.Uint64(l[16:])) },
		"meta page":    func(l []byte) { order.PutUint64(l[16:], 1) },
		"beyond":       func(l []byte) { n := int(order.Uint16(l[10:])); order.PutUint64(l[8+8*n:], h.pages) },
	} {
		data := append([]byte(nil), whole...)
		alter(data[at:])
		overwrite(t, path, data)
		if _, err := Open(t.Context(), Config{Path: path}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	overwrite(t, path, whole)
	mustOpen(t, path)
}

// TestLoop makes a branch lead back to itself, and to a page that is far away, and
// two branches to the same page: bbolt's own cursors would end the process.
func TestLoop(t *testing.T) {
	path := closedStore(t, 300)
	root := rootOf(t, path)
	whole := contents(t, path)
	branch := whole[root*4096:]
	if order.Uint16(branch[8:]) != branchFlag {
		t.Fatal("too small a store for this test")
	}
	child := func(data []byte, i int) []byte { return data[root*4096+headerLen+uint64(i)*elementLen+8:] }
	for name, alter := range map[string]func(data []byte){
		"to itself":   func(d []byte) { order.PutUint64(child(d, 0), root); order.PutUint64(child(d, 1), root) },
		"far away":    func(d []byte) { order.PutUint64(child(d, 0), 1<<40); order.PutUint64(child(d, 1), 1<<40) },
		"same child":  func(d []byte) { order.PutUint64(child(d, 1), order.Uint64(child(d, 0))) },
		"no children": func(d []byte) { order.PutUint16(d[root*4096+10:], 0) },
	} {
		data := append([]byte(nil), whole...)
		alter(data)
		overwrite(t, path, data)
		db, err := Open(t.Context(), Config{Path: path})
		if err == nil {
			_, err = db.Scan(t.Context(), store.Users, nil, 1000)
			_, _, err2 := db.Get(t.Context(), store.Users, storetest.Key(0))
			err3 := db.Apply(t.Context(), store.Batch{Ops: []store.Op{{Table: store.Users, Key: storetest.Key(0), Expect: 1}}})
			err4 := db.Snapshot(t.Context(), func(s store.Snapshot) error {
				return s.Rows(store.Users, func(store.Row) error { return nil })
			})
			if name != "same child" && (!errors.Is(err2, ErrDamaged) || !errors.Is(err3, ErrDamaged)) {
				t.Errorf("%s: get %v, apply %v", name, err2, err3)
			}
			if !errors.Is(err4, ErrDamaged) {
				t.Errorf("%s: snapshot %v", name, err4)
			}
			_ = db.Close() // says that it was damaged when a write found that out
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// rootOf is the page where the users' tree begins.
func rootOf(t testing.TB, path string) (root uint64) {
	t.Helper()
	db := mustOpen(t, path)
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		root = uint64(tx.Bucket([]byte("users")).Root())
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return root
}

// TestCutWhileOpen takes the end of the file away under an open store.
func TestCutWhileOpen(t *testing.T) {
	path := closedStore(t, 300)
	db := mustOpen(t, path)
	if err := os.Truncate(path, 3*4096); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Scan(t.Context(), store.Users, nil, 1000); !errors.Is(err, ErrDamaged) {
		t.Errorf("scan: got %v", err)
	}
	if _, _, err := db.Get(t.Context(), store.Users, storetest.Key(200)); !errors.Is(err, ErrDamaged) {
		t.Errorf("get: got %v", err)
	}
	broken(t, db, errCut)
}

// TestReplacedWhileOpen puts an older copy in place of an open store, as a new
// file and into the same one. No write is acknowledged after that.
func TestReplacedWhileOpen(t *testing.T) {
	t.Run("file", func(t *testing.T) {
		path := closedStore(t, 30)
		copied := path + ".copy"
		if err := os.WriteFile(copied, contents(t, path), 0o600); err != nil {
			t.Fatal(err)
		}
		db := mustOpen(t, path)
		fill(t, db, 100, 103)
		if err := os.Rename(copied, path); err != nil {
			t.Fatal(err)
		}
		broken(t, db, errMoved)
	})
	t.Run("removed", func(t *testing.T) {
		db := mustOpen(t, closedStore(t, 30))
		if err := os.Remove(db.path); err != nil {
			t.Fatal(err)
		}
		broken(t, db, errMoved)
	})
	t.Run("content", func(t *testing.T) {
		path := closedStore(t, 30)
		old := contents(t, path)
		db := mustOpen(t, path)
		fill(t, db, 100, 103)
		overwrite(t, path, old)
		broken(t, db, errReplaced)
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// TestOlderCopy is opened, and its position tells.
func TestOlderCopy(t *testing.T) {
	path := closedStore(t, 30)
	old := contents(t, path)
	db := mustOpen(t, path)
	fill(t, db, 100, 103)
	newer, err := db.Position(t.Context())
	if err := errors.Join(err, db.Close(), os.WriteFile(path, old, 0o600)); err != nil {
		t.Fatal(err)
	}
	if older, err := mustOpen(t, path).Position(t.Context()); err != nil || older != newer-3 {
		t.Errorf("position %d after %d, %v", older, newer, err)
	}
}

// TestMakingIsWhole: what is left of a store that was being made, or is another
// name of one, is neither taken for a store nor written to.
func TestMakingIsWhole(t *testing.T) {
	for name, left := range map[string][]byte{"nothing": {}, "half": random(5000)} {
		path := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(path+".new", left, 0o600); err != nil {
			t.Fatal(err)
		}
		fill(t, mustOpen(t, path), 0, 3)
		if _, err := os.Lstat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	kept := closedStore(t, 30)
	before := contents(t, kept)
	path := filepath.Join(filepath.Dir(kept), "another.db")
	if err := os.Link(kept, path+".new"); err != nil {
		t.Fatal(err)
	}
	fill(t, mustOpen(t, path), 0, 3)
	if string(contents(t, kept)) != string(before) {
		t.Error("a store was emptied through another name of it")
	}
	making, err := openBeside(path+".new", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer making.Close()
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: path}); !errors.Is(err, ErrHeld) {
		t.Errorf("while another makes it: got %v", err)
	}
}

// TestHalfLoaded is not opened.
func TestHalfLoaded(t *testing.T) {
	db := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	cut := errors.New("cut")
	err := db.Load(t.Context(), store.Image{Blob: []byte("keys"), Next: func() (store.Table, store.Row, bool, error) { return 0, store.Row{}, false, cut }})
	if err := errors.Join(db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err2 := Open(t.Context(), Config{Path: db.path}); !errors.Is(err, cut) || !errors.Is(err2, errHalfLoaded) {
		t.Errorf("load: %v; open: %v", err, err2)
	}
}

// TestLittleAddressSpace opens a store where so much cannot be mapped ahead.
func TestLittleAddressSpace(t *testing.T) {
	db, err := open(t.Context(), Config{Path: closedStore(t, 30)}, func(o *bbolt.Options) { o.InitialMmapSize = 1 << 47 })
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fill(t, db, 100, 103)
}

// FuzzDamage alters a few bytes anywhere in a store: it is refused, or used, and
// the process survives.
func FuzzDamage(f *testing.F) {
	path := closedStore(f, 100)
	root := rootOf(f, path)
	whole := contents(f, path)
	for _, at := range []uint32{8, 16, 24, uint32(root)*4096 + 8, uint32(root)*4096 + 24, uint32(root)*4096 + 40, 3 * 4096} {
		f.Add(at, uint64(root), uint8(2))
		f.Add(at, uint64(1)<<40, uint8(8))
	}
	f.Fuzz(func(t *testing.T, at uint32, value uint64, n uint8) {
		path := filepath.Join(t.TempDir(), "store.db")
		data := append([]byte(nil), whole...)
		b := order.AppendUint64(nil, value)
		copy(data[int(at)%len(data):], b[:n%9])
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(t.Context(), Config{Path: path})
		if err != nil {
			return
		}
		_, _ = db.Scan(t.Context(), store.Users, nil, 1000)
		for k := 0; k < 100; k += 9 {
			_, _, _ = db.Get(t.Context(), store.Users, storetest.Key(k))
			_ = db.Apply(t.Context(), store.Batch{Ops: []store.Op{{Table: store.Users, Key: storetest.Key(k), Expect: 1}}})
		}
		_ = db.Close()
	})
}
