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
	impatience = 250 * time.Millisecond // what a caller waits for a Vault that is known to be away
	heedGap    = 4 * time.Second        // between two reads of all that an outage kept from being read; doubled while that fails
)

// Secrets holds the clientSecrets in memory. Its methods may be called
// concurrently.
//
// BUG: a refusal by Human API that it takes back later (SecretState.Refused) is
// only forgotten with the next version, or at a restart.
//
// BUG: the predecessor of a rotated secret is only known when it was held here
// before; after a restart within Overlap there is none to try.
type Secrets struct {
	config SecretsConfig
	order  []*held
	apps   map[user.ClientID]*held
	probe  chan struct{} // holds one element while no caller asks a Vault that is known to be away
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
	s := &Secrets{config: c, apps: map[user.ClientID]*held{}, probe: make(chan struct{}, 1)}
	s.probe <- struct{}{}
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
// refreshing it. While Vault is known to be unreachable it waits for nothing: what
// is held is handed out, and where nothing is, one caller a second asks, for a
// quarter of a second. The Text is the caller's own, to be wiped after use. Errors are
// *user.Error: VaultUnavailable (never heard), VaultStale (not heard for
// MaxStale), SecretUnavailable (Vault says no, or the app is not configured).
func (s *Secrets) ClientSecret(ctx context.Context, id user.ClientID) (user.ClientSecret, error) {
	h, ok := s.apps[id]
	if !ok {
		return user.ClientSecret{}, user.Fail(user.SecretUnavailable, "app %s is not configured", id)
	}
	h.use(s.config.Now())
	if h.due(s.config.Now(), s.config) {
		s.ask(ctx, h, (*held).due)
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
	s.ask(ctx, h, (*held).rereadDue)
	given, err := s.give(h)
	if err != nil {
		return user.ClientSecret{}, false, err
	}
	given.Text.Wipe()
	was := h.state().Refused
	other, ok := h.instead(s.config.Now(), version)
	if state := h.state(); state.Refused && !was {
		s.config.Logger.Error("client secret refused by human api", "client_id", string(id), "version", state.Version)
	}
	return other, ok, nil
}

// Accepted tells that Human API took a version of an app's secret: if it was
// refused before, that is over.
func (s *Secrets) Accepted(id user.ClientID, version int) {
	if h, ok := s.apps[id]; ok && h.accepted(version) {
		s.config.Logger.Info("client secret accepted by human api again", "client_id", string(id), "version", version)
	}
}

// knownOutage is why Vault is known to be unreachable, nil when it is not.
func (s *Secrets) knownOutage() error {
	if c, ok := s.config.Client.(interface{ knownOutage() error }); ok {
		return c.knownOutage()
	}
	return nil
}

// ask is refresh for a caller: it does not queue for a Vault that is known to be
// away.
func (s *Secrets) ask(ctx context.Context, h *held, due dueFunc) {
	outage := s.knownOutage()
	if outage == nil {
		s.refresh(ctx, h, due)
		return
	}
	if h.usable(s.config.Now(), s.config) {
		h.unanswered(s.config.Now(), outage)
		return
	}
	select {
	case <-s.probe:
		defer func() { s.probe <- struct{}{} }()
	default:
		return
	}
	select {
	case <-h.turn:
		defer func() { h.turn <- struct{}{} }()
	default:
		return // Run is asking
	}
	if !due(h, s.config.Now(), s.config) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, impatience)
	defer cancel()
	s.read(ctx, h)
	if ctx.Err() != nil {
		h.unanswered(s.config.Now(), outage)
	}
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
	if due(h, s.config.Now(), s.config) {
		s.read(ctx, h)
	}
}

// read reads the entry. h's turn is taken.
func (s *Secrets) read(ctx context.Context, h *held) {
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
	case was.Version > is.Version && is.Version != 0:
		log.Warn("client secret read, of an older version: vault was restored, or the entry made anew", "version", is.Version, "before", was.Version)
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
// become too old, and everything at once when Vault refuses the daemon. What an
// outage kept from being read is read when Vault is back. It returns nil when ctx
// ends.
func (s *Secrets) Run(ctx context.Context) error {
	news := s.changes()
	s.round(ctx, always)
	tick := time.NewTicker(s.config.Refresh)
	defer tick.Stop()
	late := catchUp{again: stoppedTimer()}
	defer late.again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-news:
			news = s.changes()
			s.heed(ctx, &late)
		case <-late.again.C:
			s.heed(ctx, &late)
		case <-tick.C:
			if err := s.round(ctx, (*held).wanted); !errors.Is(err, ErrUnreachable) {
				late.next, late.gap = time.Time{}, 0
			}
		}
	}
}

// changes tells when Vault goes, comes back, or begins to refuse the daemon; nil
// where nobody does.
func (s *Secrets) changes() <-chan struct{} {
	if c, ok := s.config.Client.(interface{ changes() <-chan struct{} }); ok {
		return c.changes()
	}
	return nil
}

// catchUp is when what was missed may be read, by the real clock. Vault may be
// there for some requests and not for others: each of these tells of its return,
// and each of those of its absence.
type catchUp struct {
	again *time.Timer
	next  time.Time
	gap   time.Duration // 0: the last one succeeded; from Refresh on the rounds do it
}

func (s *Secrets) heed(ctx context.Context, late *catchUp) {
	s.obey()
	if s.knownOutage() != nil || late.gap >= s.config.Refresh || time.Now().Before(late.next) {
		return
	}
	if err := s.pass(ctx, (*held).missed); !errors.Is(err, ErrUnreachable) {
		late.next, late.gap = time.Time{}, 0
		return
	}
	late.gap = min(max(heedGap, 2*late.gap), s.config.Refresh)
	late.next = time.Now().Add(late.gap)
	late.again.Reset(late.gap)
}

// round refreshes the apps that are due. When Vault begins to deny one it asks for
// all: a daemon whose rights were taken away must not keep the idle ones' secrets.
// It returns the error of the pass.
func (s *Secrets) round(ctx context.Context, due dueFunc) error {
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
	return err
}

// pass refreshes the apps that are due, one after the other. It ends at the
// first that finds Vault unreachable: each would wait as long. It returns that
// error, or else one that matches ErrDenied if an app is denied that was not
// before.
func (s *Secrets) pass(ctx context.Context, due dueFunc) error {
	var worst error
	for _, h := range s.order {
		if ctx.Err() != nil {
			return worst
		}
		if !due(h, s.config.Now(), s.config) {
			continue
		}
		before := h.lastError()
		s.refresh(ctx, h, due)
		switch err := h.lastError(); {
		case errors.Is(err, ErrUnreachable):
			return err
		case errors.Is(err, ErrDenied) && !errors.Is(before, ErrDenied):
			worst = err
		}
	}
	return worst
}
