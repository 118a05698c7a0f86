package server

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/peer"
)

// filled is a gate of two client listeners, to enter without sockets.
type filled struct {
	t *testing.T
	g gate
}

func newFilled(t *testing.T, limits Limits) *filled {
	t.Helper()
	limits, err := limits.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	f := &filled{t: t}
	f.g.open(limits, []Listener{{Name: "public"}, {Name: "private"}, {Name: "admin"}})
	return f
}

// enter lets n connections in and returns those within the limits.
func (f *filled) enter(n int, listener string, uid uint32, kind class) (in []*conn) {
	f.t.Helper()
	for range n {
		c := &conn{listener: listener, caller: peer.Caller{UID: uid}, class: kind}
		if f.g.enter(c) && !c.over {
			in = append(in, c)
		}
	}
	return in
}

func (f *filled) want(what string, got []*conn, want int) {
	f.t.Helper()
	if len(got) != want {
		f.t.Errorf("%s: %d get in, want %d", what, len(got), want)
	}
}

func (f *filled) wantEmpty(conns ...[]*conn) {
	f.t.Helper()
	for _, list := range conns {
		for _, c := range list {
			f.g.leave(c)
		}
	}
	if len(f.g.slots) != 0 || f.g.strangers != 0 || f.g.clients["public"] != 0 || f.g.clients["private"] != 0 {
		f.t.Error("something is still counted when all have left")
	}
}

// TestStrangersHaveASmallShare: callers without a rule cannot take the
// connections of those with one, nor of one another.
func TestStrangersHaveASmallShare(t *testing.T) {
	f := newFilled(t, Limits{Connections: 1600, ConnectionsPerUID: 1600})
	first := f.enter(20, "public", 1, strangers)
	f.want("one uid", first, 16)
	var rest []*conn
	for uid := range uint32(100) {
		rest = append(rest, f.enter(1, "public", 1000+uid, strangers)...)
	}
	f.want("many uids", rest, 84)
	clients := f.enter(1600, "public", 1, clients)
	f.want("a caller with a rule", clients, 1500-375)
	f.wantEmpty(first, rest, clients)
}

// TestListenersHaveAShare: whoever fills one socket leaves room on the other.
func TestListenersHaveAShare(t *testing.T) {
	f := newFilled(t, Limits{Connections: 160, ConnectionsPerUID: 1000})
	public := f.enter(200, "public", 1, clients)
	f.want("public, alone", public, 150-37)
	private := f.enter(100, "private", 2, clients)
	f.want("private, beside it", private, 37)
	f.g.leave(public[0])
	more := f.enter(2, "private", 2, clients)
	f.want("what public gave back", more, 1)
	admins := f.enter(5, "admin", 0, admins)
	f.want("admin", admins, 5)
	f.wantEmpty(public[1:], private, more, admins)
}

// TestOwnProcessIsNotCounted: the watchdog's probe gets in when nobody else does.
func TestOwnProcessIsNotCounted(t *testing.T) {
	f := newFilled(t, Limits{Connections: 1, ConnectionsPerUID: 1})
	one := f.enter(100, "public", 1, clients)
	f.want("others", one, 1)
	own := f.enter(3, "public", 1, own)
	f.want("our own", own, 3)
	f.wantEmpty(one, own)
}

func TestClasses(t *testing.T) {
	f := newFlooded(t)
	f.server.gate.self = 42
	for want, c := range map[class]*conn{
		strangers: {listener: "public", caller: peer.Caller{UID: 1, GID: 1, PID: 7}},
		clients:   {listener: "public", caller: peer.Caller{UID: 1, GID: 2, PID: 7}},
		admins:    {listener: "admin", caller: peer.Caller{PID: 7}},
		own:       {listener: "public", caller: peer.Caller{UID: 1, PID: 42}},
	} {
		if got := f.server.classify(c); got != want {
			t.Errorf("got class %d, want %d", got, want)
		}
	}
}

// TestStrangersAreNotKept: an idle connection of theirs is closed soon.
func TestStrangersAreNotKept(t *testing.T) {
	c, _ := connected(t)
	for kind, most := range map[class]time.Duration{strangers: strangerIdle, clients: idleTimeout} {
		c.class = kind
		if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
			t.Fatal(err)
		}
		if left := time.Until(c.read.wanted); left > most || left < most-time.Minute || left <= 0 {
			t.Errorf("class %d is kept for %v, want %v", kind, left, most)
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil || !c.read.wanted.IsZero() {
			t.Errorf("class %d: no deadline is one", kind)
		}
	}
}

