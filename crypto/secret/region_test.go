package secret

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"sync"
	"testing"
	"time"
)

// small is a region of some cells, on the heap, whose time stands still.
func small(t testing.TB, n int) (*region, *time.Time) {
	t.Helper()
	now := time.Unix(1_800_000_000, 0)
	r := newRegion(mapped{bytes: make([]byte, n*cell)})
	r.now = func() time.Time { return now }
	return r, &now
}

func marked(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

func TestKeep(t *testing.T) {
	r, _ := small(t, 8)
	in := marked('a', 32)
	a := r.keep(in)
	clear(in)
	b := r.keep(marked('b', cell+1)) // two cells
	if !bytes.Equal(a.Reveal(), marked('a', 32)) || !bytes.Equal(b.Reveal(), marked('b', cell+1)) {
		t.Fatal("what was kept is not what is there")
	}
	if &a.Reveal()[0] != &r.bytes[0] || &b.Reveal()[0] != &r.bytes[cell] || cap(a.Reveal()) != 32 {
		t.Error("it is not in the region, or reaches into what is beside it")
	}
	if s := r.status(); s.Used != 3*cell || s.Bytes != 8*cell || s.Spilled != 0 {
		t.Errorf("status %+v", s)
	}
	copied := a
	a.Wipe()
	a.Wipe() // once more gives nothing back twice
	if !bytes.Equal(copied.Reveal(), make([]byte, 32)) || copied.Len() != 32 || !bytes.Equal(r.bytes[:cell], make([]byte, cell)) {
		t.Error("Wipe left bytes behind, in a copy or in the region")
	}
	if s := r.status(); s.Used != 2*cell {
		t.Errorf("status %+v", s)
	}
	if !r.keep(nil).IsZero() || r.status().Used != 2*cell {
		t.Error("nothing takes room")
	}
}

// TestNoPlaceIsReadThroughAnOldText: not for a minute by who holds the bytes, and
// never by who holds the Text.
func TestNoPlaceIsReadThroughAnOldText(t *testing.T) {
	r, now := small(t, 1)
	first := r.keep(marked('a', 32))
	bytesOfFirst := first.Reveal()
	first.Wipe()
	*now = now.Add(rest - time.Nanosecond)
	second := r.keep(marked('b', 32))
	if r.status().Spilled != 1 || !bytes.Equal(bytesOfFirst, make([]byte, 32)) {
		t.Fatal("a place was given again while somebody may hold its bytes")
	}
	*now = now.Add(time.Nanosecond)
	third := r.keep(marked('c', 32))
	if &third.Reveal()[0] != &r.bytes[0] {
		t.Fatal("a place that has rested is not given again")
	}
	if !bytes.Equal(first.Reveal(), make([]byte, 32)) {
		t.Error("an old Text reads another's secret")
	}
	first.Wipe()
	if !bytes.Equal(third.Reveal(), marked('c', 32)) || !bytes.Equal(second.Reveal(), marked('b', 32)) {
		t.Error("an old Text wiped another's secret")
	}
}

func TestSpilled(t *testing.T) {
	r, _ := small(t, 2)
	a := r.keep(marked('a', 32))
	b := r.keep(marked('b', 2*cell)) // one cell is free
	if s := r.status(); s.Spilled != 1 || s.Used != cell {
		t.Fatalf("status %+v", s)
	}
	if !bytes.Equal(b.Reveal(), marked('b', 2*cell)) {
		t.Error("it was not kept")
	}
	copied := b
	held := b.Reveal()
	b.Wipe()
	copied.Wipe()
	if s := r.status(); s.Spilled != 0 || !bytes.Equal(held, make([]byte, 2*cell)) {
		t.Errorf("wiped: status %+v", s)
	}
	c := r.keep(marked('c', cell))
	if r.status().Spilled != 0 || !bytes.Equal(a.Reveal(), marked('a', 32)) || !bytes.Equal(c.Reveal(), marked('c', cell)) {
		t.Error("the last cell was not given out")
	}
	none := newRegion(mapped{reason: "none"})
	if k := none.keep(marked('k', 32)); !bytes.Equal(k.Reveal(), marked('k', 32)) || none.status().Spilled != 1 {
		t.Error("without a region nothing is kept")
	}
}

// TestNoTwoShareAPlace takes and wipes at random, beside the same done by hand.
func TestNoTwoShareAPlace(t *testing.T) {
	r, now := small(t, 64)
	var mu sync.Mutex // the clock's
	r.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return *now }
	var all sync.WaitGroup
	for worker := range byte(8) {
		all.Go(func() {
			held := map[byte]Text{}
			for i := range 2000 {
				name := worker*16 + byte(i)%16
				if old, ok := held[name]; ok {
					if !bytes.Equal(old.Reveal(), marked(name+1, old.Len())) {
						t.Error("a secret is not what was kept")
						return
					}
					old.Wipe()
					delete(held, name)
				} else {
					held[name] = r.keep(marked(name+1, 1+i%150))
				}
				mu.Lock()
				*now = now.Add(rest / 50)
				mu.Unlock()
			}
			for _, k := range held {
				k.Wipe()
			}
		})
	}
	all.Wait()
	*now = now.Add(rest)
	r.mu.Lock()
	r.wake()
	r.mu.Unlock()
	if s := r.status(); s.Used != 0 || s.Spilled != 0 || slices.Contains(r.taken, true) || !bytes.Equal(r.bytes, make([]byte, len(r.bytes))) {
		t.Errorf("all is wiped, and the region is not empty: %+v", s)
	}
}

// TestHasherForgets: what goes back to the pool has nothing of what it saw.
func TestHasherForgets(t *testing.T) {
	h := &hasher{state: sha256.New(), buf: make([]byte, 0, hasherBuf)}
	for _, size := range []int{1, 64, hasherBuf, 4 * hasherBuf} {
		h.buf = h.buf[:0]
		copy(h.key[:], marked('k', len(h.key)))
		h.digest(h.after(0x36), 64, marked('m', size))
		buf := h.buf[:cap(h.buf)]
		h.sum()
		h.putBack()
		if !bytes.Equal(buf, make([]byte, len(buf))) || h.key != [64]byte{} || h.packed != [stateSize]byte{} {
			t.Errorf("after a message of %d bytes there is something left", size)
		}
		if !bytes.Equal(h.marshal(), blank) {
			t.Errorf("after a message of %d bytes its digest goes on from it", size)
		}
	}
}

func BenchmarkKeep(b *testing.B) {
	r := newRegion(mapRegion(RegionSize, true))
	key := marked('k', 32)
	at := time.Now()
	r.now = func() time.Time { at = at.Add(rest); return at }
	b.ReportAllocs()
	for b.Loop() {
		r.keep(key).Wipe()
	}
}
