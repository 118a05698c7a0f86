package server

import (
	"net/http"
	"os"
	"time"

	"golang.org/x/time/rate"
)

// What a caller that is over a limit costs is bounded too. A uid is told so
// pacePerSecond times a second, after a burst; further answers wait for their
// turn, up to paceMost, and the connection with them. It hurts nobody who heeds
// Retry-After, which is a second at least.
//
// paceLines bounds the memory: uids that share a line share its turns, and a
// stranger can make another's refusals, and nothing else, come later.
const (
	pacePerSecond = 10
	paceBurst     = 50
	paceMost      = 2 * time.Second
	paceLines     = 256
)

// A uid may have slowHeads requests whose heads came in more than one piece and
// are not there yet; each holds up to the header limit twice. Beyond that, what is
// not there within slowPatience does not come.
const (
	slowHeads    = 64
	slowPatience = 100 * time.Millisecond
)

type paces [paceLines]*rate.Limiter // under the gate's lock

// pace is how long the next answer that says 429 must wait.
func (g *gate) pace(uid uint32, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	line := &g.paces[uid%paceLines]
	if *line == nil {
		*line = rate.NewLimiter(pacePerSecond, paceBurst)
	}
	turn := (*line).ReserveN(now, 1)
	wait := turn.DelayFrom(now)
	if wait > paceMost {
		turn.CancelAt(now)
		return paceMost
	}
	return wait
}

// waitTurn holds an answer back that says 429.
func (c *conn) waitTurn() {
	c.limited = false
	wait := c.server.gate.pace(c.caller.UID, time.Now())
	if wait <= 0 {
		return
	}
	turn := time.NewTimer(wait)
	defer turn.Stop()
	select {
	case <-turn.C:
	case <-c.server.cut.Done():
	}
}

// readPart reads what comes next. The parts of a head after the first count as
// slow; net/http calls a connection active once it has the head.
func (c *conn) readPart(b []byte) (int, error) {
	if c.slot == nil || c.is(http.StateActive) {
		return c.UnixConn.Read(b)
	}
	n, err := c.readHeadPart(b)
	if err != nil {
		c.overdue(err)
	}
	return n, err
}

func (c *conn) readHeadPart(b []byte) (int, error) {
	if !c.begun {
		n, err := c.UnixConn.Read(b)
		c.begun = n > 0
		return n, err
	}
	defer c.slot.slow.Add(-1)
	if c.slot.slow.Add(1) > slowHeads {
		if err := c.read.hurry(c.UnixConn, time.Now().Add(slowPatience)); err != nil {
			return 0, os.ErrDeadlineExceeded
		}
	}
	return c.UnixConn.Read(b)
}
