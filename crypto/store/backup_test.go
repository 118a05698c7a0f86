package store_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// openKeys opens a backup's keyring under the wrapping key of these tests.
func openKeys(ctx context.Context, b keyring.Blob) (*keyring.Keyring, error) {
	return keyring.Open(ctx, keyring.Config{Blob: b, Wrapper: newWrapper(1)})
}

func (f *fixture) backup() ([]byte, store.Backup) {
	f.t.Helper()
	var out bytes.Buffer
	b, err := f.Backup(f.ctx(), &out)
	if err != nil {
		f.t.Fatal(err)
	}
	return out.Bytes(), b
}

// verified fails unless the backup is whole and nothing is wrong in it.
func verified(t testing.TB, backup []byte) (store.Backup, store.Report) {
	t.Helper()
	b, report, err := store.ReadBackup(context.Background(), bytes.NewReader(backup), openKeys)
	if err != nil || len(report.Problems) != 0 {
		t.Fatalf("verify: %v %v", err, report.Problems)
	}
	return b, report
}

// empty is a new store without anything in it, not even a keyring.
func empty(t testing.TB) (*boltstore.DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "restored.db")
	d, err := boltstore.Open(context.Background(), boltstore.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d, path
}

// restored is the store that a backup becomes; it must be consistent.
func restored(t testing.TB, backup []byte, c *clock, incarnation uint64) *fixture {
	t.Helper()
	d, path := empty(t)
	if _, err := store.Restore(context.Background(), bytes.NewReader(backup), d, openKeys, incarnation); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, path: path, clock: c}
	f.open(boltstore.Config{Path: path})
	t.Cleanup(f.close)
	f.clean()
	return f
}

func TestBackup(t *testing.T) {
	f, _ := peopled(t)
	data, made := f.backup()
	again, _ := f.backup()
	if !bytes.Equal(data, again) {
		t.Error("the same store gave two backups")
	}
	b, report := verified(t, data)
	if fmt.Sprint(b) != fmt.Sprint(made) || b.Bytes != int64(len(data)) || b.Incarnation != 1 || b.StoreID != f.keys.StoreID().String() || !b.MadeAt.Equal(f.clock.Now()) {
		t.Errorf("it says %+v of itself, and was made as %+v", b, made)
	}
	if live := f.clean(); fmt.Sprint(live) != fmt.Sprint(report) || fmt.Sprint(live.Counts) != fmt.Sprint(b.Rows) || live.States["indeterminate"] != 1 {
		t.Errorf("live %v, backup %v %v", live, report, b.Rows)
	}
	if bytes.Contains(data, []byte("marker")) {
		t.Error("something stands in the backup in clear")
	}
}

func TestRestore(t *testing.T) {
	f, _ := peopled(t)
	data, _ := f.backup()
	r := restored(t, data, f.clock, 7)
	if r.keys.Incarnation() != 7 || r.keys.StoreID() != f.keys.StoreID() {
		t.Fatalf("incarnation %d", r.keys.Incarnation())
	}
	r.holds("h1", 1, user.Active)
	r.holds("h2", 2, user.Indeterminate)
	if got, err := r.ByClientUserID(r.ctx(), app, "c1"); err != nil || got.HumanID != "h1" {
		t.Errorf("by clientUserId: %v", err)
	}
	if got, _ := r.session("h1", "1"); got.Outcome != user.Stored {
		t.Errorf("session: %+v", got)
	}
	// The intent came along, and is of the store that it was taken by.
	all, err := r.Intents(r.ctx())
	if err != nil || len(all) != 1 || all[0].Incarnation != 1 || all[0].Arrival != 4 {
		t.Fatalf("%d intents, %v", len(all), err)
	}
	r.finish(all[0], user.IndeterminateOutcome, user.ExchangeUnknown)
	// What is new arrives after all that was there.
	in := r.begin("h1", "new")
	if in.Arrival <= 4 || in.Incarnation != 7 {
		t.Errorf("arrival %d, incarnation %d", in.Arrival, in.Incarnation)
	}
	r.commit(in, "c1")
	r.holds("h1", in.Arrival, user.Active)
	// A backup of what was restored restores, too.
	data, b := r.backup()
	if verified(t, data); b.Incarnation != 7 {
		t.Errorf("incarnation %d", b.Incarnation)
	}
	restored(t, data, f.clock, 8).holds("h1", in.Arrival, user.Active)
}

