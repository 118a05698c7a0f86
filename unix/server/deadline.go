package server

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// A write to a caller that does not read ends after writeTimeout, or up to
// writeSlack later: so long one deadline serves.
const (
	writeTimeout = 30 * time.Second
	writeSlack   = time.Second
)

// Write bounds each write.
func (c *conn) Write(b []byte) (int, error) {
	if !c.answering {
		c.refusedUnseen(b)
	}
	if c.limited {
		c.waitTurn()
	}
	if now := time.Now(); c.write.Sub(now) < writeTimeout {
		c.write = now.Add(writeTimeout + writeSlack)
		if err := c.UnixConn.SetWriteDeadline(c.write); err != nil {
			return 0, err
		}
	}
	return c.UnixConn.Write(b)
}

// SetWriteDeadline does nothing. net/http takes the deadline off after every
// answer, and Write has its own.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline is in force for the read under way and for later ones. A
// caller without a rule is never waited for longer than strangerIdle.
//
// Behind an answer net/http sets one for the next request to begin, and another when
// it has four bytes of it, whatever it has read ahead (net/http server.go, conn.serve).
func (c *conn) SetReadDeadline(t time.Time) error {
	if c.class == strangers && time.Until(t) > strangerIdle {
		t = time.Now().Add(strangerIdle)
	}
	if c.is(http.StateIdle) {
		c.begun, c.idle = c.begun || c.idle, true
	}
	return c.read.want(c.UnixConn, t)
}

// SetDeadline is SetReadDeadline, because Write has a deadline of its own.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// readDeadline keeps a deadline until something is read. net/http changes it four
// times a request, mostly for a head that is in its buffer by then, and every
// change moves a timer of the runtime.
type readDeadline struct {
	mu      sync.Mutex
	wanted  time.Time
	set     time.Time
	reading bool // one at a time: net/http waits for the one in the background
}

func (d *readDeadline) want(c *net.UnixConn, t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
	if !d.reading {
		return nil
	}
	return d.apply(c)
}

func (d *readDeadline) begin(c *net.UnixConn) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = true
	return d.apply(c)
}

// limit puts a sooner deadline in front of the wanted one, and returns that; false:
// the wanted one comes first.
func (d *readDeadline) limit(sooner time.Time) (wanted time.Time, limited bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted = d.wanted
	if !wanted.IsZero() && wanted.Before(sooner) {
		return wanted, false
	}
	d.wanted = sooner
	return wanted, true
}

// lift takes it away again; false: another one was wanted meanwhile.
func (d *readDeadline) lift(sooner, wanted time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.wanted.Equal(sooner) {
		return false
	}
	d.wanted = wanted
	return true
}

func (d *readDeadline) deadline() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wanted
}

// hurry sets a sooner deadline for the read that comes now, unless the wanted one
// is sooner.
func (d *readDeadline) hurry(c *net.UnixConn, sooner time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.wanted.IsZero() && d.wanted.Before(sooner) {
		return nil
	}
	d.set = sooner
	return c.SetReadDeadline(sooner)
}

func (d *readDeadline) end() {
	d.mu.Lock()
	d.reading = false
	d.mu.Unlock()
}

func (d *readDeadline) apply(c *net.UnixConn) error {
	if d.wanted.Equal(d.set) {
		return nil
	}
	d.set = d.wanted
	return c.SetReadDeadline(d.set)
}
