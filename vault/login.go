package vault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// refusal is a login that Vault refused.
type refusal struct {
	at    time.Time
	with  credentials
	err   error
	times int // how often they were refused in a way that counts towards a lockout
}

// Login reads the credentials from their files and logs in. Errors match
// ErrUnreachable (try again soon) or ErrDenied (Vault refused them), or neither:
// a file cannot be read, and nothing was sent.
//
// For a minute after a refusal the same credentials are not sent again, and Login
// returns the same error; AppRole's that were refused four times in a row are not
// for 16 minutes. Five bad AppRole logins within 15 minutes lock the right one out
// (Vault's defaults). What replaces the files is sent at once.
//
// With Wrapped the file holds a response-wrapping token. Unless it was made where
// the mount makes secret ids, it is refused and not unwrapped. What was unwrapped
// stays in memory, for later logins, until the file holds another token; a file
// that is gone meanwhile is not missed. A token that was used already, and not by
// this client, is an error that matches ErrDenied; no login is sent then.
//
// No answer depends on Vault's clock: what it says about times is how long.
//
// BUG: other daemons with the same role id count towards the same lockout, and so
// do logins of before a restart. A daemon that dies between unwrapping a secret id
// and the moment when Memory is kept has lost it. The key of a client certificate
// stays in memory where crypto/tls keeps it, and cannot be wiped.
func (c *Client) Login(ctx context.Context) error {
	return c.loginAfter(ctx, c.current().generation)
}

// loginAfter logs in, unless somebody has since the session of that generation.
// The old token stays in use until a new one is there.
func (c *Client) loginAfter(ctx context.Context, generation uint64) error {
	select {
	case <-c.loginTurn:
		defer func() { c.loginTurn <- struct{}{} }()
	case <-ctx.Done():
		return inOurWords(ctx.Err())
	}
	if c.current().generation != generation {
		return nil
	}
	with, err := c.readCredentials()
	if err != nil {
		with.wipe()
		c.noteTrouble(err)
		return fmt.Errorf("log in to vault: %w", err)
	}
	if err := c.refusedLately(with); err != nil {
		with.wipe()
		return err
	}
	s, err := c.enter(ctx, with)
	if err != nil {
		c.noteFailedLogin(ctx, with, err)
		return err
	}
	c.proven.wipe()
	c.proven = with
	c.take(s)
	return nil
}

// refusedLately returns the last refusal of the same credentials, if it is too
// young to send them again.
func (c *Client) refusedLately(with credentials) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.refused
	if r == nil || !r.with.equal(with) {
		return nil
	}
	wait := c.pace.refused
	if r.times >= maxBadLogins {
		wait = lockoutReset
	}
	if c.config.Now().Sub(r.at) < wait {
		return r.err
	}
	return nil
}

// Vault locks a role out at the fifth bad login, unless 15 minutes passed without
// one ("User lockout" in Vault's documentation: lockout_threshold,
// lockout_counter_reset).
const (
	maxBadLogins = 4
	lockoutReset = 16 * time.Minute
)

func (c *Client) noteFailedLogin(ctx context.Context, with credentials, err error) {
	if errors.Is(err, ErrUnreachable) {
		with.wipe()
		c.noteOutage(ctx, err)
		return
	}
	c.noteAnswer(http.StatusForbidden)
	c.noteTrouble(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	next := &refusal{at: c.config.Now(), with: with, err: err}
	if before := c.refused; before != nil && before.with.equal(with) && before.times < maxBadLogins {
		next.times = before.times
	}
	if counts(err) {
		next.times++
	}
	c.refused.forget()
	c.refused = next
}

func (c *Client) noteTrouble(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble = err.Error()
}

func (r *refusal) forget() {
	if r != nil {
		r.with.wipe()
	}
}

// take makes s the session.
func (c *Client) take(s session) {
	c.main.setToken(s.token)
	c.noteWord()
	c.mu.Lock()
	s.generation = c.session.generation + 1
	c.session.token.Wipe() // requests under way carry the copy of their conn
	c.session = s
	c.refused.forget()
	c.refused, c.status.Denied, c.lost, c.trouble = nil, false, false, ""
	c.mu.Unlock()
	c.config.Logger.Info("logged in to vault", "method", c.config.Auth.Method, "lease", s.lease, "renewable", s.renewable)
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// enterWithToken looks the token up with itself.
func (c *Client) enterWithToken(ctx context.Context, token secret.Text) (session, error) {
	c.entry.setToken(token)
	defer c.entry.setToken(secret.Text{})
	a, err := c.entry.get(ctx, "auth/token/lookup-self")
	if err != nil {
		return session{}, fmt.Errorf("log in to vault: %w", err)
	}
	defer a.forget() // it has the token
	if !a.ok() {
		return session{}, &refusedLogin{how: "with the token of token_file", why: `it is not valid, or its policies lack read on "auth/token/lookup-self"`}
	}
	var self selfLookup
	if err := a.data(&self); err != nil {
		return session{}, fmt.Errorf("log in to vault: %w", err)
	}
	return c.newSession(kept(token), self.Renewable, self.left()), nil
}

// selfLookup is an answer to auth/token/lookup-self.
type selfLookup struct {
	TTL        int     `json:"ttl"`         // whole seconds left; 0 also in the last one
	ExpireTime *string `json:"expire_time"` // null: without end
	Renewable  bool    `json:"renewable"`
}

// left is the seconds left for setLease.
func (l selfLookup) left() int {
	if l.ExpireTime != nil {
		return max(l.TTL, 1)
	}
	return l.TTL
}

func (c *Client) newSession(token secret.Text, renewable bool, seconds int) session {
	now := c.config.Now()
	s := session{token: token, renewable: renewable, since: now}
	s.setLease(now, seconds)
	return s
}

// setLease sets what is left of the token's life, in seconds; 0 is without end.
func (s *session) setLease(now time.Time, seconds int) {
	s.lease, s.expires = 0, time.Time{}
	if seconds > 0 {
		s.lease = time.Duration(min(int64(seconds), math.MaxInt32)) * time.Second
		s.expires = now.Add(s.lease)
	}
}

// noToken is what vault/api's watcher is given for a token. It goes nowhere.
const noToken = "held-elsewhere"

// watched is the session as vault/api's watcher wants it: without the token, which
// the conn that it renews through carries.
func (s session) watched() *api.Secret {
	return &api.Secret{Auth: &api.SecretAuth{ClientToken: noToken, Renewable: true, LeaseDuration: int(s.lease / time.Second)}}
}
