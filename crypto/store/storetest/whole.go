package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/store"
)

func at(t *testing.T, d store.Driver) uint64 {
	t.Helper()
	n, err := d.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// position grows with what changed something, and with nothing else, and not
// across opening.
func position(t *testing.T, open func() store.Driver) {
	d := open()
	last := at(t, d)
	grown := func(what string, want bool) {
		t.Helper()
		if n := at(t, d); n < last || n > last != want {
			t.Fatalf("position %d after %d, and %s", n, last, what)
		} else {
			last = n
		}
	}
	apply(t, d, nil, put(store.Users, 1, 0, "one"))
	grown("a write", true)
	apply(t, d, store.ErrConflict, put(store.Users, 1, 0, "one"))
	grown("a conflict", false)
	expect(t, d, store.Users, 1, 1, "one")
	grown("a read", false)
	version, err := d.SwapKeyring(t.Context(), 0, []byte("keys"))
	if err != nil {
		t.Fatal(err)
	}
	grown("a swap of the keyring", true)
	arrive(t, d, version, 1)
	grown("an arrival", true)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Position(t.Context()); err == nil {
		t.Fatal("a closed store has a position")
	}
	d = start(t, open)
	if n := at(t, d); n < last {
		t.Fatalf("position %d after %d, when opened again", n, last)
	}
}

// content is all of a store, by table and key.
type content struct {
	blob     string
	version  uint64
	arrival  uint64
	position uint64
	rows     map[store.Table][]store.Row
}

func contentOf(t *testing.T, d store.Driver) (c content) {
	t.Helper()
	err := d.Snapshot(t.Context(), func(s store.Snapshot) error {
		var err error
		c, err = read(s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(s store.Snapshot) (content, error) {
	c := content{arrival: s.Arrival(), position: s.Position(), rows: make(map[store.Table][]store.Row)}
	blob, version := s.Keyring()
	c.blob, c.version = string(blob), version
	for _, table := range store.Tables {
		err := s.Rows(table, func(r store.Row) error {
			r.Value = slices.Clone(r.Value)
			c.rows[table] = append(c.rows[table], r)
			return nil
		})
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// snapshotRows reads everything, in order, as it was when the snapshot began.
func snapshotRows(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	if c := contentOf(t, d); c.version != 0 || c.blob != "" || c.arrival != 0 || len(c.rows) != 0 {
		t.Fatalf("a snapshot of an empty store: %+v", c)
	}
	filled(t, d, 700)
	before := contentOf(t, d)
	if before.blob != "keys" || before.version == 0 || before.arrival != 1 || before.position != at(t, d) {
		t.Fatalf("keyring %q version %d, arrival %d, position %d", before.blob, before.version, before.arrival, before.position)
	}
	for n, row := range before.rows[store.Users] {
		if row.Key != Key(n) || row.Revision != 1 || string(row.Value) != fmt.Sprint(n) {
			t.Fatalf("row %d is wrong or out of order", n)
		}
	}
	if len(before.rows[store.Users]) != 700 || len(before.rows[store.Intents]) != 1 {
		t.Fatalf("%d users, %d intents", len(before.rows[store.Users]), len(before.rows[store.Intents]))
	}
	var during content
	stop := errors.New("stop")
	err := d.Snapshot(t.Context(), func(s store.Snapshot) (err error) {
		if err := d.Apply(t.Context(), store.Batch{Fence: before.version, Ops: []store.Op{put(store.Users, 3, 1, "new"), {Table: store.Users, Key: Key(600), Expect: 1}}}); err != nil {
			return err
		}
		arrive(t, d, before.version, 2)
		during, err = read(s)
		return errors.Join(err, stop)
	})
	if !errors.Is(err, stop) {
		t.Fatalf("the visitor's error: got %v", err)
	}
	same(t, during, before)
	if after := contentOf(t, d); after.position <= before.position || after.arrival != 2 || len(after.rows[store.Users]) != 699 {
		t.Fatalf("position %d after %d, arrival %d, %d users", after.position, before.position, after.arrival, len(after.rows[store.Users]))
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = d.Snapshot(ctx, func(s store.Snapshot) error {
		cancel()
		return s.Rows(store.Users, func(store.Row) error { return nil })
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a snapshot whose context ended: got %v", err)
	}
}

// filled writes users with their number as value, a keyring and an arrival.
func filled(t *testing.T, d store.Driver, users int) {
	t.Helper()
	var ops []store.Op
	for n := range users {
		ops = append(ops, put(store.Users, n, 0, fmt.Sprint(n)))
	}
	apply(t, d, nil, ops...)
	version, err := d.SwapKeyring(t.Context(), 0, []byte("keys"))
	if err != nil {
		t.Fatal(err)
	}
	arrive(t, d, version, 1)
}

func same(t *testing.T, got, want content) {
	t.Helper()
	if got.blob != want.blob || got.arrival != want.arrival {
		t.Fatalf("keyring %q, arrival %d; want %q, %d", got.blob, got.arrival, want.blob, want.arrival)
	}
	rowEqual := func(a, b store.Row) bool {
		return a.Key == b.Key && a.Revision == b.Revision && string(a.Value) == string(b.Value)
	}
	if !maps.EqualFunc(got.rows, want.rows, func(a, b []store.Row) bool { return slices.EqualFunc(a, b, rowEqual) }) {
		t.Fatal("the rows are not the same")
	}
}

// snapshotBeside lets writers count rows up together while snapshots are taken:
// each is of one moment, and they do not go back.
func snapshotBeside(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	apply(t, d, nil, put(store.Users, 1, 0, "0"), put(store.Index, 1, 0, "0"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range rounds {
				for countUp(t, d) {
				}
			}
		})
	}
	var last content
	for n := 0; n < 4*rounds; {
		c := contentOf(t, d)
		users, index := c.rows[store.Users][0], c.rows[store.Index][0]
		if users.Revision != index.Revision || string(users.Value) != string(index.Value) {
			t.Fatalf("a snapshot of two moments: revisions %d and %d", users.Revision, index.Revision)
		}
		if last.rows != nil && (c.position < last.position || users.Revision < last.rows[store.Users][0].Revision) {
			t.Fatal("a snapshot went back")
		}
		if last.rows != nil && c.position == last.position && users.Revision != last.rows[store.Users][0].Revision {
			t.Fatal("two contents at one position")
		}
		last = c
		n, _ = strconv.Atoi(string(users.Value))
	}
	wg.Wait()
}

// image replays a content; Next fails after that many rows (negative: never).
func image(c content, failAfter int) store.Image {
	var tables []store.Table
	var rows []store.Row
	for _, table := range store.Tables {
		for _, row := range c.rows[table] {
			tables, rows = append(tables, table), append(rows, row)
		}
	}
	n := -1
	return store.Image{Blob: []byte(c.blob), Arrival: c.arrival, Next: func() (store.Table, store.Row, bool, error) {
		n++
		switch {
		case n == failAfter:
			return 0, store.Row{}, false, errors.New("cut")
		case n == len(rows):
			return 0, store.Row{}, false, nil
		}
		row := rows[n]
		row.Value = slices.Clone(row.Value)
		if n > 0 {
			clear(rows[n-1].Value) // valid until the next call only
		}
		rows[n] = row
		return tables[n], row, true, nil
	}}
}

// load fills a store with what another has held, and goes on from there.
func load(t *testing.T, open func() store.Driver) {
	d := open()
	want := content{blob: "other keys", arrival: 41, rows: map[store.Table][]store.Row{
		store.Sessions: {{Key: Key(7), Revision: 1, Value: []byte{}}},
		store.Marks:    {{Key: Key(9), Revision: 1 << 40, Value: []byte("mark")}},
	}}
	for n := range 12_000 {
		want.rows[store.Users] = append(want.rows[store.Users], store.Row{Key: Key(n), Revision: uint64(n + 1), Value: fmt.Append(nil, n)})
	}
	if err := d.Load(t.Context(), image(content{rows: want.rows}, -1)); err == nil {
		t.Fatal("an image without a keyring was loaded")
	}
	if err := errors.Join(d.Load(t.Context(), image(clone(want), -1)), d.Close()); err != nil {
		t.Fatal(err)
	}
	d = start(t, open)
	same(t, contentOf(t, d), want)
	if err := d.Load(t.Context(), image(want, -1)); err == nil {
		t.Fatal("a store that is not empty was loaded")
	}
	_, version, err := d.LoadKeyring(t.Context())
	if err != nil || version == 0 {
		t.Fatalf("version %d, %v", version, err)
	}
	if n := arrive(t, d, version, 1); n <= 41 {
		t.Fatalf("arrival %d after 41", n)
	}
}

func clone(c content) content {
	rows := make(map[store.Table][]store.Row)
	for table, all := range c.rows {
		for _, row := range all {
			row.Value = slices.Clone(row.Value)
			rows[table] = append(rows[table], row)
		}
	}
	c.rows = rows
	return c
}

// loadCutShort leaves no keyring, and nothing that can be loaded again.
func loadCutShort(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	want := content{blob: "keys", arrival: 1, rows: make(map[store.Table][]store.Row)}
	for n := range 30 {
		want.rows[store.Users] = append(want.rows[store.Users], store.Row{Key: Key(n), Revision: 1, Value: []byte("x")})
	}
	if err := d.Load(t.Context(), image(clone(want), 20)); err == nil {
		t.Fatal("a cut image was loaded")
	}
	if _, version, err := d.LoadKeyring(t.Context()); err != nil || version != 0 {
		t.Fatalf("a store that was half loaded has a keyring: version %d, %v", version, err)
	}
	if err := d.Load(t.Context(), image(want, -1)); err == nil {
		t.Fatal("a store that was half loaded was loaded again")
	}
}