// loading is a driver that looks at what it is to become, and then fails.
type loading struct {
	store.Driver
	info keyring.Info
}

func (l *loading) Load(ctx context.Context, i store.Image) (err error) {
	blob := &blobOf{blob: i.Blob}
	if l.info, err = keyring.Peek(ctx, blob); err != nil {
		return err
	}
	return errInjected
}

// blobOf is a blob that is only read.
type blobOf struct {
	keyring.Blob
	blob []byte
}

func (b *blobOf) LoadKeyring(context.Context) ([]byte, uint64, error) { return b.blob, 1, nil }

// TestNoMomentOfTheOldIncarnation: a restore that dies at any moment leaves no
// store that would send the intents again.
func TestNoMomentOfTheOldIncarnation(t *testing.T) {
	f, _ := peopled(t)
	data, _ := f.backup()
	d, _ := empty(t)
	l := &loading{Driver: d}
	if _, err := store.Restore(f.ctx(), bytes.NewReader(data), l, openKeys, 5); !errors.Is(err, errInjected) {
		t.Fatalf("got %v", err)
	}
	if l.info.Incarnation != 5 {
		t.Errorf("the driver was given a keyring of incarnation %d", l.info.Incarnation)
	}
}

func TestRestoreRefuses(t *testing.T) {
	f, _ := peopled(t)
	data, _ := f.backup()
	ctx := f.ctx()
	if _, err := store.Restore(ctx, bytes.NewReader(data), f.bolt, openKeys, 2); err == nil {
		t.Error("over a store that is not empty")
	}
	f.holds("h1", 1, user.Active)
	for name, r := range map[string]struct {
		data        []byte
		open        store.OpenKeyring
		incarnation uint64
	}{
		"the same incarnation": {data, openKeys, 1},
		"a cut backup":         {data[:len(data)-1], openKeys, 2},
		"a wrong HMAC":         {append(bytes.Clone(data[:len(data)-1]), data[len(data)-1]^1), openKeys, 2},
		"bytes after the end":  {append(bytes.Clone(data), 0), openKeys, 2},
		"another Transit key": {data, func(ctx context.Context, b keyring.Blob) (*keyring.Keyring, error) {
			return keyring.Open(ctx, keyring.Config{Blob: b, Wrapper: newWrapper(2)})
		}, 2},
	} {
		d, _ := empty(t)
		if _, err := store.Restore(ctx, bytes.NewReader(r.data), d, r.open, r.incarnation); err == nil {
			t.Errorf("%s: restored", name)
		}
		if _, version, err := d.LoadKeyring(ctx); version != 0 || err != nil {
			t.Errorf("%s: it became a store, %v", name, err)
		}
	}
}

// TestEveryFlippedByteOfABackup flips each byte, once as an accident would and
// once as somebody would who can compute a sum.
func TestEveryFlippedByteOfABackup(t *testing.T) {
	f, _ := peopled(t)
	data, _ := f.backup()
	for i := range data {
		for _, resum := range []bool{false, true} {
			bad := bytes.Clone(data)
			bad[i] ^= 0x01
			if resum {
				store.Resum(bad)
			}
			if bytes.Equal(bad, data) {
				continue // the sum itself, put right again
			}
			_, _, err := store.ReadBackup(f.ctx(), bytes.NewReader(bad), openKeys)
			if err == nil || (!resum && !errors.Is(err, store.ErrBackup)) {
				t.Fatalf("byte %d of %d (sum put right: %v): %v", i, len(data), resum, err)
			}
		}
	}
}

