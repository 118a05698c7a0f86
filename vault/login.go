package vault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// credentials is what the configured method logs in with, as its files are now.
type credentials struct{ roleID, secretID, token secret.Text }

func (k credentials) equal(o credentials) bool {
	return k.roleID.Equal(o.roleID) && k.secretID.Equal(o.secretID) && k.token.Equal(o.token)
}

func (k credentials) wipe() {
	k.roleID.Wipe()
	k.secretID.Wipe()
	k.token.Wipe()
}

// refusal is a login that Vault refused.
type refusal struct {
	at   time.Time
	with credentials
	err  error
}

// Login reads the credentials from their files and logs in. Errors match
// ErrUnreachable (try again soon) or ErrDenied (Vault refused them), or neither:
// a file cannot be read, and nothing was sent. For a minute after a refusal the same credentials are not sent again, and Login returns
// the same error: five bad AppRole logins lock the right one out.
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
	with, err := c.config.Auth.read()
	if err != nil {
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
	with.wipe()
	c.take(s)
	return nil
}

// refusedLately returns the last refusal of the same credentials, if it is
// younger than a minute.
func (c *Client) refusedLately(with credentials) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.refused; r != nil && c.config.Now().Sub(r.at) < c.pace.refused && r.with.equal(with) {
		return r.err
	}
	return nil
}

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
	c.refused.forget()
	c.refused = &refusal{c.config.Now(), with, err}
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

func (a AuthConfig) read() (credentials, error) {
	var k credentials
	if a.Method == methodToken {
		var err error
		k.token, err = ReadSecretFile(a.TokenFile)
		return k, err
	}
	var err error
	if k.roleID, err = ReadSecretFile(a.RoleIDFile); err != nil {
		return k, err
	}
	k.secretID, err = ReadSecretFile(a.SecretIDFile)
	return k, err
}

// enter exchanges credentials for a session.
func (c *Client) enter(ctx context.Context, with credentials) (session, error) {
	if c.config.Auth.Method == methodToken {
		return c.enterWithToken(ctx, with.token)
	}
	refused := fmt.Errorf("log in to vault with AppRole at %q: %w: role id or secret id is wrong, expired, used up or locked out", "auth/"+c.config.Auth.Mount, ErrDenied)
	roleID, secretID := with.appRole()
	method, err := approle.NewAppRoleAuth(roleID, &approle.SecretID{FromString: secretID}, approle.WithMountPath(c.config.Auth.Mount))
	if err != nil {
		return session{}, errors.New("log in to vault with AppRole: vault/api does not take the credentials")
	}
	s, err := method.Login(ctx, c.entry.api)
	if err != nil {
		return session{}, fmt.Errorf("log in to vault: %w", fromAPI(err, refused))
	}
	if s == nil || s.Auth == nil || s.Auth.ClientToken == "" {
		return session{}, fmt.Errorf("log in to vault: %w", &noAnswer{why: "its answer to a login holds no token"})
	}
	return c.newSession(secret.FromString(s.Auth.ClientToken), s.Auth.Renewable, s.Auth.LeaseDuration), nil
}

// enterWithToken looks the token up with itself.
func (c *Client) enterWithToken(ctx context.Context, token secret.Text) (session, error) {
	c.entry.setToken(token)
	defer c.entry.api.ClearToken()
	a, err := c.entry.get(ctx, "auth/token/lookup-self")
	if err != nil {
		return session{}, fmt.Errorf("log in to vault: %w", err)
	}
	if !a.ok() {
		return session{}, fmt.Errorf("log in to vault with the token of token_file: %w: it is not valid, or its policies lack read on %q", ErrDenied, "auth/token/lookup-self")
	}
	var self selfLookup
	if err := a.data(&self); err != nil {
		return session{}, fmt.Errorf("log in to vault: %w", err)
	}
	return c.newSession(ownCopy(token), self.Renewable, self.left()), nil
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

// watched is the session as vault/api's watcher wants it.
func (s session) watched() *api.Secret {
	return &api.Secret{Auth: &api.SecretAuth{ClientToken: s.tokenString(), Renewable: true, LeaseDuration: int(s.lease / time.Second)}}
}
