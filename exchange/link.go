package exchange

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// link is one connection to Human API, with one request at a time.
type link struct {
	raw   *countedConn // the TCP connection
	conn  net.Conn     // what HTTP is spoken on: raw itself, or TLS over it
	under []*records   // what each TLS in conn reads from
	limit *limitedReader
	in    *bufio.Reader
	held  []byte    // the memory of in, which has seen the answers
	idle  time.Time // since when
}

// clearable returns a bufio.Reader together with the memory that it reads into,
// so that it can be cleared between two answers: what a new one reads first is read
// into the whole of it, and Reset keeps it (bufio.go; a test holds it to that).
func clearable(from io.Reader) (in *bufio.Reader, memory []byte) {
	var c capture
	in = bufio.NewReader(&c)
	_, _ = in.Peek(1)
	in.Reset(from)
	return in, c.memory
}

// capture keeps what it is asked to read into.
type capture struct{ memory []byte }

func (c *capture) Read(b []byte) (int, error) {
	c.memory = b
	return 0, io.EOF
}

// inbound is what was read of an answer.
type inbound struct {
	status int // 0: no final answer came
	header http.Header
	body   []byte // of a 2xx, whole when roundTrip returned no error
	// untilClose: the answer said nothing about its length, so that its end
	// cannot be told from a broken connection.
	untilClose bool
	reusable   bool // the connection is where it was before the request
	buffer     *[]byte
}

// buffers holds body buffers, cleared.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxBody+1); return &b }}

// release clears what was read.
func (in *inbound) release() {
	if in.buffer == nil {
		return
	}
	clear(*in.buffer)
	buffers.Put(in.buffer)
	in.buffer, in.body = nil, nil
}

// roundTrip writes the request and reads the answer into in, until ctx ends.
// Sent is false only when no byte of the request left. The error is fit for
// printing.
func (l *link) roundTrip(ctx context.Context, request []byte, in *inbound) (sent bool, err error) {
	stop := deadline(ctx, l.conn)
	defer func() { in.reusable = stop() && in.reusable }()
	defer l.forget() // either it is all read, or the link is not used again
	before := l.raw.written.Load()
	if _, err := l.conn.Write(request); err != nil {
		return l.raw.written.Load() != before, describe(ctx, "sending failed", err)
	}
	if err := l.read(in); err != nil {
		return true, describe(ctx, "the answer is no HTTP", err)
	}
	return true, nil
}

// post tells http.ReadResponse what is being answered.
var post = &http.Request{Method: http.MethodPost}

func (l *link) read(in *inbound) error {
	l.limit.left = maxHead // interim answers included
	res, err := http.ReadResponse(l.in, post)
	for err == nil && res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
		res, err = http.ReadResponse(l.in, post)
	}
	if err != nil {
		if l.limit.left <= 0 { // bufio hides it behind half a line
			return errHeadTooLarge
		}
		return err
	}
	defer res.Body.Close()
	in.status, in.header = res.StatusCode, res.Header
	in.untilClose = res.ContentLength < 0 && len(res.TransferEncoding) == 0
	l.limit.left = maxWire
	if res.ContentLength > maxBody {
		return errTooLarge
	}
	in.buffer = buffers.Get().(*[]byte)
	n, err := readBody(res.Body, *in.buffer)
	in.body = (*in.buffer)[:n]
	// More bytes than the answer has would be taken for the next answer.
	in.reusable = err == nil && !res.Close && !in.untilClose && res.StatusCode != http.StatusSwitchingProtocols &&
		l.in.Buffered() == 0
	return err
}

// readBody reads to the end, which must come before b is full.
func readBody(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	switch {
	case n == len(b), errors.Is(err, errHeadTooLarge):
		return n, errTooLarge
	case err == io.EOF:
		return n, nil
	}
	return n, err
}

// alive reports whether an idle connection can take a request: nothing is to
// be read on it, not even its end, neither in the kernel nor in what TLS has read
// ahead. Bytes that came before the request would be taken for its answer.
func (l *link) alive() bool {
	// Once more at the end: draining an outer TLS may have brought half a record
	// of an inner one.
	return l.whole() && l.quiet() && l.drained() && l.whole()
}

// whole reports whether no TLS holds a part of a record.
func (l *link) whole() bool {
	return !slices.ContainsFunc(l.under, func(r *records) bool { return !r.whole() })
}

// quiet looks into the kernel, and consumes nothing.
func (l *link) quiet() bool {
	sc, ok := l.raw.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = rc.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errors.Is(err, syscall.EAGAIN)
		return true // never wait
	})
	return err == nil && quiet
}

// drained reads under a deadline that has passed, which yields what crypto/tls
// holds and nothing else. The deadline's error is temporary, and crypto/tls goes
// on reading after it (conn.go, readRecordOrCCS); only one of writing stays.
func (l *link) drained() bool {
	if l.conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	l.limit.left = maxHead
	_, err := l.in.Peek(1)
	return errors.Is(err, os.ErrDeadlineExceeded) && l.conn.SetReadDeadline(time.Time{}) == nil
}

// forget clears what has seen an answer.
func (l *link) forget() {
	clear(l.held)
	for _, r := range l.under {
		r.wipe()
	}
}

// abort closes the connection at once; close says goodbye in TLS first.
func (l *link) abort() {
	_ = l.raw.Close()
	l.forget()
}

func (l *link) close() {
	_ = l.conn.Close()
	l.forget()
}

var errHeadTooLarge = errors.New("the head of the answer is too large")

// limitedReader reads until left is used up; then it fails.
type limitedReader struct {
	from io.Reader
	left int
}

func (r *limitedReader) Read(b []byte) (int, error) {
	if r.left <= 0 {
		return 0, errHeadTooLarge
	}
	n, err := r.from.Read(b[:min(len(b), r.left)])
	r.left -= n
	return n, err
}
