package storetest

import (
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
)

const writers, rounds = 16, 20

// concurrentSwap lets writers count two rows up together: no update may be lost,
// and no reader may see one without the other's past.
func concurrentSwap(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	apply(t, d, nil, put(store.Users, 1, 0, "0"), put(store.Index, 1, 0, "0"))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				for countUp(t, d) {
				}
			}
		})
	}
	wg.Wait()
	total := uint64(writers*rounds) + 1
	expect(t, d, store.Users, 1, total, strconv.Itoa(writers*rounds))
	expect(t, d, store.Index, 1, total, strconv.Itoa(writers*rounds))
}

// countUp reports whether it has to be repeated.
func countUp(t *testing.T, d store.Driver) bool {
	row, _, err := d.Get(t.Context(), store.Users, Key(1))
	if err != nil {
		t.Error(err)
		return false
	}
	n, err := strconv.Atoi(string(row.Value))
	if err != nil || uint64(n)+1 != row.Revision {
		t.Errorf("a torn read: value %q under revision %d", row.Value, row.Revision)
		return false
	}
	next := strconv.Itoa(n + 1)
	err = d.Apply(t.Context(), store.Batch{Ops: []store.Op{
		put(store.Users, 1, row.Revision, next), put(store.Index, 1, row.Revision, next),
	}})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		t.Errorf("apply: %v", err)
		return false
	}
	return err != nil
}

// concurrentArrivals checks that numbers are unique, and that whoever starts
// after another has returned gets a higher one.
func concurrentArrivals(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	got := make([][]uint64, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				got[w] = append(got[w], arriveBeside(t, d, w*rounds+i))
			}
		})
	}
	wg.Wait()
	seen := make(map[uint64]bool)
	for w, numbers := range got {
		for i, n := range numbers {
			if seen[n] || n == 0 {
				t.Fatalf("arrival %d was given twice", n)
			}
			seen[n] = true
			if i > 0 && n <= numbers[i-1] {
				t.Fatalf("writer %d got %d after %d", w, n, numbers[i-1])
			}
			expect(t, d, store.Intents, w*rounds+i, n, "arrived")
		}
	}
}

func arriveBeside(t *testing.T, d store.Driver, n int) (number uint64) {
	err := d.Apply(t.Context(), store.Batch{Arrive: func(a uint64) (store.Op, error) {
		number = a
		return store.Op{Table: store.Intents, Key: Key(n), Revision: a, Value: []byte("arrived")}, nil
	}})
	if err != nil {
		t.Errorf("apply: %v", err)
	}
	return number
}

// concurrentKeyring lets writers swap the blob while others write under its
// fence: a swap is never lost, and no batch under an old version gets through.
func concurrentKeyring(t *testing.T, open func() store.Driver) {
	d := start(t, open)
	swaps := make([]int, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				_, version, err := d.LoadKeyring(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if w%2 == 0 {
					next, err := d.SwapKeyring(t.Context(), version, []byte("keys"))
					switch {
					case err == nil && next > version:
						swaps[w]++
					case !errors.Is(err, keyring.ErrConflict):
						t.Errorf("swap: version %d after %d, %v", next, version, err)
					}
					continue
				}
				// Not expected to be in time, but never an error of another kind.
				err = d.Apply(t.Context(), store.Batch{Fence: version, Ops: []store.Op{put(store.Users, w*rounds+i, 0, "x")}})
				if err != nil && !errors.Is(err, store.ErrFenced) {
					t.Errorf("apply: %v", err)
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range swaps {
		total += n
	}
	if _, version, err := d.LoadKeyring(t.Context()); err != nil || version < uint64(total) {
		t.Fatalf("version %d after %d swaps, %v", version, total, err)
	}
}
