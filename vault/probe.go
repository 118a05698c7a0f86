package vault

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Contact is how far a request without a credential comes.
type Contact struct {
	// Dialled: something accepts connections at the address. Secured: and TLS with it
	// is as configured; with plain HTTP the same. Serves: and it is a Vault in service.
	Dialled, Secured, Serves bool
	Encrypted                bool
	Since, Until             time.Time     // of the certificate; zero without TLS
	Clock                    time.Time     // Vault's, to the second; zero: not told
	Took                     time.Duration // of the answer that told it
}

// Probe asks the configured address for Vault's health, and says how far it came; an
// error says why no further, and matches ErrUnreachable or is about c. No credential
// is read.
func Probe(ctx context.Context, c Config) (Contact, error) {
	c = c.withDefaults()
	c.Namespace = "" // sys/health is of the whole server
	if err := c.checkPlace(); err != nil {
		return Contact{}, err
	}
	t, err := newTransport(c)
	if err != nil {
		return Contact{}, err
	}
	var seen Contact
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := t.meet(ctx, c, &seen); err != nil {
		return seen, fmt.Errorf("look for vault at %s: %w", c.Address, unreachable(err))
	}
	conn, err := newConn(c, t)
	if err != nil {
		return seen, err
	}
	began := time.Now()
	a, err := conn.get(ctx, "sys/health")
	if err != nil {
		return seen, fmt.Errorf("look for vault at %s: %w", c.Address, err)
	}
	seen.Took = time.Since(began)
	defer a.forget()
	var told struct {
		Time int64 `json:"server_time_utc"`
	}
	if a.status != http.StatusOK || decode(a.body, &told) != nil {
		return seen, fmt.Errorf("look for vault at %s: %w", c.Address, &noAnswer{why: "what answers does not tell its health as Vault does"})
	}
	seen.Serves = true
	if told.Time > 0 {
		seen.Clock = time.Unix(told.Time, 0)
	}
	return seen, nil
}

// meet connects as every request does, and sends none.
func (t *transport) meet(ctx context.Context, c Config, seen *Contact) error {
	u, err := c.url()
	if err != nil {
		return err
	}
	raw, err := t.dial(ctx, "tcp", hostPort(&http.Request{URL: u}))
	if err != nil {
		return err
	}
	defer func() { _ = raw.Close() }()
	seen.Dialled = true
	if u.Scheme == "https" {
		conn := tls.Client(raw, t.tls)
		if err := conn.HandshakeContext(ctx); err != nil {
			return err
		}
		shown := conn.ConnectionState().PeerCertificates[0]
		seen.Encrypted, seen.Since, seen.Until = true, shown.NotBefore, shown.NotAfter
	}
	seen.Secured = true
	return nil
}

// Holding is what Vault says of the token that a login brought.
type Holding struct {
	// BoundCIDRs are the addresses that alone may use it; none: every one may.
	BoundCIDRs []string
	// Surplus are policies that give more than the daemon needs: "root", and Vault's
	// own "default".
	Surplus []string
}

// Holding asks what the daemon's token is. Errors match ErrDenied, ErrUnconfirmed or
// ErrUnreachable.
func (c *Client) Holding(ctx context.Context) (Holding, error) {
	a, err := c.do(ctx, request{path: lookupPath, capability: "read"})
	if err != nil {
		return Holding{}, fmt.Errorf("look the daemon's token up: %w", err)
	}
	defer a.forget() // it has the token
	if !a.ok() {
		return Holding{}, fmt.Errorf("look the daemon's token up: %w", a.unexpected())
	}
	var self struct {
		Policies []string `json:"policies"`
		Bound    []string `json:"bound_cidrs"`
	}
	if err := a.data(&self); err != nil {
		return Holding{}, fmt.Errorf("look the daemon's token up: %w", err)
	}
	out := Holding{BoundCIDRs: self.Bound}
	for _, p := range []string{"root", "default"} {
		if slices.Contains(self.Policies, p) {
			out.Surplus = append(out.Surplus, p)
		}
	}
	return out, nil
}

// Logout revokes the token that Login brought; the one of a token_file is the
// operator's, and stays. Nothing is asked with c afterwards.
func (c *Client) Logout(ctx context.Context) error {
	if c.config.Auth.Method == methodToken || c.current().generation == 0 {
		return nil
	}
	a, err := c.send(ctx, request{path: "auth/token/revoke-self", body: []byte("{}"), capability: "update"})
	if err == nil && !a.ok() {
		err = a.unexpected()
	}
	if err != nil {
		return fmt.Errorf("revoke the token of this login: %w", err)
	}
	return nil
}
