package secret

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// RegionSize is what the locked region has, in bytes: some 4,000 keys. It counts
// against RLIMIT_MEMLOCK, whose default is 8 MiB since Linux 5.16.
const RegionSize = 1 << 20

const (
	// cell is what places are counted in: a data key with room to spare, and one
	// line of the processor's cache, so that no two secrets share one.
	cell = 64
	// rest is how long a place that was given back stays zeros before another
	// secret gets it. Who still holds what Reveal gave him meanwhile reads zeros,
	// and never another's secret.
	rest = time.Minute
)

// RegionStatus says where what [Keep] took is kept.
type RegionStatus struct {
	Bytes, Used int    // size, and what is taken of it; 0 where there is no region
	Locked      bool   // never written to swap
	Guarded     bool   // between two pages that nobody can read or write
	Hidden      bool   // memfd_secret(2): the kernel itself and root's /proc/PID/mem do not reach it
	Spilled     int    // secrets that are on the heap for want of room, and not wiped yet
	Reason      string // what is missing of Locked, Guarded and Hidden, and why; "" when nothing is
}

// Region is the state of the locked region, which is made when it or Keep is called
// first. That takes mmap, mlock, madvise and memfd_secret: a process that gives up
// system calls calls it before.
func Region() RegionStatus { return theRegion().status() }

// region is bytes outside the garbage-collected heap, given out in cells.
type region struct {
	mapped
	now     func() time.Time
	spilled atomic.Int64

	mu      sync.Mutex
	taken   []bool // by cell
	used    int    // cells
	resting []resting
}

// resting is a place that was wiped and is not given out again yet.
type resting struct {
	first, cells int
	until        time.Time
}

// mapped is memory as the operating system gave it.
type mapped struct {
	bytes                   []byte
	locked, guarded, hidden bool
	reason                  string
}

var theRegion = sync.OnceValue(func() *region { return newRegion(mapRegion(RegionSize, true)) })

func newRegion(m mapped) *region {
	return &region{mapped: m, now: time.Now, taken: make([]bool, len(m.bytes)/cell)}
}

func (r *region) status() RegionStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return RegionStatus{
		Bytes: len(r.bytes), Used: r.used * cell, Spilled: int(r.spilled.Load()),
		Locked: r.locked, Guarded: r.guarded, Hidden: r.hidden, Reason: r.reason,
	}
}

// place is where one kept secret lies.
type place struct {
	region *region
	first  int // cell, -1: on the heap
	bytes  []byte
	wiped  atomic.Bool
}

// put copies b to a place of its own.
func (r *region) put(b []byte) *place {
	p := &place{region: r, first: r.take(cells(len(b)))}
	if p.first < 0 {
		r.spilled.Add(1)
		p.bytes = make([]byte, len(b))
	} else {
		at := p.first * cell
		p.bytes = r.bytes[at : at+len(b) : at+len(b)]
	}
	copy(p.bytes, b)
	return p
}

func cells(n int) int { return (n + cell - 1) / cell }

// take returns the first of n cells in a row, or -1 when there are not as many.
func (r *region) take(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake()
	run := 0
	for i, taken := range r.taken {
		if run++; taken {
			run = 0
		}
		if run == n {
			first := i + 1 - n
			r.mark(first, n, true)
			r.used += n
			return first
		}
	}
	return -1
}

// wake gives the cells back that have rested.
func (r *region) wake() {
	now, n := r.now(), 0
	for n < len(r.resting) && !now.Before(r.resting[n].until) {
		r.mark(r.resting[n].first, r.resting[n].cells, false)
		n++
	}
	r.resting = slices.Delete(r.resting, 0, n)
}

func (r *region) mark(first, n int, taken bool) {
	for i := first; i < first+n; i++ {
		r.taken[i] = taken
	}
}

// reveal is the bytes themselves, or as many zeros.
func (p *place) reveal() []byte {
	if p.wiped.Load() {
		return make([]byte, len(p.bytes))
	}
	return p.bytes
}

// wipe overwrites the bytes and gives the place back, once.
func (p *place) wipe() {
	if p.wiped.Swap(true) {
		return
	}
	clear(p.bytes)
	r := p.region
	if p.first < 0 {
		r.spilled.Add(-1)
		return
	}
	n := cells(len(p.bytes))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
	r.resting = append(r.resting, resting{first: p.first, cells: n, until: r.now().Add(rest)})
}
