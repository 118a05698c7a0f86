package server

import (
	"sync"
	"sync/atomic"

	"github.com/tokenvault/tokenvault/unix/policy"
)

// spare is how many connections beyond the limits are kept open, in total, to
// be told so. Beyond those a connection is closed without a word.
const spare = 64

// slotKey counts admin connections apart: an administrator gets in while the
// client sockets are full.
type slotKey struct {
	uid   uint32
	admin bool
}

// slot counts what one uid holds.
type slot struct {
	conns    int // under the gate's lock
	inFlight atomic.Int64
}

// gate counts connections and requests in flight.
type gate struct {
	limits Limits
	mu     sync.Mutex
	total  int // on client sockets, within the limits
	over   int
	slots  map[slotKey]*slot
}

// enter lets c in, marks it as over the limit, or returns false: close it.
func (g *gate) enter(c *conn) bool {
	key := slotKey{c.caller.UID, c.listener == policy.AdminListener}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.slots[key]
	if s == nil {
		s = &slot{}
	}
	c.over = s.conns >= g.limits.ConnectionsPerUID ||
		!key.admin && g.total >= g.limits.Connections
	if c.over {
		if g.over >= spare {
			return false
		}
		g.over++
	} else {
		s.conns++
		if !key.admin {
			g.total++
		}
		if g.slots == nil {
			g.slots = map[slotKey]*slot{}
		}
		g.slots[key] = s
	}
	c.slot = s
	return true
}

// leave undoes enter.
func (g *gate) leave(c *conn) {
	key := slotKey{c.caller.UID, c.listener == policy.AdminListener}
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.over {
		g.over--
		return
	}
	c.slot.conns--
	if !key.admin {
		g.total--
	}
	if c.slot.conns == 0 {
		delete(g.slots, key)
	}
}

// begin counts a request in; false: too many of that uid are in flight.
func (g *gate) begin(s *slot) bool { return s.inFlight.Add(1) <= int64(g.limits.InFlightPerUID) }

func (g *gate) end(s *slot) { s.inFlight.Add(-1) }
