// Package storetest is the suite that every driver of package store passes: what
// the store relies on, asked of a real driver over real files or servers.
//
// It trusts nothing that a driver says about itself, and never looks inside one.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
)

// Fresh prepares a new empty store and returns how to open it. The suite opens
// it, closes it, and opens it again, one at a time.
type Fresh func(t *testing.T) (open func() store.Driver)

// Run runs the suite.
func Run(t *testing.T, fresh Fresh) {
	for _, c := range []struct {
		name string
		test func(*testing.T, func() store.Driver)
	}{
		{"absent", absent}, {"write and read", writeRead}, {"conditions", conditions},
		{"all or nothing", allOrNothing}, {"tables are apart", tablesApart},
		{"fence", fence}, {"keyring", keyringBlob}, {"concurrent keyring", concurrentKeyring},
		{"arrival", arrivals}, {"concurrent arrival", concurrentArrivals}, {"refused arrival", refusedArrival},
		{"concurrent compare and swap", concurrentSwap}, {"scan", scan}, {"ownership", ownership},
		{"reopen", reopen}, {"ended context", endedContext}, {"closed", closed}, {"size", size},
		{"position", position}, {"snapshot", snapshotRows}, {"snapshot under writers", snapshotBeside}, {"load", load}, {"load cut short", loadCutShort},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

// Key is a row key made from a number; keys are in the order of their numbers.
func Key(n int) (key [32]byte) {
	binary.BigEndian.PutUint64(key[:], uint64(n))
	return key
}

// start opens a store for one test.
func start(t *testing.T, open func() store.Driver) store.Driver {
	d := open()
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func put(t store.Table, n int, expect uint64, value string) store.Op {
	return store.Op{Table: t, Key: Key(n), Expect: expect, Revision: expect + 1, Value: []byte(value)}
}

func apply(t *testing.T, d store.Driver, want error, ops ...store.Op) {
	t.Helper()
	if err := d.Apply(t.Context(), store.Batch{Ops: ops}); !errors.Is(err, want) {
		t.Fatalf("apply: got %v, want %v", err, want)
	}
}

// expect fails unless the row is there with that revision and value; revision 0:
// it is absent.
func expect(t *testing.T, d store.Driver, table store.Table, n int, revision uint64, value string) {
	t.Helper()
	row, found, err := d.Get(t.Context(), table, Key(n))
	if err != nil || found != (revision != 0) {
		t.Fatalf("get %s %d: found %v, error %v", table, n, found, err)
	}
	if found && (row.Key != Key(n) || row.Revision != revision || string(row.Value) != value) {
		t.Fatalf("get %s %d: revision %d, value %q; want %d, %q", table, n, row.Revision, row.Value, revision, value)
	}
}

func absent(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	for _, table := range store.Tables {
		expect(t, d, table, 1, 0, "")
		if rows, err := d.Scan(t.Context(), table, nil, 10); err != nil || len(rows) != 0 {
			t.Fatalf("scan of an empty table: %d rows, %v", len(rows), err)
		}
	}
	if blob, version, err := d.LoadKeyring(t.Context()); err != nil || version != 0 || len(blob) != 0 {
		t.Fatalf("keyring of an empty store: version %d, %v", version, err)
	}
}

func writeRead(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	apply(t, d, nil, put(store.Users, 1, 0, "one"), put(store.Index, 2, 0, ""))
	expect(t, d, store.Users, 1, 1, "one")
	expect(t, d, store.Index, 2, 1, "")
	apply(t, d, nil, store.Op{Table: store.Users, Key: Key(1), Expect: 1, Revision: 77, Value: []byte("two")})
	expect(t, d, store.Users, 1, 77, "two")
	apply(t, d, nil, store.Op{Table: store.Users, Key: Key(1), Expect: 77})
	expect(t, d, store.Users, 1, 0, "")
	apply(t, d, nil, put(store.Users, 1, 0, "again"))
	expect(t, d, store.Users, 1, 1, "again")
	if err := d.Apply(t.Context(), store.Batch{Ops: []store.Op{{Table: store.Users, Key: Key(9), Value: []byte("x")}}}); err == nil {
		t.Fatal("a row without a revision was written")
	}
}

func conditions(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	apply(t, d, nil, put(store.Users, 1, 0, "one"))
	check := func(n int, expect uint64) store.Op {
		return store.Op{Table: store.Users, Key: Key(n), Expect: expect, Check: true, Value: []byte("not to be written"), Revision: 9}
	}
	for name, op := range map[string]store.Op{
		"insert over a row": put(store.Users, 1, 0, "x"), "update of another revision": put(store.Users, 1, 2, "x"),
		"update of nothing": put(store.Users, 2, 1, "x"), "delete of another revision": {Table: store.Users, Key: Key(1), Expect: 2},
		"delete of nothing": {Table: store.Users, Key: Key(2), Expect: 1}, "check of another revision": check(1, 2),
		"check for absence": check(1, 0), "check of nothing": check(2, 1),
	} {
		if err := d.Apply(t.Context(), store.Batch{Ops: []store.Op{op}}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	apply(t, d, nil, check(1, 1), check(2, 0))
	expect(t, d, store.Users, 1, 1, "one")
	expect(t, d, store.Users, 2, 0, "")
}

func allOrNothing(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	apply(t, d, nil, put(store.Users, 3, 0, "three"), put(store.Users, 4, 0, "four"))
	apply(t, d, store.ErrConflict,
		put(store.Users, 1, 0, "x"), put(store.Marks, 1, 0, "x"), store.Op{Table: store.Users, Key: Key(4), Expect: 1},
		put(store.Users, 3, 5, "x"))
	expect(t, d, store.Users, 1, 0, "")
	expect(t, d, store.Marks, 1, 0, "")
	expect(t, d, store.Users, 4, 1, "four")
}

func tablesApart(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	for _, table := range store.Tables {
		apply(t, d, nil, put(table, 1, 0, table.String()))
	}
	for _, table := range store.Tables {
		expect(t, d, table, 1, 1, table.String())
	}
	if _, _, err := d.Get(t.Context(), store.Table(len(store.Tables)), Key(1)); err == nil {
		t.Fatal("a table that does not exist was read")
	}
	if err := d.Apply(t.Context(), store.Batch{Ops: []store.Op{put(store.Table(200), 1, 0, "x")}}); err == nil {
		t.Fatal("a table that does not exist was written")
	}
}

func fence(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	apply(t, d, nil, put(store.Users, 1, 0, "before any keyring"))
	version, err := d.SwapKeyring(t.Context(), 0, []byte("keys"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fence := range []uint64{0, version + 1} {
		called := false
		err := d.Apply(t.Context(), store.Batch{Fence: fence, Ops: []store.Op{put(store.Users, 2, 0, "x")},
			Arrive: func(n uint64) (store.Op, error) { called = true; return put(store.Intents, 1, 0, "x"), nil }})
		if !errors.Is(err, store.ErrFenced) || called {
			t.Fatalf("fence %d with version %d there: got %v, arrived %v", fence, version, err, called)
		}
	}
	expect(t, d, store.Users, 2, 0, "")
	if err := d.Apply(t.Context(), store.Batch{Fence: version, Ops: []store.Op{put(store.Users, 2, 0, "y")}}); err != nil {
		t.Fatal(err)
	}
}

func keyringBlob(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	blob := []byte("first")
	one, err := d.SwapKeyring(t.Context(), 0, blob)
	if err != nil || one == 0 {
		t.Fatalf("first swap: version %d, %v", one, err)
	}
	clear(blob)
	for _, old := range []uint64{0, one + 1} {
		if _, err := d.SwapKeyring(t.Context(), old, []byte("lost")); !errors.Is(err, keyring.ErrConflict) {
			t.Fatalf("swap of version %d: got %v", old, err)
		}
	}
	two, err := d.SwapKeyring(t.Context(), one, []byte("second"))
	if err != nil || two <= one {
		t.Fatalf("second swap: version %d after %d, %v", two, one, err)
	}
	got, version, err := d.LoadKeyring(t.Context())
	if err != nil || version != two || string(got) != "second" {
		t.Fatalf("load: version %d, %d bytes, %v", version, len(got), err)
	}
}

func scan(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	const rows = 40
	order := make([]int, rows)
	for i := range order {
		order[i] = (i*17 + 5) % rows
	}
	for _, n := range order {
		apply(t, d, nil, put(store.Sessions, n, 0, fmt.Sprint(n)))
	}
	for _, limit := range []int{1, 7, rows, rows + 1} {
		var got []store.Row
		var after *[32]byte
		for {
			page, err := d.Scan(t.Context(), store.Sessions, after, limit)
			if err != nil || len(page) > limit {
				t.Fatalf("limit %d: %d rows, %v", limit, len(page), err)
			}
			got = append(got, page...)
			if len(page) < limit {
				break
			}
			after = &page[len(page)-1].Key
		}
		if len(got) != rows {
			t.Fatalf("limit %d: %d rows, want %d", limit, len(got), rows)
		}
		for n, row := range got {
			if row.Key != Key(n) || row.Revision != 1 || string(row.Value) != fmt.Sprint(n) {
				t.Fatalf("limit %d: row %d is wrong or out of order", limit, n)
			}
		}
	}
	between := Key(10)
	between[31] = 1 // a key that is not there
	if page, err := d.Scan(t.Context(), store.Sessions, &between, 1); err != nil || len(page) != 1 || page[0].Key != Key(11) {
		t.Fatalf("scan after a key that is not there: %v", err)
	}
}

func ownership(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	value := []byte("mine")
	apply(t, d, nil, store.Op{Table: store.Users, Key: Key(1), Revision: 1, Value: value})
	clear(value)
	row, _, err := d.Get(t.Context(), store.Users, Key(1))
	if err != nil {
		t.Fatal(err)
	}
	clear(row.Value)
	rows, err := d.Scan(t.Context(), store.Users, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	clear(rows[0].Value)
	expect(t, d, store.Users, 1, 1, "mine")
}

func reopen(t *testing.T, open func() store.Driver) {
	d := open()
	version, err := d.SwapKeyring(t.Context(), 0, []byte("keys"))
	if err != nil {
		t.Fatal(err)
	}
	last := arrive(t, d, version, 1)
	last = max(last, arrive(t, d, version, 2))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = start(t, open)
	expect(t, d, store.Intents, 1, 1, "arrived")
	if blob, v, err := d.LoadKeyring(t.Context()); err != nil || v != version || !bytes.Equal(blob, []byte("keys")) {
		t.Fatalf("keyring after reopening: version %d, want %d, %v", v, version, err)
	}
	if next := arrive(t, d, version, 3); next <= last {
		t.Fatalf("arrival %d after reopening, %d before", next, last)
	}
}

func endedContext(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Apply(ctx, store.Batch{Ops: []store.Op{put(store.Users, 1, 0, "x")}}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	expect(t, d, store.Users, 1, 0, "")
}

func closed(t *testing.T, open func() store.Driver) {
	d := open()
	var wg sync.WaitGroup
	results := make([]error, 32)
	for i := range results {
		wg.Go(func() {
			results[i] = d.Apply(t.Context(), store.Batch{Ops: []store.Op{put(store.Users, i, 0, "x")}})
		})
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := d.Apply(t.Context(), store.Batch{Ops: []store.Op{put(store.Users, 99, 0, "x")}}); err == nil {
		t.Fatal("a closed store was written")
	}
	if _, _, err := d.Get(t.Context(), store.Users, Key(1)); err == nil {
		t.Fatal("a closed store was read")
	}
	d = start(t, open)
	for i, err := range results {
		if _, found, _ := d.Get(t.Context(), store.Users, Key(i)); found != (err == nil) {
			t.Errorf("a write beside Close said %v, and the row is there: %v", err, found)
		}
	}
}

func size(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	apply(t, d, nil, put(store.Users, 1, 0, string(bytes.Repeat([]byte{'x'}, 10_000))))
	if n, err := d.Size(); err != nil || n < 10_000 {
		t.Fatalf("size %d, %v", n, err)
	}
}

// arrive writes an intent and returns its number.
func arrive(t *testing.T, d store.Driver, fence uint64, n int) (number uint64) {
	t.Helper()
	err := d.Apply(t.Context(), store.Batch{Fence: fence, Arrive: func(a uint64) (store.Op, error) {
		number = a
		return put(store.Intents, n, 0, "arrived"), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func arrivals(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	var got []uint64
	for n := range 5 {
		got = append(got, arrive(t, d, 0, n))
	}
	if got[0] == 0 || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Fatalf("arrival numbers %v", got)
	}
}

func refusedArrival(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	first := arrive(t, d, 0, 1)
	no := errors.New("no")
	err := d.Apply(t.Context(), store.Batch{Ops: []store.Op{put(store.Users, 1, 0, "x")},
		Arrive: func(uint64) (store.Op, error) { return store.Op{}, no }})
	if !errors.Is(err, no) {
		t.Fatalf("got %v", err)
	}
	err = d.Apply(t.Context(), store.Batch{Ops: []store.Op{put(store.Users, 1, 0, "x")},
		Arrive: func(uint64) (store.Op, error) { return put(store.Intents, 1, 0, "x"), nil }})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("an arrival over a row that is there: got %v", err)
	}
	expect(t, d, store.Users, 1, 0, "")
	if next := arrive(t, d, 0, 2); next <= first {
		t.Fatalf("arrival %d after %d", next, first)
	}
}
