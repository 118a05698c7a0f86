package storetest

import (
	"context"
	"sync"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// Faults is a driver that fails on demand: around a real one, it lets a test
// decide about every write before and after it takes effect.
type Faults struct {
	store.Driver

	mu     sync.Mutex
	n      int
	before func(n int) error
	after  func(n int) error
}

// NewFaults returns a Faults that passes everything on.
func NewFaults(d store.Driver) *Faults { return &Faults{Driver: d} }

// Set replaces what is called before and after every Apply (nil: nothing), and
// starts counting anew: n is 1 for the next Apply. An error of before keeps the
// batch from the driver; one of after hides that it took effect. Neither is
// called concurrently with itself or the other.
func (f *Faults) Set(before, after func(n int) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n, f.before, f.after = 0, before, after
}

// Applies is the number of Applies since Set.
func (f *Faults) Applies() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// Apply implements store.Driver.
func (f *Faults) Apply(ctx context.Context, b store.Batch) error {
	n, after, err := f.enter()
	if err != nil {
		return err
	}
	if err := f.Driver.Apply(ctx, b); err != nil || after == nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return after(n)
}

func (f *Faults) enter() (n int, after func(int) error, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if f.before != nil {
		err = f.before(f.n)
	}
	return f.n, f.after, err
}
