package server

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// headSlack is what net/http reads beyond MaxHeaderBytes before it answers 431.
const headSlack = 4096

// conn is a connection whose caller is known. Requests on it come one after the
// other, so what a request keeps here needs no lock.
type conn struct {
	*net.UnixConn
	server   *Server
	listener string
	process  *peer.Process // held until Close
	caller   peer.Caller
	view     *policy.View
	class    class
	held     *holding
	slot     *slot // nil until enter
	entered  bool  // counted in its class
	over     bool  // beyond a limit: answered with 429 and closed
	limited  bool  // the answer being written says 429
	// answering: a handler of ours has the request. net/http alone writes to a
	// connection, so that what is written else is a refusal of its own.
	answering bool
	once      sync.Once

	read  readDeadline
	write time.Time // the deadline that is set; net/http writes one by one

	state   atomic.Int32 // http.ConnState, also while net/http does not have it
	begun   bool         // some of a head is read
	idle    bool         // net/http has set the deadline for the next request to begin
	parking atomic.Bool  // net/http was told that it ended, and it did not

	// The first head, read here to look at its Host; nil once handed on.
	headDone bool
	pathHost bool // Host was a path: the answer closes the connection
	ahead    []byte
	aheadErr error

	// buffer is net/http's, while that has the connection.
	buffer []byte
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// Close gives the slot back, unless net/http only gives the connection back.
func (c *conn) Close() error {
	if c.parking.Load() {
		return nil
	}
	return c.end()
}

func (c *conn) end() error {
	c.once.Do(func() { c.server.gate.leave(c); _ = c.process.Close() })
	return c.UnixConn.Close()
}

func (c *conn) is(state http.ConnState) bool { return http.ConnState(c.state.Load()) == state }

// Read hands on what the caller sent. In the first head of a connection a Host
// that is a path is replaced: net/http refuses it before any handler, and
// clients of some age send it over Unix sockets. Later heads are left alone,
// because finding them would take a second HTTP parser, which invites
// smuggling; the answer therefore closes the connection.
func (c *conn) Read(b []byte) (int, error) {
	if len(b) == emptyBuffer {
		c.buffer = b
	}
	if c.is(http.StateIdle) && !c.begun && len(b) == emptyBuffer && len(c.ahead) == 0 && c.aheadErr == nil {
		return c.readIdle(b)
	}
	if err := c.read.begin(c.UnixConn); err != nil {
		return 0, err
	}
	defer c.read.end()
	if !c.headDone {
		c.readHead()
	}
	if len(c.ahead) > 0 {
		n := copy(b, c.ahead)
		clear(c.ahead[:n])
		if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
			c.ahead = nil // an idle connection keeps no buffer
		}
		return n, nil
	}
	if c.aheadErr != nil {
		return 0, c.aheadErr
	}
	return c.readPart(b)
}

// readHead reads until the first Host line, or the head's end, is there. The
// deadline is net/http's, which has set it before it reads.
func (c *conn) readHead() {
	c.headDone = true
	limit := c.server.limits.Header + headSlack
	buf := make([]byte, 0, 1024)
	for line := 0; len(buf) < limit && c.aheadErr == nil; {
		if len(buf) == cap(buf) {
			small := buf
			buf = append(buf, 0)[:len(buf)]
			clear(small)
		}
		var n int
		n, c.aheadErr = c.readPart(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		from, to, next := findHost(buf, line)
		if to > from && buf[from] == '/' {
			c.pathHost = true
			named := buf
			buf = slices.Concat(buf[:from], []byte("localhost"), buf[to:])
			clear(named)
		}
		if line = next; line < 0 {
			break
		}
	}
	c.ahead = buf
}

// findHost looks for the value of the first Host line of a head, from the line
// that begins at line. next is where to go on with more bytes; -1: it was found
// (then to is not 0) or cannot come any more.
func findHost(head []byte, line int) (from, to, next int) {
	for {
		n := bytes.IndexByte(head[line:], '\n')
		if n < 0 {
			return 0, 0, line
		}
		text := bytes.TrimSuffix(head[line:line+n], []byte("\r"))
		if len(text) == 0 {
			return 0, 0, -1
		}
		name, value, ok := bytes.Cut(text, []byte(":"))
		if ok && line > 0 && bytes.EqualFold(name, []byte("Host")) {
			to = line + len(text)
			return to - len(bytes.TrimLeft(value, " \t")), to, -1
		}
		line += n + 1
	}
}

// stillThere reports whether the process that connected is there yet. What must
// not outlive it (access-token, proxy, forget, admin) asks for every request.
func (q *call) stillThere() bool { return q.conn.process.Alive() }