func TestEveryTruncationOfABackup(t *testing.T) {
	f, _ := peopled(t)
	data, _ := f.backup()
	for n := range data {
		for _, resum := range []bool{false, true} {
			bad := bytes.Clone(data[:n])
			if resum {
				store.Resum(bad)
			}
			if _, _, err := store.ReadBackup(f.ctx(), bytes.NewReader(bad), openKeys); !errors.Is(err, store.ErrBackup) {
				t.Fatalf("%d of %d bytes: %v", n, len(data), err)
			}
		}
	}
	if _, _, err := store.ReadBackup(f.ctx(), bytes.NewReader(append(data, 0)), openKeys); !errors.Is(err, store.ErrBackup) {
		t.Fatalf("a byte more: %v", err)
	}
}

// TestBackupsDoNotMix: the end of a later backup does not prove an earlier one.
func TestBackupsDoNotMix(t *testing.T) {
	f, _ := peopled(t)
	before, _ := f.backup()
	f.commit(f.begin("h1", "5"), "c1")
	after, _ := f.backup()
	mixed := append(bytes.Clone(before[:len(before)-32]), after[len(after)-32:]...)
	if _, _, err := store.ReadBackup(f.ctx(), bytes.NewReader(mixed), openKeys); !errors.Is(err, store.ErrBackup) {
		t.Fatalf("got %v", err)
	}
}

// TestReadBackupFindsWhatCheckFinds backs up stores in which something is wrong:
// the backup is whole, and says so, and says what.
func TestReadBackupFindsWhatCheckFinds(t *testing.T) {
	f, _ := peopled(t)
	for _, table := range []store.Table{store.Users, store.Index, store.Marks} {
		row := rowsOf(t, f.bolt, table)[0]
		apply := func(op store.Op) {
			t.Helper()
			if err := f.bolt.Apply(f.ctx(), store.Batch{Fence: f.keys.Version(), Ops: []store.Op{op}}); err != nil {
				t.Fatal(err)
			}
		}
		apply(store.Op{Table: table, Key: row.Key, Expect: row.Revision})
		f.agrees()
		bent := bytes.Clone(row.Value)
		bent[len(bent)-1] ^= 1
		apply(store.Op{Table: table, Key: row.Key, Revision: row.Revision, Value: bent})
		f.agrees()
		apply(store.Op{Table: table, Key: row.Key, Expect: row.Revision, Revision: row.Revision, Value: row.Value})
	}
}

// agrees fails unless a backup has the problems of the store, and there are some.
func (f *fixture) agrees() {
	f.t.Helper()
	live, err := f.Check(f.ctx())
	data, _ := f.backup()
	_, report, err2 := store.ReadBackup(f.ctx(), bytes.NewReader(data), openKeys)
	if err != nil || err2 != nil || len(live.Problems) == 0 || fmt.Sprint(live) != fmt.Sprint(report) {
		f.t.Errorf("live %v %v, backup %v %v", live, err, report, err2)
	}
}