// TestHeldBeforeLooked: the limits that need no /proc. The admin socket is apart,
// and our own process is never kept out.
func TestHeldBeforeLooked(t *testing.T) {
	f := newFilled(t, Limits{Connections: 20, ConnectionsPerUID: 10})
	f.g.self = 42
	var told []*conn
	hold := func(n int, listener string, uid uint32, pid int32) (in []*conn, over int) {
		for range n {
			c := &conn{listener: listener, caller: peer.Caller{UID: uid, PID: pid}}
			switch ok := f.g.hold(c); {
			case ok && c.over:
				over++
				told = append(told, c)
			case ok:
				in = append(in, c)
			}
		}
		return in, over
	}
	one, over := hold(200, "public", 1, 7)
	f.want("one uid", one, 10+strangersPerUID)
	if over != sparePerUID {
		t.Errorf("%d are told that it is too many, want %d", over, sparePerUID)
	}
	two, over := hold(200, "private", 2, 7)
	f.want("all uids", two, 2*20-26)
	if over != sparePerUID {
		t.Errorf("%d of another uid are told that it is too many, want %d", over, sparePerUID)
	}
	_, over = hold(200, "private", 3, 7)
	_, more := hold(200, "private", 4, 7)
	_, none := hold(200, "private", 5, 7)
	if over+more != spare-2*sparePerUID || none != 0 {
		t.Errorf("%d, %d and %d of others are told, and all have %d places", over, more, none, spare)
	}
	admin, _ := hold(200, "admin", 1, 7)
	f.want("the admin socket", admin, 10+strangersPerUID)
	own, _ := hold(3, "public", 1, 42)
	f.want("our own", own, 3)
	for _, c := range slices.Concat(one, two, admin, own, told) {
		f.g.leave(c)
	}
	if len(f.g.held) != 0 || f.g.all != 0 || f.g.over != 0 || len(f.g.overBy) != 0 {
		t.Error("something is still counted when all have left")
	}
}

// TestMostMakesRoom: the one that waits longest, of the client with most, ends for
// a client with fewer; nobody ends for one with as many, nor for a stranger.
func TestMostMakesRoom(t *testing.T) {
	f := newFilled(t, Limits{Connections: 16, ConnectionsPerUID: 16}) // 15 for clients
	var p parked
	f.g.parked = &p
	wait := func(conns []*conn) []*conn {
		for _, c := range conns {
			c.UnixConn = pairEnd(t)
			p.begin(c)
			p.waiting(c)
		}
		return conns
	}
	f.g.share, f.g.common = 0, 15
	most := wait(f.enter(9, "public", 1, clients))
	fewer := wait(f.enter(6, "public", 2, clients))
	f.want("a third", f.enter(1, "private", 3, clients), 1)
	f.want("a stranger", f.enter(1, "public", 4, strangers), 1) // its own part
	for i, c := range append(most, fewer...) {
		if ended := c.SetDeadline(time.Time{}) != nil || p.conns[c].IsZero(); ended != (i == 0) {
			t.Errorf("connection %d ended: %v", i, ended)
		}
	}
	f.g.leave(most[0])
	f.want("who has most", f.enter(1, "public", 1, clients), 0)
	f.want("who has nearly as many", f.enter(2, "public", 2, clients), 1)
}

// pairEnd is one end of a connection whose other end is kept open.
func pairEnd(t *testing.T) *net.UnixConn {
	c, _ := connected(t)
	return c.UnixConn
}

// TestPace: a burst is free, then it is a number a second, never longer than the
// most, and each uid has its own.
func TestPace(t *testing.T) {
	var g gate
	now := time.Unix(1000, 0)
	for i := range paceBurst {
		if d := g.pace(7, now); d != 0 {
			t.Fatalf("refusal %d waits %v", i, d)
		}
	}
	if d := g.pace(7, now); d <= 0 || d > time.Second/pacePerSecond {
		t.Errorf("the next waits %v", d)
	}
	for range 10000 {
		if d := g.pace(7, now); d > paceMost {
			t.Fatalf("one waits %v", d)
		}
	}
	if d := g.pace(8, now); d != 0 {
		t.Errorf("another uid waits %v", d)
	}
	if d := g.pace(7, now.Add(time.Minute)); d != 0 {
		t.Errorf("a minute later it waits %v", d)
	}
}
