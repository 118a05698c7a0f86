package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxAnswer = 1 << 20  // bytes of a body; Vault's own limit for an entry is half of it
	maxHeader = 64 << 10 // bytes of an answer's head
	maxCAFile = 1 << 20  // bytes
)

// transport carries requests to the configured address, each over a connection of
// its own, and hands on only answers that are Vault's own; everything else becomes
// a noAnswer. It reads a body whole, so that nothing above it waits or reads
// without a limit.
type transport struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	tls     *tls.Config
	timeout time.Duration
	sent    *atomic.Uint64 // requests that were written
}

func newTransport(c Config) (*transport, error) {
	u, err := c.url()
	if err != nil {
		return nil, err
	}
	roots, err := authorities(c.CAFile)
	if err != nil {
		return nil, err
	}
	pinned, err := newPins(c.Pins)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: c.TLSServerName, NextProtos: []string{"http/1.1"}}
	defaultTo(&config.ServerName, u.Hostname())
	if pinned != nil {
		config.VerifyConnection = pinned.check
	}
	t := &transport{timeout: c.Timeout, sent: new(atomic.Uint64), tls: config, dial: c.dial}
	if t.dial == nil {
		dialer := &net.Dialer{Timeout: c.Timeout}
		if c.UnsafePlainHTTP {
			dialer.Control = loopbackOnly
		}
		t.dial = dialer.DialContext
	}
	return t, nil
}

// present makes connections show the certificate that identity then holds. No
// connection and no TLS session outlives its request, and so Vault always sees the
// newest one, which logins and renewals need: Vault renews a token only for the
// certificate that it was given to (unless the mount says disable_binding).
func (t *transport) present(identity *atomic.Pointer[tls.Certificate]) {
	t.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if shown := identity.Load(); shown != nil {
			return shown, nil
		}
		return &tls.Certificate{}, nil // none
	}
}

// loopbackOnly refuses an address after it was resolved, where a name cannot
// lie any more. Plain HTTP needs it; with unsafe_plain_http, https gets it too.
func loopbackOnly(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return errors.New("unsafe_plain_http dials loopback addresses only")
	}
	return nil
}

// authorities returns the certificates of caFile or, when it is "", the
// system's.
func authorities(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return systemRoots()
	}
	f, err := os.Open(caFile)
	if err != nil {
		return nil, fmt.Errorf("vault ca_file: %w", err)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile))
	if err != nil {
		return nil, fmt.Errorf("vault ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("vault ca_file %s: holds no PEM certificate", caFile)
	}
	return pool, nil
}

// RoundTrip implements http.RoundTripper, with the token that the context holds.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(req.Context(), t.timeout)
	defer cancel()
	resp, body, err := t.ask(ctx, req)
	if err != nil {
		if ended := ctx.Err(); ended != nil { // it is why the connection broke
			err = ended
		}
		return nil, unreachable(err)
	}
	if why := notVaultsOwn(resp.StatusCode, body); why != "" {
		clear(body)
		return nil, &noAnswer{why: why, busy: inService(resp.StatusCode)}
	}
	resp.Body = &wipedBody{Reader: bytes.NewReader(body), bytes: body}
	return resp, nil
}

// ask sends a request and reads its answer.
func (t *transport) ask(ctx context.Context, req *http.Request) (*http.Response, []byte, error) {
	h, err := t.open(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	defer h.close()
	token, _ := ctx.Value(tokenKey{}).(*heldToken)
	if err := h.send(req, token); err != nil {
		return nil, nil, err
	}
	t.sent.Add(1)
	return h.receive(req)
}

// notVaultsOwn says why an answer is not one of a Vault that is in service, or
// "". A no (400, 403, 404, 405) counts only with Vault's error body: load
// balancers and captive portals say no as well.
func notVaultsOwn(status int, body []byte) string {
	if len(body) > maxAnswer {
		return "its answer is larger than 1 MiB"
	}
	switch {
	case status >= 300 && status < 400:
		return "it answers with a redirect, which is not followed: give the address of Vault itself"
	case status == http.StatusServiceUnavailable:
		return "it is sealed, or not in service (503)"
	case status == http.StatusNoContent, status >= 200 && status < 300 && len(body) == 0:
		return ""
	case status >= 200 && status < 300:
		if !isObjectWith(body) {
			return "what answers does not answer in Vault's JSON"
		}
		return ""
	case status == 400, status == 403, status == 404, status == 405:
		if !isObjectWith(body, "errors") && (status != 404 || !isObjectWith(body, "data")) {
			return "what answers says " + strconv.Itoa(status) + ", but not as Vault does"
		}
		return ""
	}
	return "it is not in service (" + strconv.Itoa(status) + ")"
}

// inService reports whether an answer that is none of Vault's own comes from
// something that works for it. A Vault that is sealed (503) or stands by (472,
// 473: "Default response codes" of sys/health in Vault's API documentation) says
// so from memory.
func inService(status int) bool {
	return status != http.StatusServiceUnavailable && status != 472 && status != 473
}

// isObjectWith reports whether body is a JSON object with these fields.
func isObjectWith(body []byte, names ...string) bool {
	members, err := fields(body)
	for _, name := range names {
		if _, ok := members[name]; !ok {
			return false
		}
	}
	return err == nil
}

// wipedBody clears its bytes when it is closed, unless they were taken: they may
// hold a secret.
type wipedBody struct {
	*bytes.Reader
	bytes []byte
}

// take returns the bytes, which are the caller's from then on.
func (b *wipedBody) take() []byte {
	taken := b.bytes
	b.Reset(nil)
	b.bytes = nil
	return taken
}

func (b *wipedBody) Close() error {
	b.Reset(nil)
	clear(b.bytes)
	return nil
}
