package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
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

// transport carries requests to the configured address and hands on only
// answers that are Vault's own; everything else becomes a noAnswer. It reads a
// body whole, so that nothing above it waits or reads without a limit.
type transport struct {
	base    *http.Transport
	timeout time.Duration
	sent    *atomic.Uint64 // requests whose head was written
}

func newTransport(c Config) (*transport, error) {
	roots, err := authorities(c.CAFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: c.TLSServerName}
	pinned, err := newPins(c.Pins)
	if err != nil {
		return nil, err
	}
	if pinned != nil {
		config.VerifyConnection = pinned.check
	}
	dialer := &net.Dialer{Timeout: c.Timeout, KeepAlive: 30 * time.Second}
	if c.UnsafePlainHTTP {
		dialer.Control = loopbackOnly
	}
	dial := dialer.DialContext
	if c.dial != nil {
		dial = c.dial
	}
	return &transport{timeout: c.Timeout, sent: new(atomic.Uint64), base: &http.Transport{
		Proxy:                  nil, // the environment's are not ours
		DialContext:            dial,
		TLSClientConfig:        config,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        90 * time.Second,
	}}, nil
}

// present makes new connections show the certificate that identity then holds,
// and returns a transport that makes a new one for every request.
//
// Logins and renewals need that: what a connection that is kept alive has shown is
// the certificate of before, and Vault renews a token only for the certificate that
// it was given to (unless the mount says disable_binding).
func (t *transport) present(identity *atomic.Pointer[tls.Certificate]) *transport {
	t.base.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if shown := identity.Load(); shown != nil {
			return shown, nil
		}
		return &tls.Certificate{}, nil // none
	}
	single := t.base.Clone()
	single.DisableKeepAlives = true
	return &transport{base: single, timeout: t.timeout, sent: t.sent}
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

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(req.Context(), t.timeout)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { t.sent.Add(1) }})
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, inOurWords(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, inOurWords(err)
	}
	if why := notVaultsOwn(resp.StatusCode, body); why != "" {
		return nil, &noAnswer{why: why, busy: inService(resp.StatusCode)}
	}
	resp.Body = &wipedBody{Reader: bytes.NewReader(body), bytes: body}
	return resp, nil
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
		if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) || !json.Valid(body) {
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
func isObjectWith(body []byte, fields ...string) bool {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil || object == nil {
		return false
	}
	for _, f := range fields {
		if _, ok := object[f]; !ok {
			return false
		}
	}
	return true
}

// wipedBody clears its bytes when it is closed: they may hold a secret.
type wipedBody struct {
	*bytes.Reader
	bytes []byte
}

func (b *wipedBody) Close() error {
	b.Reset(nil)
	clear(b.bytes)
	return nil
}