// TestArchive holds a backup that remembers few places of its rows against the
// driver that it was made of.
func TestArchive(t *testing.T) {
	f := newFixture(t)
	for n := range 40 {
		f.commit(f.begin(fmt.Sprint("h", n), fmt.Sprint(n)), user.ClientUserID(fmt.Sprint("c", n)))
	}
	data, _ := f.backup()
	for _, most := range []int{2, 3, 8, 1000} {
		a, err := store.OpenArchive(f.ctx(), bytes.NewReader(data), most, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range store.Tables {
			f.same(a, table)
		}
	}
	a, err := store.OpenArchive(f.ctx(), bytes.NewReader(data), 8, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(f.ctx(), store.Batch{}); err == nil {
		t.Error("a backup was written to")
	}
}

// same fails unless both drivers show the same rows, however they are asked.
func (f *fixture) same(a store.Driver, table store.Table) {
	f.t.Helper()
	var after *[32]byte
	for {
		want, err := f.bolt.Scan(f.ctx(), table, after, 7)
		got, err2 := a.Scan(f.ctx(), table, after, 7)
		if err != nil || err2 != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			f.t.Fatalf("%s: %d rows, want %d; %v %v", table, len(got), len(want), err, err2)
		}
		for _, row := range want {
			got, found, err := a.Get(f.ctx(), table, row.Key)
			if err != nil || !found || fmt.Sprint(got) != fmt.Sprint(row) {
				f.t.Fatalf("%s: found %v, %v", table, found, err)
			}
			row.Key[31]++
			if _, found, err := a.Get(f.ctx(), table, row.Key); found || err != nil {
				f.t.Fatalf("%s: found what is not there, %v", table, err)
			}
		}
		if len(want) < 7 {
			return
		}
		after = &want[6].Key
	}
}

// narrow takes so many bytes and no more.
type narrow struct{ left int }

var errNarrow = errors.New("takes no more")

func (n *narrow) Write(b []byte) (int, error) {
	if n.left -= len(b); n.left < 0 {
		return 0, errNarrow
	}
	return len(b), nil
}

func TestBackupThatCannotBeWritten(t *testing.T) {
	f, _ := peopled(t)
	data, _ := f.backup()
	for _, left := range []int{0, 100, len(data) - 1} {
		if _, err := f.Backup(f.ctx(), &narrow{left}); !errors.Is(err, errNarrow) || user.KindOf(err) != "" {
			t.Errorf("after %d bytes: %v", left, err)
		}
	}
	ctx, cancel := context.WithCancel(f.ctx())
	cancel()
	if _, err := f.Backup(ctx, &narrow{1 << 30}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

const goldenBackup = "testdata/v1.backup"

// TestGoldenBackup restores what version 1 wrote.
func TestGoldenBackup(t *testing.T) {
	if flag.Lookup("update").Value.String() == "true" {
		f, _ := peopled(t)
		data, _ := f.backup()
		if err := os.WriteFile(goldenBackup, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(goldenBackup)
	if err != nil {
		t.Fatal(err)
	}
	b, report := verified(t, data)
	if b.Incarnation != 1 || report.States["active"] != 1 || fmt.Sprint(b.Rows) != "map[index:2 intents:1 marks:1 sessions:3 users:2]" {
		t.Errorf("%+v", b)
	}
	f := newFixture(t)
	r := restored(t, data, f.clock, 2)
	r.holds("h1", 1, user.Active)
	r.holds("h2", 2, user.Indeterminate)
	var again bytes.Buffer
	if err := store.Reencode(f.ctx(), bytes.NewReader(data), &again); err != nil || !bytes.Equal(again.Bytes(), data) {
		t.Errorf("what was read writes other bytes, %v", err)
	}
}

// FuzzBackup: whatever the bytes, nothing but an error comes of those that are
// no backup, and what is read writes the same bytes.
func FuzzBackup(f *testing.F) {
	golden, err := os.ReadFile(goldenBackup)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(golden[:len(golden)/2])
	f.Add([]byte("TVBK\x01" + strings.Repeat("\x00", 28)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		store.Resum(data)
		var again bytes.Buffer
		parsed := store.Reencode(t.Context(), bytes.NewReader(data), &again)
		if parsed == nil && !bytes.Equal(again.Bytes(), data) {
			t.Fatal("two encodings of one backup")
		}
		a, err := store.OpenArchive(t.Context(), bytes.NewReader(data), 4, 1)
		if (err == nil) != (parsed == nil) {
			t.Fatalf("one reader says %v, the other %v", parsed, err)
		}
		if err != nil {
			return
		}
		for _, table := range store.Tables {
			if _, err := a.Scan(t.Context(), table, nil, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		_, report, err := store.ReadBackup(t.Context(), bytes.NewReader(data), openKeys)
		if err == nil && !bytes.Equal(data, golden) {
			t.Fatalf("somebody else's backup was believed: %v", report)
		}
	})
}
