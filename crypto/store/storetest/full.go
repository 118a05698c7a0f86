package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// Disk is an empty store, with a reserve, on a disk that a test can fill.
type Disk struct {
	Open func() store.Driver
	Fill func() // takes all that is free
	Free func() // gives it back
}

// RunFull runs the part of the suite that needs a disk that is full.
func RunFull(t *testing.T, fresh func(t *testing.T) Disk) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Disk)
	}{{"full and free again", fullAndFree}, {"opened when full", openedWhenFull}} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

const (
	recovers = 5 * time.Second // how soon Low is nil by itself
	enough   = 200             // batches that any reserve has room for
	rowSize  = 2000
)

func row(n int) store.Op { return put(store.Users, n, 0, string(make([]byte, rowSize))) }

// exhaust writes rows from n on, without Spare, until that is refused, and returns
// how many there are.
func exhaust(t *testing.T, d store.Driver, n int) int {
	t.Helper()
	for ; n < 1_000_000; n++ {
		err := d.Apply(t.Context(), store.Batch{Ops: []store.Op{row(n)}})
		if errors.Is(err, store.ErrFull) {
			break
		} else if err != nil {
			t.Fatalf("apply to a full disk: %v", err)
		}
	}
	if err := d.Low(); !errors.Is(err, store.ErrFull) {
		t.Fatalf("low after %d batches: %v", n, err)
	}
	expect(t, d, store.Users, n, 0, "")
	return n
}

func spare(t *testing.T, d store.Driver, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := d.Apply(t.Context(), store.Batch{Spare: true, Ops: []store.Op{row(n)}}); err != nil {
			t.Fatalf("batch %d out of the reserve: %v", n-from, err)
		}
	}
}

func fullAndFree(t *testing.T, disk Disk) {
	d := start(t, disk.Open)
	if err := d.Low(); err != nil {
		t.Fatalf("an empty disk is low: %v", err)
	}
	disk.Fill()
	n := exhaust(t, d, 0)
	spare(t, d, n, n+enough)
	if _, err := d.SwapKeyring(t.Context(), 0, []byte("keys")); err != nil {
		t.Fatalf("the keyring, out of the reserve: %v", err)
	}
	if got := len(contentOf(t, d).rows[store.Users]); got != n+enough {
		t.Fatalf("%d rows of %d", got, n+enough)
	}
	disk.Free()
	becomesUsable(t, d)
	_, version, err := d.LoadKeyring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Apply(t.Context(), store.Batch{Fence: version, Ops: []store.Op{row(n + enough)}}); err != nil {
		t.Fatalf("apply after there is room again: %v", err)
	}
}

// becomesUsable asks until Low is nil.
func becomesUsable(t *testing.T, d store.Driver) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), recovers)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for d.Low() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("low %v after there was room again: %v", recovers, d.Low())
		}
	}
}

// openedWhenFull uses the reserve that an earlier process has made.
func openedWhenFull(t *testing.T, disk Disk) {
	d := disk.Open()
	disk.Fill()
	n := exhaust(t, d, 0)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	disk.Fill()
	d = start(t, disk.Open)
	n = exhaust(t, d, n)
	spare(t, d, n, n+enough)
	for _, k := range []int{0, n - 1, n + enough - 1} {
		if _, found, err := d.Get(t.Context(), store.Users, Key(k)); err != nil || !found {
			t.Fatalf("row %d: %v", k, err)
		}
	}
	disk.Free()
	becomesUsable(t, d)
}
