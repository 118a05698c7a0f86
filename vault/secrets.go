package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// AppReader reads what Vault holds for an app now. A [Client] is one. Errors
// match ErrUnreachable (what is held stays valid), ErrDenied or ErrNotFound
// (Vault says no: it is wiped), or others (what is held stays valid).
type AppReader interface {
	ReadApp(context.Context, user.ClientID) (App, error)
}

// SecretsConfig configures the cache of clientSecrets.
type SecretsConfig struct {
	Client   AppReader       // required
	Apps     []user.ClientID // no other is ever asked for
	MaxStale time.Duration   // how long a secret is used without Vault's word, 0 = 24 h
	Overlap  time.Duration   // how long a rotated secret's predecessor may be tried, 0 = 1 h
	Refresh  time.Duration   // between two reads of an app in use, 0 = 1 min
	Now      func() time.Time
	Logger   *slog.Logger
}

const (
	inUse      = time.Hour        // an app asked for within it is refreshed
	rereadGap  = 10 * time.Second // between two reads of an app because its secret was refused
	retryGap   = time.Second      // between two reads of an app of which nothing usable is held
	maxRefresh = time.Hour
)

// Secrets holds the clientSecrets in memory. Its methods may be called
// concurrently.
//
// BUG: the predecessor of a rotated secret is only known when it was held here
// before; after a restart within Overlap there is none to try.
type Secrets struct {
	config SecretsConfig
	order  []*held
	apps   map[user.ClientID]*held
}

