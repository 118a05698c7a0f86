package server

import (
	"os"
	"sync"
	"sync/atomic"

	"github.com/tokenvault/tokenvault/unix/policy"
)

const (
	// spare is how many connections beyond the limits are kept open, in total, to
	// be told so, and of one uid. Beyond those a connection is closed without a word.
	spare       = 64
	sparePerUID = spare / 4
	// Callers without a rule have this part of all connections to themselves, and
	// can take no other: enough for whoami and health.
	strangersPart   = 16
	strangersPerUID = 16
)

// class is who a connection counts with, settled when it is accepted.
type class uint8

const (
	clients   class = iota // a rule names them
	strangers              // no rule does
	admins                 // on the admin socket, which is never full for want of clients'
	own                    // of this process: the watchdog's probe must not fail when others fill the sockets
)

// holdKey is what is known of a connection before /proc is read. The admin socket
// is apart: who fills the others does not shut it.
type holdKey struct {
	uid   uint32
	admin bool
}

// holding is what one uid has, in whatever class.
type holding struct {
	conns int        // under the gate's lock
	one   sync.Mutex // held while the unit of one of them is looked for
}

// slotKey counts the classes apart.
type slotKey struct {
	uid uint32
	class
}

// slot counts what one uid holds.
type slot struct {
	conns    int // under the gate's lock
	inFlight atomic.Int64
	slow     atomic.Int64 // heads that did not come in one piece
}

// gate counts connections and requests in flight. Half of the clients'
// connections is for whoever comes first, the other half is divided among their
// listeners: who fills one leaves room on the others.
//
// Its lock is taken before that of parked.
type gate struct {
	limits Limits
	self   int32 // our pid; 0: nobody
	share  int   // of each client listener
	common int   // what the shares leave

	mu        sync.Mutex
	strangers int
	clients   map[string]int // by listener
	over      int
	overBy    map[uint32]int // by uid
	slots     map[slotKey]*slot
	held      map[holdKey]*holding
	all       int // held, of all uids, on client sockets
	paces     paces
	parked    *parked // where connections can be ended for others; nil: nowhere
}

// processID tells our own connections; tests, whose callers are the same
// process, change it.
var processID = os.Getpid

func (g *gate) open(limits Limits, listeners []Listener) {
	g.limits, g.self = limits, int32(processID())
	g.clients, g.slots, g.held, g.overBy = map[string]int{}, map[slotKey]*slot{}, map[holdKey]*holding{}, map[uint32]int{}
	for _, l := range listeners {
		if l.Name != policy.AdminListener {
			g.clients[l.Name] = 0
		}
	}
	g.common = limits.Connections - limits.Connections/strangersPart
	if n := len(g.clients); n > 0 {
		g.share = g.common / (2 * n)
		g.common -= n * g.share
	}
}

// classify looks a new caller up in the rules that are in force now.
func (s *Server) classify(c *conn) class {
	c.view = s.policy.Load().View(c.caller, c.listener)
	switch {
	case s.gate.self != 0 && c.caller.PID == s.gate.self:
		return own
	case !c.view.Known():
		return strangers
	case c.listener == policy.AdminListener:
		return admins
	}
	return clients
}

// hold counts a connection of which the socket's credentials are known. It is
// generous: more than this no uid can have in all classes together, nor all of
// them. Beyond that it marks c as over the limit, or returns false: close it.
func (g *gate) hold(c *conn) bool {
	key := holdKey{c.caller.UID, c.listener == policy.AdminListener}
	g.mu.Lock()
	defer g.mu.Unlock()
	h := g.held[key]
	if h == nil {
		h = &holding{}
	}
	isOwn := g.self != 0 && c.caller.PID == g.self
	if full := h.conns >= g.limits.ConnectionsPerUID+strangersPerUID || !key.admin && g.all >= 2*g.limits.Connections; full && !isOwn {
		c.slot = &slot{}
		return g.beyondLimits(c)
	}
	c.held = h
	h.conns++
	g.held[key] = h
	if !key.admin {
		g.all++
	}
	return true
}

// beyondLimits keeps some to be told so.
func (g *gate) beyondLimits(c *conn) bool {
	uid := c.caller.UID
	if g.over >= spare || g.overBy[uid] >= sparePerUID {
		return false
	}
	c.over = true
	g.over++
	g.overBy[uid]++
	return true
}

// release undoes hold.
func (g *gate) release(c *conn) {
	key := holdKey{c.caller.UID, c.listener == policy.AdminListener}
	if c.held.conns--; c.held.conns == 0 {
		delete(g.held, key)
	}
	if !key.admin {
		g.all--
	}
}

// enter lets c in, marks it as over the limit, or returns false: close it.
func (g *gate) enter(c *conn) bool {
	key := slotKey{c.caller.UID, c.class}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.slots[key]
	if s == nil {
		s = &slot{}
	}
	c.slot = s
	if !g.admits(c) && !g.makesRoom(c) {
		return g.beyondLimits(c)
	}
	c.entered = true
	s.conns++
	g.slots[key] = s
	g.count(c, 1)
	return true
}

func (g *gate) admits(c *conn) bool {
	most := g.limits.ConnectionsPerUID
	switch c.class {
	case own:
		return true
	case strangers:
		return c.slot.conns < min(most, strangersPerUID) && g.strangers < max(1, g.limits.Connections/strangersPart)
	case clients:
		return c.slot.conns < most && (g.clients[c.listener] < g.share || g.beyond() < g.common)
	}
	return c.slot.conns < most
}

// makesRoom ends an idle connection of the client that has most, where c's has
// fewer: whoever fills the sockets cannot keep out those who hold little. For a
// moment there is one connection more than the limit.
func (g *gate) makesRoom(c *conn) bool {
	if c.class != clients || g.parked == nil || c.slot.conns >= g.limits.ConnectionsPerUID {
		return false
	}
	return g.parked.evict(c.slot.conns+2, func(v *conn) bool {
		return v.listener == c.listener || g.clients[v.listener] > g.share
	})
}

// beyond is how many of the common connections are taken.
func (g *gate) beyond() (n int) {
	for _, conns := range g.clients {
		n += max(0, conns-g.share)
	}
	return n
}

func (g *gate) count(c *conn, by int) {
	switch c.class {
	case strangers:
		g.strangers += by
	case clients:
		g.clients[c.listener] += by
	}
}

// leave undoes hold and enter.
func (g *gate) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.held != nil {
		g.release(c)
	}
	if c.over {
		g.over--
		if g.overBy[c.caller.UID]--; g.overBy[c.caller.UID] == 0 {
			delete(g.overBy, c.caller.UID)
		}
	}
	if !c.entered {
		return
	}
	g.count(c, -1)
	if c.slot.conns--; c.slot.conns == 0 {
		delete(g.slots, slotKey{c.caller.UID, c.class})
	}
}

// begin counts a request in; false: too many of that uid are in flight.
func (g *gate) begin(s *slot) bool { return s.inFlight.Add(1) <= int64(g.limits.InFlightPerUID) }

func (g *gate) end(s *slot) { s.inFlight.Add(-1) }
