package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Memory is what a client needs to go on after a restart during an outage. It is
// a secret as a whole, to be kept where nothing outlives the machine's power.
type Memory struct {
	Token     secret.Text // empty: there was no login yet
	SecretID  secret.Text // one whose wrapping token is used up, for later logins; else empty
	Renewable bool
	Since     time.Time // of the login
	Expires   time.Time // zero: never
	LastWord  time.Time // as in Status
}

// Wipe clears the secrets.
func (m Memory) Wipe() {
	m.Token.Wipe()
	m.SecretID.Wipe()
}

// Memory returns a copy of what a restart needs, to be wiped by the caller. false:
// there is neither a session nor an unwrapped secret id, or Vault refuses the
// daemon, and then nothing is to be remembered.
func (c *Client) Memory() (Memory, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Denied || c.session.generation == 0 && c.unwrapped.IsZero() {
		return Memory{}, false
	}
	s := c.session
	return Memory{
		Token: ownCopy(s.token), SecretID: ownCopy(c.unwrapped), Renewable: s.renewable,
		Since: s.since, Expires: s.expires, LastWord: c.status.LastWord,
	}, true
}

// errUnasked is why a recalled client is not reachable at first.
var errUnasked = fmt.Errorf("%w: it was not asked since the restart", ErrUnreachable)

// Recall takes up a remembered session, which the caller still owns. It is for a
// client that has none, before its first Login and before Run. Status is not
// Reachable until Vault answers, and its LastWord and TokenExpiry are what was
// remembered. Nothing is sent: Revalidate asks Vault about it, and so does Run, at
// once.
func (c *Client) Recall(m Memory) error {
	if m.Token.IsZero() && m.SecretID.IsZero() {
		return errors.New("recall a vault session: none was remembered")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session.generation != 0 || !c.unwrapped.IsZero() {
		return errors.New("recall a vault session: there is one already")
	}
	c.unwrapped, c.status.LastWord = kept(m.SecretID), m.LastWord
	c.outage = errUnasked
	if !m.Token.IsZero() {
		s := session{generation: 1, token: kept(m.Token), renewable: m.Renewable, since: m.Since, expires: m.Expires}
		s.lease = s.left(c.config.Now())
		c.session = s
		c.main.setToken(s.token)
	}
	return nil
}

// left is what is left of the token's life, at least a second: 0 is without end.
func (s session) left(now time.Time) time.Duration {
	if s.expires.IsZero() {
		return 0
	}
	return max(s.expires.Sub(now), time.Second)
}

// Revalidate asks Vault about the recalled token. nil: it lives. Errors match
// ErrUnreachable, or ErrDenied when it is dead, or none was remembered; a Login is
// then due, which Revalidate does not try.
func (c *Client) Revalidate(ctx context.Context) error {
	s := c.current()
	if s.generation == 0 {
		return fmt.Errorf("revalidate the vault session: %w: no token was remembered", ErrDenied)
	}
	alive, err := c.askAbout(ctx, s.generation)
	switch {
	case err != nil:
		return fmt.Errorf("revalidate the vault session: %w", err)
	case !alive:
		return fmt.Errorf("revalidate the vault session: %w: the remembered token is not valid any more", ErrDenied)
	}
	return nil
}

// SecretMemory is what is remembered of one app's secret.
type SecretMemory struct {
	ClientID  user.ClientID
	Current   user.ClientSecret
	Since     time.Time // when this version was first read
	Confirmed time.Time // when Vault last said that it is current
}

// Wipe clears the secret.
func (m SecretMemory) Wipe() { m.Current.Text.Wipe() }

// Memory returns copies of the secrets that are held and in force, to be wiped by
// the caller.
func (s *Secrets) Memory() []SecretMemory {
	s.obey()
	var out []SecretMemory
	for _, h := range s.order {
		if m, ok := h.memory(s.config.Now(), s.config); ok {
			out = append(out, m)
		}
	}
	return out
}

// Recall takes up copies of remembered secrets, for configured apps of which
// nothing is held and nothing was heard. What Vault confirmed longer than MaxStale
// ago is dropped, and time goes on from Confirmed. Vault's next word decides as
// about any other: a version that it denies is wiped.
func (s *Secrets) Recall(remembered []SecretMemory) {
	for _, m := range remembered {
		if h, ok := s.apps[m.ClientID]; ok && h.recall(s.config.Now(), s.config, m) {
			s.config.Logger.Info("client secret recalled", "client_id", string(m.ClientID), "version", m.Current.Version, "confirmed", m.Confirmed)
		}
	}
}

func (h *held) memory(now time.Time, c SecretsConfig) (SecretMemory, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expireLocked(now, c)
	if h.current.Version == 0 {
		return SecretMemory{}, false
	}
	return SecretMemory{ClientID: h.id, Current: handOut(h.current), Since: h.since, Confirmed: h.confirmed}, true
}

// recall reports whether m was taken. One from the future must not outlive MaxStale.
func (h *held) recall(now time.Time, c SecretsConfig, m SecretMemory) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	heard := !h.tried.IsZero() && !errors.Is(h.err, ErrUnreachable)
	usable := m.Current.Version > 0 && !m.Current.Text.IsZero() && now.Sub(m.Confirmed) <= c.MaxStale
	if h.current.Version != 0 || heard || !usable {
		return false
	}
	if m.Confirmed.After(now) {
		m.Confirmed = now
	}
	h.current, h.since, h.confirmed, h.stale = user.ClientSecret{Text: kept(m.Current.Text), Version: m.Current.Version}, m.Since, m.Confirmed, false
	return true
}
