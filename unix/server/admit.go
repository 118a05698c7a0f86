package server

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A connection is let in by steps, the cheap ones first: its user is counted
// with the socket's credentials alone (accepted); then unit and containment are
// read in /proc, by a goroutine of the connection's, one at a time for a user
// (settle); then it counts in its class; and net/http, with its buffers and its
// goroutine, has it only once there is something to read (park.go).

// accept lets connections in until the listener fails. A lack of descriptors or
// memory passes: those that are open end some time.
func (s *Server) accept(l Listener) error {
	pause := time.Duration(0)
	for {
		raw, err := l.L.Accept()
		switch {
		case err == nil:
			pause = 0
			s.accepted(l.Name, raw)
		case scarce(err):
			if pause = min(max(2*pause, 5*time.Millisecond), 250*time.Millisecond); pause == 250*time.Millisecond {
				s.log.Error("connections cannot be accepted", "listener", l.Name, "error", err)
			}
			time.Sleep(pause)
		default:
			return err
		}
	}
}

// sayEvery is how often the daemon's log has of one thing that a caller can cause
// at will.
const sayEvery = 10 * time.Second

// seldom counts what is not said.
type seldom struct {
	mu     sync.Mutex
	said   time.Time
	unsaid int
}

// may reports whether to say it now, and how often it was not said before.
func (l *seldom) may(now time.Time) (unsaid int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if passed := now.Sub(l.said); passed >= 0 && passed < sayEvery {
		l.unsaid++
		return 0, false
	}
	unsaid, l.unsaid, l.said = l.unsaid, 0, now
	return unsaid, true
}

func scarce(err error) bool {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.ECONNABORTED, unix.EINTR:
		return true
	}
	return false
}

// accepted asks the socket who connected, and never /proc.
func (s *Server) accepted(listener string, raw net.Conn) {
	u, ok := raw.(*net.UnixConn)
	if !ok {
		_ = raw.Close()
		s.log.Error("connection is not a unix socket", "listener", listener)
		return
	}
	process, err := s.peers.Hold(u)
	if err != nil {
		_ = raw.Close()
		if before, ok := s.unheld.may(s.now()); ok {
			s.log.Warn("caller cannot be identified", "listener", listener, "error", err, "unsaid", before)
		}
		return
	}
	c := &conn{UnixConn: u, server: s, listener: listener, process: process, caller: process.Caller()}
	c.state.Store(int32(http.StateClosed)) // not counted yet
	if !s.gate.hold(c) {
		_, _ = u.Close(), process.Close()
		return
	}
	s.states.move(c, http.StateNew)
	if !s.parked.begin(c) {
		s.drop(c)
		return
	}
	go s.admit(c)
}

// admit waits in another goroutine than the one that has read /proc, whose stack
// has grown.
func (s *Server) admit(c *conn) {
	if !s.settle(c) {
		s.drop(c)
		s.parked.end(c)
		return
	}
	go func() {
		defer s.parked.end(c)
		s.await(c, time.Now().Add(s.limits.HeaderTimeout))
	}()
}

// settle finds out what else there is to know of the caller, and which class it
// counts with. false: it is not let in.
func (s *Server) settle(c *conn) bool {
	if c.over { // will be told so, whoever it is
		return true
	}
	c.held.one.Lock()
	c.caller = c.process.Identify()
	c.held.one.Unlock()
	c.class = s.classify(c)
	return s.gate.enter(c)
}

// drop ends a connection that net/http does not have.
func (s *Server) drop(c *conn) {
	_ = c.end()
	s.states.move(c, http.StateClosed)
}
