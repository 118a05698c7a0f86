package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// net/http holds two buffers of 4 KiB, a goroutine with a grown stack and some
// contexts for every connection that it has, however idle. So it has none that is
// idle: a new connection is handed over with its first byte, and one that stays
// idle behind an answer for keepWarm is taken back, and handed over with its next.
const (
	// emptyBuffer is the size of net/http's read buffer. A read of as much finds it
	// empty: nothing of a next request would be lost.
	emptyBuffer = 4096
	keepWarm    = 200 * time.Millisecond
)

// errParked is what net/http is told of a connection that is taken back. The
// caller never sees it.
var errParked = errors.New("the connection is taken back")

// readIdle waits for the next request, or for the time to take the connection back.
func (c *conn) readIdle(b []byte) (int, error) {
	clear(b) // the requests before: nothing in it is wanted any more
	warm := time.Now().Add(keepWarm)
	until, park := c.read.limit(warm)
	if err := c.read.begin(c.UnixConn); err != nil {
		return 0, err
	}
	defer c.read.end()
	n, err := c.readPart(b)
	if park && c.read.lift(warm, until) && n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		c.parking.Store(true)
		return 0, errParked
	}
	return n, err
}

// await hands c over once there is something to read, and drops it when nothing
// comes until then.
func (s *Server) await(c *conn, until time.Time) {
	s.parked.waiting(c)
	err := c.awaitByte(until)
	if woken := s.parked.woken(c); !woken || err != nil || s.feed.give(c) != nil {
		s.drop(c)
	}
}

func (c *conn) awaitByte(until time.Time) error {
	if err := c.SetReadDeadline(until); err != nil {
		return err
	}
	if err := c.read.begin(c.UnixConn); err != nil {
		return err
	}
	defer c.read.end()
	return readable(c.UnixConn)
}

// readable returns when there is something to read, without reading it and
// without a buffer; an error when nothing will come.
func readable(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		for {
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return false
			case err == nil && n == 0:
				err = io.EOF
			}
			result = err
			return true
		}
	})
	if err != nil {
		return err
	}
	return result
}

// feed is what net/http accepts from.
type feed struct {
	conns chan *conn
	done  chan struct{}
	once  sync.Once
}

func newFeed() *feed { return &feed{conns: make(chan *conn), done: make(chan struct{})} }

func (f *feed) give(c *conn) error {
	select {
	case f.conns <- c:
		return nil
	case <-f.done:
		return net.ErrClosed
	}
}

// Accept is called by net/http.
func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close is called by net/http when it shuts down.
func (f *feed) Close() error { f.once.Do(func() { close(f.done) }); return nil }

// Addr is asked for by net/http, which keeps it in a context.
func (f *feed) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// parked are the connections that net/http does not have.
type parked struct {
	mu sync.Mutex
	// conns has the time since when each waits for a byte; zero: not yet, or told
	// to end.
	conns map[*conn]time.Time
	shut  bool
	wait  sync.WaitGroup
}

// begin is followed by end, unless it returns false: no more are taken.
func (p *parked) begin(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return false
	}
	if p.conns == nil {
		p.conns = map[*conn]time.Time{}
	}
	p.conns[c] = time.Time{}
	p.wait.Add(1)
	return true
}

func (p *parked) end(c *conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	p.wait.Done()
}

// waiting is called when c waits for a byte, all about it being settled.
func (p *parked) waiting(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = time.Now()
}

// woken is called when that is over; false: c was told to end.
func (p *parked) woken(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ended := p.conns[c].IsZero()
	p.conns[c] = time.Time{}
	return !ended
}

// evict ends the connection that waits the longest among those that a client with
// more connections than least holds, and that may makes room; false: there is none.
func (p *parked) evict(least int, may func(*conn) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var victim *conn
	for c, since := range p.conns {
		if since.IsZero() || c.over || c.class != clients || c.slot.conns < least || !may(c) {
			continue
		}
		if victim == nil || c.slot.conns > victim.slot.conns || c.slot == victim.slot && since.Before(p.conns[victim]) {
			victim = c
		}
	}
	if victim == nil {
		return false
	}
	p.conns[victim] = time.Time{}
	_ = victim.UnixConn.Close() // whoever waits for it drops it
	return true
}

// close ends them all, and waits until they have.
func (p *parked) close() {
	p.mu.Lock()
	p.shut = true
	for c := range p.conns {
		_ = c.UnixConn.Close()
	}
	p.mu.Unlock()
	p.wait.Wait()
}

// hook is called by net/http, for one connection at a time, last of all when it
// lets a connection go.
func (s *Server) hook(nc net.Conn, to http.ConnState) {
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	if to != http.StateNew {
		c.begun = false // what follows an answer is another head, and a body none
	}
	if to == http.StateIdle {
		c.answering, c.idle = false, false
	}
	if to != http.StateClosed || !c.parking.Load() {
		s.states.move(c, to)
		return
	}
	c.parking.Store(false) // it stays idle
	if !s.parked.begin(c) {
		s.drop(c)
		return
	}
	until := c.read.deadline()
	go func() {
		defer s.parked.end(c)
		s.await(c, until)
	}()
}
