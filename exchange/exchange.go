// Package exchange is the client of Human API's two token endpoints: it makes
// one attempt at a time, and says exactly what became of it.
//
// It trusts the pinned origin's certificate and nothing else: an answer is
// bounded, strictly read, and believed only when it is complete. It never
// follows a redirect, never reads the environment's proxy settings, never
// repeats a request (that decision belongs to whoever keeps the intent), never
// puts what upstream said into an error or a log, and never logs an id.
//
// It speaks HTTP/1.1 over its own connections and leaves the reading of
// answers to net/http ([net/http.ReadResponse]). net/http's Transport is not
// used because it prints what an upstream sends beyond its answer to the
// standard logger (transport.go, readLoopPeekFailLocked: such bytes may be an
// access token), repeats requests by rules of its own, does not tell whether a
// byte of a request has left the machine, and keeps the request's bytes,
// clientSecret included, in buffers that cannot be cleared.
//
// The buffers of requests and answers are cleared after use: the request's own, the
// one that a connection's bytes are read into, the one in which crypto/tls decrypts,
// and the body's.
//
// BUG: not all copies can be. What crypto/tls sends it copies into buffers
// of its own before it encrypts them there; one that is outgrown meanwhile keeps the
// request in clear, a few of them in the life of a process. The head of an answer,
// the ids and the publicToken are Go strings. TestCopiesInMemory counts them.
//
// BUG: without CAFile the roots are the system's, which crypto/x509 looks for where
// SSL_CERT_FILE and SSL_CERT_DIR say, if they are set.
package exchange

import (
	"context"
	"log/slog"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// The two endpoints (developer documentation of Human Connect).
const (
	tokensPath       = "/v1/connect/tokens"
	publicTokensPath = "/v1/connect/publictokens"
)

// Config is what a Client is made from.
type Config struct {
	// UserURL is the origin of the token endpoints, required: scheme, host and
	// port, no path. Nothing else is ever dialled but the proxy. A host name other
	// than localhost must resolve to public addresses; an address in its place, and
	// localhost, which must be loopback, are taken at the operator's word.
	UserURL string
	// Timeout of one attempt, from waiting for a connection to the last byte of
	// the answer. Default 10 s.
	Timeout time.Duration
	// CAFile is a PEM file whose certificates replace the system's roots.
	CAFile string
	// ProxyURL is an http or https proxy that is asked to CONNECT to the
	// origin. No user name in it. Default: a direct connection. Its own address
	// may be any, and it resolves the origin's name: which address that is cannot
	// be checked here, only its certificate.
	ProxyURL string
	// UnsafePrivateAddresses lets the origin's name resolve to any address:
	// loopback, private, link-local (a cloud's metadata service). Default: an
	// attempt at such an address is NotSent, with ErrPrivateAddress.
	UnsafePrivateAddresses bool
	// Pins are keys, one of which must be in the verified chain of the origin's
	// certificate, beside all other checks: "sha256/" and the base64 of the
	// SHA-256 of a SubjectPublicKeyInfo (RFC 7469 section 2.4). Else an attempt is
	// NotSent, with ErrNotPinned. The proxy's certificate is not held against
	// them. Default: none.
	Pins []string
	// UnsafePlainHTTP allows an http origin on the loopback interface.
	UnsafePlainHTTP bool
	Now             func() time.Time // default time.Now; reads the dates of Retry-After
	Logger          *slog.Logger     // default: none
}

// Client may be used concurrently. Close it when done.
type Client struct {
	pool    *pool
	origin  origin
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger
}

// New checks c and reads CAFile. It dials nothing.
func New(c Config) (*Client, error) {
	o, err := parseOrigin(c)
	if err != nil {
		return nil, err
	}
	d, err := newDialer(c, o)
	if err != nil {
		return nil, err
	}
	cl := &Client{pool: newPool(d.dial), origin: o, timeout: c.Timeout, now: c.Now, log: c.Logger}
	if cl.timeout <= 0 {
		cl.timeout = 10 * time.Second
	}
	if cl.now == nil {
		cl.now = time.Now
	}
	if cl.log == nil {
		cl.log = slog.New(slog.DiscardHandler)
	}
	return cl, nil
}

// Close closes the idle connections. Attempts under way are not disturbed, and
// close theirs when they end.
func (c *Client) Close() { c.pool.close() }

// TokensRequest is a sessionTokenObject and the app's secret. All are required.
type TokensRequest struct {
	ClientID     user.ClientID
	HumanID      user.HumanID
	SessionToken secret.Text
	ClientSecret secret.Text
}

// Reply is Human API's answer to an exchange, complete and well-formed, but not
// compared with the request: that is the broker's decision.
type Reply struct {
	HumanID         user.HumanID
	ClientID        user.ClientID // "": absent, as in old replies
	ClientUserID    user.ClientUserID
	HasClientUserID bool // false: absent or null
	PublicToken     user.PublicToken
	AccessToken     secret.Text
}

// Tokens makes one attempt at turning a session token into tokens. Every error
// is an *Error.
func (c *Client) Tokens(ctx context.Context, r TokensRequest) (Reply, error) {
	a, err := c.attempt(ctx, tokensPath, tokensWanted, []field{
		{"humanId", []byte(r.HumanID)}, {"clientId", []byte(r.ClientID)},
		{"sessionToken", r.SessionToken.Reveal()}, {"clientSecret", r.ClientSecret.Reveal()}})
	if err != nil {
		return Reply{}, err
	}
	defer a.clear()
	clientUserID, has := a.values["clientUserId"]
	return Reply{
		HumanID:         user.HumanID(a.values["humanId"]),
		ClientID:        user.ClientID(a.values["clientId"]),
		ClientUserID:    user.ClientUserID(clientUserID),
		HasClientUserID: has,
		PublicToken:     user.PublicToken(a.values["publicToken"]),
		AccessToken:     secret.New(a.values["accessToken"]),
	}, nil
}

// PublicTokenRequest names a user of an app. All fields are required.
type PublicTokenRequest struct {
	ClientID     user.ClientID
	HumanID      user.HumanID
	ClientSecret secret.Text
}

// PublicToken makes one attempt at fetching a user's publicToken. An answer
// about another user or app is Invalid. Every error is an *Error.
func (c *Client) PublicToken(ctx context.Context, r PublicTokenRequest) (user.PublicToken, error) {
	a, err := c.attempt(ctx, publicTokensPath, publicTokensWanted, []field{
		{"humanId", []byte(r.HumanID)}, {"clientId", []byte(r.ClientID)},
		{"clientSecret", r.ClientSecret.Reveal()}})
	if err != nil {
		return "", err
	}
	defer a.clear()
	clientID, has := a.values["clientId"]
	if string(a.values["humanId"]) != string(r.HumanID) || has && string(clientID) != string(r.ClientID) {
		return "", &Error{Class: Invalid, Status: a.status, Err: failure(c.origin, publicTokensPath, errOtherUser)}
	}
	return user.PublicToken(a.values["publicToken"]), nil
}
