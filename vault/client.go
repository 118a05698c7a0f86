package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// Client is the daemon's side of Vault. Its methods may be called concurrently.
type Client struct {
	config Config
	paths  Paths
	pace   pace
	main   *conn // carries the daemon's token
	entry  *conn // carries none, or during a login the one that is tried
	renew  *conn // the lifetime watcher's; ends with Run
	bound  *boundTransport

	identity atomic.Pointer[tls.Certificate] // shown to Vault, with the method cert; nil: none yet

	loginTurn chan struct{} // holds one element while nobody logs in
	changed   chan struct{} // holds an element when Run should look at the session
	sent      *atomic.Uint64
	keyIsFine atomic.Bool // the Transit key was seen to be of the right kind
	noLookup  atomic.Bool // lookup-self was refused the last time
	denials   sync.Map    // request.key → denial
	empty     sync.Map    // path → struct{}: that nothing is there was heard after a fresh login

	mu      sync.Mutex
	session session
	status  Status    // without Reason and TokenExpiry
	heard   time.Time // like LastWord, by the real clock: it paces the real timers
	lost    bool      // the session's token is dead, and no login could be sent for another
	outage  error     // why the last request had no answer, nil when it had one
	trouble string    // why the last login failed, "" after a good one
	refused *refusal  // the last login that Vault refused, nil when none since

	unwrapped     secret.Text   // the secret id that a wrapping token was used up for, for later logins
	unwrappedFrom secret.Text   // that token; zero: not known, the secret id was remembered
	deaths        uint64        // how often a token was found dead
	news          chan struct{} // closed, and replaced, when Vault goes, comes back, or begins to refuse the daemon

	// Who holds loginTurn may touch these.
	proven credentials // what logged in last
	asked  secret.Text // the wrapping token that was sent to be unwrapped last
}

// Status is how the daemon stands with Vault.
type Status struct {
	Reachable   bool      // the last request had an answer of Vault's own, and not only that the token is dead
	LastWord    time.Time // when Vault last answered to a token that works, or gave one; zero: never
	TokenExpiry time.Time // of the daemon's token; zero: none, or it never expires
	Reason      string    // why it is not reachable, or refuses the daemon; "" when all is well
	Denied      bool      // Vault refuses both the token and a login that was sent
}

// session is one token.
type session struct {
	generation uint64 // grows with every login; 0: none yet
	token      secret.Text
	renewable  bool
	since      time.Time     // of the login
	lease      time.Duration // left when it was last heard of; 0: without end
	expires    time.Time     // zero: never
}

// New checks the configuration and builds the client; it neither reads a
// credential nor sends anything. CAFile is read here.
func New(c Config) (*Client, error) {
	c = c.withDefaults()
	if err := errors.Join(c.checkPlace(), c.checkAuth()); err != nil {
		return nil, err
	}
	rt, err := newTransport(c)
	if err != nil {
		return nil, err
	}
	client := &Client{
		config: c, paths: c.paths(), pace: defaultPace, sent: rt.sent,
		loginTurn: make(chan struct{}, 1), changed: make(chan struct{}, 1), news: make(chan struct{}),
	}
	client.loginTurn <- struct{}{}
	if c.Auth.Method == methodCert {
		rt.present(&client.identity)
	}
	client.bound = &boundTransport{base: rt}
	for to, through := range map[**conn]http.RoundTripper{&client.main: rt, &client.entry: rt, &client.renew: client.bound} {
		if *to, err = newConn(c, through); err != nil {
			return nil, err
		}
	}
	return client, nil
}

// Requests is how many requests were sent to Vault since New, logins, renewals
// and what had no answer included. A connection that did not come about is none.
func (c *Client) Requests() uint64 { return c.sent.Load() }

// Status returns how things stand; it asks nobody.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Reachable = s.Reachable && !c.lost
	s.TokenExpiry, s.Reason = c.session.expires, c.trouble
	if c.outage != nil {
		s.Reason = c.outage.Error()
	}
	return s
}

// current returns the session.
func (c *Client) current() session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// lend makes a conn carry the session's token.
func (c *Client) lend(to *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to.setToken(c.session.token)
}

// knownOutage is why the last request had no answer, nil when it had one.
func (c *Client) knownOutage() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outage
}

// changes returns a channel that is closed when Vault goes, comes back, or
// begins to refuse the daemon.
func (c *Client) changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.news
}

// announce tells those who wait for changes. c.mu is held.
func (c *Client) announce() {
	close(c.news)
	c.news = make(chan struct{})
}

// noteAnswer records an answer of Vault's own. A 403 is what a dead token gets
// too: it says that Vault is there, and not that what it gave still stands.
func (c *Client) noteAnswer(status int) {
	if status != http.StatusForbidden {
		c.noteWord()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered()
}

// answered records that Vault is there. c.mu is held.
func (c *Client) answered() {
	back := c.outage != nil
	c.outage, c.status.Reachable = nil, true
	if back {
		c.announce()
	}
}

// noteWord records that Vault answered to a token that works, or gave one.
func (c *Client) noteWord() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard, c.status.LastWord = time.Now(), c.config.Now()
	c.answered()
}

// noteOutage records that Vault did not answer. A request that its own caller
// gave up says nothing about Vault.
func (c *Client) noteOutage(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	gone := c.outage == nil
	c.status.Reachable, c.outage = false, err
	if gone {
		c.announce()
	}
}

// request is one thing to ask with the daemon's token.
type request struct {
	path       string
	body       []byte // nil: a GET
	capability string // what a policy must grant on path
}

// send asks once. A 2xx shows that the token is alive, whatever was found before
// it was sent.
func (c *Client) send(ctx context.Context, r request) (answer, error) {
	deaths := c.deathsSoFar()
	a, err := answer{}, error(nil)
	if r.body == nil {
		a, err = c.main.get(ctx, r.path)
	} else {
		a, err = c.main.put(ctx, r.path, r.body)
	}
	if err != nil {
		c.noteOutage(ctx, err)
		return answer{}, err
	}
	c.noteAnswer(a.status)
	if a.ok() {
		c.noteAlive(deaths)
	}
	return a, nil
}