// NewSecrets returns a cache that holds nothing yet.
func NewSecrets(c SecretsConfig) (*Secrets, error) {
	if c.Client == nil {
		return nil, errors.New("vault secrets: no client")
	}
	if c.MaxStale < 0 || c.Overlap < 0 || c.Refresh < 0 || c.Refresh > maxRefresh {
		return nil, errors.New("vault secrets: a duration is out of its range")
	}
	defaultTo(&c.MaxStale, 24*time.Hour)
	defaultTo(&c.Overlap, time.Hour)
	defaultTo(&c.Refresh, time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Secrets{config: c, apps: map[user.ClientID]*held{}}
	for _, id := range c.Apps {
		if err := checkClientID(id); err != nil {
			return nil, err
		}
		if s.apps[id] == nil {
			s.apps[id] = newHeld(id)
			s.order = append(s.order, s.apps[id])
		}
	}
	return s, nil
}

// ClientSecret returns the current secret of an app. It asks Vault only when
// nothing is held, or when the app was idle for so long that Run has stopped
// refreshing it. The Text is the caller's own, to be wiped after use. Errors are
// *user.Error: VaultUnavailable (never heard), VaultStale (not heard for
// MaxStale), SecretUnavailable (Vault says no, or the app is not configured).
func (s *Secrets) ClientSecret(ctx context.Context, id user.ClientID) (user.ClientSecret, error) {
	h, ok := s.apps[id]
	if !ok {
		return user.ClientSecret{}, user.Fail(user.SecretUnavailable, "app %s is not configured", id)
	}
	h.use(s.config.Now())
	if h.due(s.config.Now(), s.config) {
		s.refresh(ctx, h, (*held).due)
	}
	return s.give(h)
}

// give hands out what is held for h, unless the daemon is denied.
func (s *Secrets) give(h *held) (user.ClientSecret, error) {
	s.obey()
	return h.give(s.config.Now(), s.config)
}

var errAllDenied = fmt.Errorf("%w: it refuses the daemon's token and a new login", ErrDenied)

// obey wipes everything once Vault refuses the daemon as a whole.
func (s *Secrets) obey() {
	reader, ok := s.config.Client.(interface{ Status() Status })
	if !ok || !reader.Status().Denied {
		return
	}
	for _, h := range s.order {
		if h.deny(errAllDenied) {
			s.config.Logger.Error("client secret dropped", "client_id", string(h.id), "error", errAllDenied)
		}
	}
}

// Refused tells that Human API refused a version of an app's secret. It reads
// the entry anew, at most once per app and 10 s, and returns a version to try
// instead: the current one if it is another, else its predecessor within
// Overlap. false means that there is nothing else to try. A caller must not try
// a version twice in one exchange.
func (s *Secrets) Refused(ctx context.Context, id user.ClientID, version int) (user.ClientSecret, bool, error) {
	h, ok := s.apps[id]
	if !ok {
		return user.ClientSecret{}, false, user.Fail(user.SecretUnavailable, "app %s is not configured", id)
	}
	h.use(s.config.Now())
	s.refresh(ctx, h, (*held).rereadDue)
	if _, err := s.give(h); err != nil {
		return user.ClientSecret{}, false, err
	}
	other, ok := h.instead(s.config.Now(), version)
	return other, ok, nil
}

// refresh reads the entry if it is still due when its turn comes: those who
// wait for the same read share it.
func (s *Secrets) refresh(ctx context.Context, h *held, due dueFunc) {
	select {
	case <-h.turn:
	case <-ctx.Done():
		return
	}
	defer func() { h.turn <- struct{}{} }()
	if !due(h, s.config.Now(), s.config) {
		return
	}
	app, err := s.config.Client.ReadApp(ctx, h.id)
	if err != nil && ctx.Err() != nil {
		return // given up by the caller: says nothing about Vault
	}
	s.settle(h, app, err)
}

// settle takes over what a read brought, and logs what changed.
func (s *Secrets) settle(h *held, app App, err error) {
	app.AppKey.Wipe() // nobody asks for it yet
	was, is := h.settle(s.config.Now(), app, err)
	switch log := s.config.Logger.With("client_id", string(h.id)); {
	case was.Version != is.Version && is.Version != 0:
		log.Info("client secret read", "version", is.Version, "before", was.Version)
	case was.Version != is.Version:
		log.Error("client secret dropped", "error", err)
	case was.Reason != is.Reason && is.Reason != "":
		log.Warn("client secret not refreshed", "error", err)
	case was.Reason != is.Reason:
		log.Info("client secret refreshed again")
	}
}

// SecretState is how things stand with one app's secret, without the secret.
type SecretState struct {
	ClientID  user.ClientID
	Version   int       // 0: none is held
	HeldSince time.Time // when this version was first read
	Confirmed time.Time // when Vault last said that it is current
	Refused   bool      // Human API refuses this version, and there is no other to try
	Reason    string    // why there is none, or why it is not refreshed
}

// Status returns the state of every app, in the order of the configuration. It
// asks nobody.
func (s *Secrets) Status() []SecretState {
	states := make([]SecretState, 0, len(s.order))
	for _, h := range s.order {
		states = append(states, h.state())
	}
	return states
}

// Check reads every app's entry from Vault now, and returns the states.
func (s *Secrets) Check(ctx context.Context) []SecretState {
	for _, h := range s.order {
		s.refresh(ctx, h, always)
	}
	return s.Status()
}

// Run reads all apps once, then those in use every Refresh, and wipes what has
// become too old. It returns nil when ctx ends.
func (s *Secrets) Run(ctx context.Context) error {
	s.round(ctx, always)
	tick := time.NewTicker(s.config.Refresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.round(ctx, (*held).wanted)
		}
	}
}

// round refreshes the apps that are due. When Vault denies one it asks for all:
// a daemon whose rights were taken away must not keep the idle ones' secrets.
func (s *Secrets) round(ctx context.Context, due dueFunc) {
	began := s.config.Now()
	for _, h := range s.order {
		h.expire(began, s.config)
	}
	err := s.pass(ctx, due)
	if errors.Is(err, ErrDenied) {
		err = s.pass(ctx, func(h *held, _ time.Time, _ SecretsConfig) bool { return h.triedBefore(began) })
	}
	s.obey()
	if errors.Is(err, ErrUnreachable) {
		for _, h := range s.order {
			h.skip(s.config.Now(), err)
		}
	}
}

// pass refreshes the apps that are due, one after the other. It ends at the
// first that finds Vault unreachable: each would wait as long. It returns that
// error, or else one that matches ErrDenied if there was one.
func (s *Secrets) pass(ctx context.Context, due dueFunc) error {
	var worst error
	for _, h := range s.order {
		if ctx.Err() != nil {
			return worst
		}
		if !due(h, s.config.Now(), s.config) {
			continue
		}
		s.refresh(ctx, h, due)
		switch err := h.lastError(); {
		case errors.Is(err, ErrUnreachable):
			return err
		case errors.Is(err, ErrDenied):
			worst = err
		}
	}
	return worst
}
