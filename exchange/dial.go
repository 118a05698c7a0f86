package exchange

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
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
	d := &dialer{origin: o, tls: newTLS(o.hostname, roots)}
	if !o.secure {
		d.net.Control = loopbackOnly
	}
	if c.ProxyURL != "" {
		if d.proxy, err = readOrigin(c.ProxyURL); err != nil {
			return nil, fmt.Errorf("the URL of the proxy: %w", err)
		}
		d.proxyTLS = newTLS(d.proxy.hostname, roots)
	}
	return d, nil
}

var errNotLoopback = errors.New("the name resolved to an address that is not loopback")

// loopbackOnly looks at the address that is really dialled, not at its name.
func loopbackOnly(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return errNotLoopback
	}
	return nil
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
	conn, err := d.dress(ctx, raw)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	l := &link{raw: raw, conn: conn, limit: &limitedReader{from: conn}}
	l.in = bufio.NewReader(l.limit)
	return l, nil
}

// dress puts tunnel and TLS over a TCP connection.
func (d *dialer) dress(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if d.proxy.address != "" {
		if d.proxy.secure {
			over := tls.Client(conn, d.proxyTLS)
			if err := over.HandshakeContext(ctx); err != nil {
				return nil, describe(ctx, "TLS with the proxy failed", err)
			}
			conn = over
		}
		if err := tunnel(ctx, conn, d.origin.address); err != nil {
			return nil, describe(ctx, "the proxy did not answer", err)
		}
	}
	if !d.origin.secure {
		return conn, nil
	}
	over := tls.Client(conn, d.tls)
	if err := over.HandshakeContext(ctx); err != nil {
		return nil, describe(ctx, "TLS failed", err)
	}
	return over, nil
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
