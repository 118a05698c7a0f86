package restart

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// Sizes of an area, in bytes: two slots. All of it counts against RLIMIT_MEMLOCK.
const (
	firstSize = 64 << 10 // a keyring that was rotated 100 times, and 100 apps
	maxSize   = 4 << 20
)

// Load returns what was saved last, to be wiped by the caller. It stays in the
// area. false: there is nothing that is whole, of this boot and instance, and
// [Area.Missing] says why; the area is wiped then.
func (a *Area) Load() (Contents, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.region == nil {
		return Contents{}, false
	}
	slots := a.region.slots()
	if a.current < 0 {
		if !zero(slots[0]) || !zero(slots[1]) {
			a.lose("what is there is damaged, or of another version of this program")
		}
		return Contents{}, false
	}
	c, err := decode(content(slots[a.current]), a.moment())
	if err == nil && c.Instance != a.config.Instance {
		c.Wipe()
		err = errors.New("what is there is another instance's")
	}
	if err != nil {
		a.lose(err.Error())
		return Contents{}, false
	}
	a.missing = ""
	return c, true
}

// lose wipes what cannot be used.
func (a *Area) lose(why string) {
	a.wipe()
	a.missing = why
	a.config.Logger.Warn("restart memory wiped", "reason", why)
}

func (a *Area) moment() moment {
	id, since := a.config.Boot()
	return moment{boot: id, since: since, now: a.config.Now()}
}

// Save puts c, which the caller still owns, in the place of what was saved before:
// whole or not at all, also when the process is killed meanwhile. Afterwards nothing
// is left of what was there before. An error leaves that, unless the area is off
// from then on, because it had to grow and was not kept.
func (a *Area) Save(c Contents) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.region == nil {
		return nil
	}
	if c.Instance != a.config.Instance {
		return fmt.Errorf("save restart memory: contents of instance %q in the area of %q", c.Instance, a.config.Instance)
	}
	m := a.moment()
	if m.boot == "" {
		return errors.New("save restart memory: the machine does not say which boot it is in")
	}
	size := slotSize(measure(c, m))
	if size > maxSize/2 {
		return fmt.Errorf("save restart memory: %d bytes are more than %d", size, maxSize/2)
	}
	if size > len(a.region.bytes)/2 {
		return a.grow(c, m, size)
	}
	slots := a.region.slots()
	next := 1 - max(a.current, 0)
	a.sequence++
	fill(slots[next], a.sequence, c, m)
	// The commit point: the slot's SHA-256 stands, and its number is the higher one.
	a.current = next
	clear(slots[1-next])
	return nil
}

// grow moves to a larger area with c in it, because this kind of memory has its size
// once and for all. The service manager's store goes by names: who is killed between
// Drop and Keep has nothing remembered.
func (a *Area) grow(c Contents, m moment, slot int) error {
	size := len(a.region.bytes)
	for size < 2*slot {
		size *= 2
	}
	r, err := create(size, a.config.Mode == UnsafeMemfd)
	if err != nil {
		return fmt.Errorf("save restart memory: %w", err)
	}
	fill(r.slots()[0], a.sequence+1, c, m)
	err = a.config.Drop(Name)
	if err == nil {
		err = a.config.Keep(Name, r.file)
	}
	a.wipe()
	a.region.close()
	if err != nil {
		clear(r.bytes)
		r.close()
		a.region, a.off = nil, fmt.Sprintf("the service manager does not keep it: %v", err)
		return fmt.Errorf("save restart memory: %w", err)
	}
	a.region, a.sequence, a.current = r, a.sequence+1, 0
	return nil
}

// Wipe clears the area: a restart finds nothing until the next Save.
func (a *Area) Wipe() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.region != nil {
		a.wipe()
	}
}

func (a *Area) wipe() {
	slots := a.region.slots()
	if a.current >= 0 {
		clear(slots[a.current]) // what a Load would take goes first
		barrier()
	}
	clear(slots[0])
	clear(slots[1])
	a.current, a.missing = -1, "it was wiped"
}

// Close lets go of the area, which the service manager goes on keeping as it is. The
// area is off afterwards. A second Close does nothing.
func (a *Area) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.region != nil {
		a.region.close()
		a.region = nil
		a.off = "it was closed"
	}
}

var fence atomic.Uint64

// barrier keeps what is written before it before what is written after it.
func barrier() { fence.Add(1) }
