package exchange

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// dialer makes connections to the pinned origin, directly or through the proxy.
type dialer struct {
	origin   origin
	proxy    origin // address "" when there is none
	tls      *tls.Config
	proxyTLS *tls.Config
	net      net.Dialer
}

func newDialer(c Config, o origin) (*dialer, error) {
	roots, err := readRoots(c.CAFile)
	if err != nil {
		return nil, err
	}
	pins, err := parsePins(c.Pins, o.secure)
	if err != nil {
		return nil, err
	}
	d := &dialer{origin: o, tls: newTLS(o.hostname, roots)}
	d.tls.VerifyConnection = verifyPins(pins)
	d.net.Control = checker(o, c.UnsafePrivateAddresses)
	if c.ProxyURL != "" {
		if d.proxy, err = readOrigin(c.ProxyURL); err != nil {
			return nil, fmt.Errorf("the URL of the proxy: %w", err)
		}
		d.proxyTLS = newTLS(d.proxy.hostname, roots)
		d.net.Control = nil // the operator's word, wherever it is
	}
	return d, nil
}

// dial makes a connection that is ready for a request. Its errors are fit for
// printing.
func (d *dialer) dial(ctx context.Context) (*link, error) {
	address := d.origin.address
	if d.proxy.address != "" {
		address = d.proxy.address
	}
	tcp, err := d.net.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, describe(ctx, "connecting failed", err)
	}
	raw := &countedConn{Conn: tcp}
	l := &link{raw: raw, conn: raw}
	if err := d.dress(ctx, l); err != nil {
		_ = raw.Close()
		return nil, err
	}
	l.limit = &limitedReader{from: l.conn}
	l.in, l.held = clearable(l.limit)
	return l, nil
}

// dress puts tunnel and TLS over a TCP connection.
func (d *dialer) dress(ctx context.Context, l *link) error {
	if d.proxy.address != "" {
		if d.proxy.secure {
			if err := l.secure(ctx, d.proxyTLS); err != nil {
				return describe(ctx, "TLS with the proxy failed", err)
			}
		}
		if err := tunnel(ctx, l.conn, d.origin.address); err != nil {
			return describe(ctx, "the proxy did not answer", err)
		}
	}
	if !d.origin.secure {
		return nil
	}
	if err := l.secure(ctx, d.tls); err != nil {
		return describe(ctx, "TLS failed", err)
	}
	return nil
}

// secure puts TLS over what the link speaks on.
func (l *link) secure(ctx context.Context, c *tls.Config) error {
	under := &records{Conn: l.conn}
	over := tls.Client(under, c)
	if err := over.HandshakeContext(ctx); err != nil {
		return err
	}
	l.conn, l.under = over, append(l.under, under)
	return nil
}

// tunnel asks a proxy for a connection to address (RFC 9110 section 9.3.6).
func tunnel(ctx context.Context, conn net.Conn, address string) error {
	defer deadline(ctx, conn)()
	if _, err := conn.Write([]byte("CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n\r\n")); err != nil {
		return err
	}
	in := bufio.NewReader(&limitedReader{from: conn, left: maxHead})
	res, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return ownError(fmt.Sprintf("the proxy answered CONNECT with %d", res.StatusCode))
	}
	if in.Buffered() > 0 {
		return ownError("the proxy sent something before the tunnel was used")
	}
	return nil
}

// deadline makes conn's reads and writes fail when ctx ends. The result stops
// that, and reports whether conn is still untouched by it.
func deadline(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// countedConn knows whether a byte has left: TLS and HTTP above it do not.
type countedConn struct {
	net.Conn
	written atomic.Int64
}

// Write counts what the kernel has taken.
func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// records knows whether what was read of a connection ends where a TLS record
// does (RFC 8446 section 5.1: a head of five bytes, of which the last two are
// the length of what follows). It gives no read more than the rest of a head, or of
// what follows one, so that crypto/tls moves nothing that it has to a larger buffer;
// and it knows what was read into, where crypto/tls decrypts in place.
type records struct {
	net.Conn
	head [5]byte
	have int // bytes of head
	left int // bytes of the record behind its head
	into [][]byte
}

// wipe clears what was read. What crypto/tls has not handed on of it is lost: the
// connection is then not whole, or shows more than it should, and is not used again.
func (r *records) wipe() {
	for _, b := range r.into {
		clear(b)
	}
	r.into = nil
}

func (r *records) Read(b []byte) (int, error) {
	room := r.left
	if room == 0 {
		room = len(r.head) - r.have
	}
	n, err := r.Conn.Read(b[:min(len(b), room)])
	r.into = append(r.into, b[:n])
	for b = b[:n]; len(b) > 0; {
		if r.left > 0 {
			m := min(r.left, len(b))
			r.left, b = r.left-m, b[m:]
			continue
		}
		m := copy(r.head[r.have:], b)
		r.have, b = r.have+m, b[m:]
		if r.have == len(r.head) {
			r.have, r.left = 0, int(binary.BigEndian.Uint16(r.head[3:]))
		}
	}
	return n, err
}

func (r *records) whole() bool { return r.have == 0 && r.left == 0 }

// Reach connects to the origin c.UserURL as [Client] would, through the proxy and
// with TLS and pins, and hangs up. Nothing is asked. Its errors are fit for printing.
func Reach(ctx context.Context, c Config) error {
	o, err := parseOrigin(c)
	if err != nil {
		return err
	}
	d, err := newDialer(c, o)
	if err != nil {
		return err
	}
	l, err := d.dial(ctx)
	if err != nil {
		return err
	}
	return l.raw.Close()
}
