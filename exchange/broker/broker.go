// Package broker runs the life of a user's tokens: it takes a finish event,
// makes it durable, asks Human API for the tokens, checks the answer, commits
// it, and answers with the public part; what a crash interrupted, it resumes.
//
// It trusts its store and its source of secrets. It distrusts the caller (a
// humanId is only a claim until Human API confirms it, and a clientUserId from
// the body proves nothing), and it distrusts Human API's answer until that is
// complete and about the user who was asked for.
//
// It never hands an access token to anyone but the store, never sends what is
// not durable as an intent, never repeats what was answered, never sends an
// intent of another incarnation, and never lets a caller's leaving stop what
// was begun. Ids and tokens stand in none of its errors and logs; what joins
// them is the request id.
//
// BUG: a repeat that may have taken effect is sent again within GiveUp. When
// Human API executes an earlier attempt after a later exchange of the same user
// was committed here (its delay, not our order), the tokens kept are older than
// Human API's. The next finish event repairs that.
//
// An exchange that may have taken effect holds back the earlier ones of its user
// until it has ended, so that none of them takes effect after it (line.bars). Later
// ones are not held back.
//
// BUG: where an app does not say whose login an exchange is for
// (X-Client-User-Id), garbage that names a user and that user's real finish
// event by the same rule draw from one budget: while the garbage goes on, the
// real one competes with it for one attempt every five seconds. Likewise, garbage
// about several users that makes Human API fail opens the breaker for its rule.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Store keeps users, sessions and intents. All calls may be concurrent; what
// returns without an error is durable. A *user.Error of kind StoreUnavailable,
// or VaultStale where keys are needed that were wiped, means that it failed or
// that nobody knows; it may be tried again. RowDamaged: a row that it needs is
// there and does not open; nothing was written, and only a repair helps.
type Store interface {
	// Ready returns nil when tokens could be sealed now, and otherwise why not
	// (VaultStale). It is quick and asks nobody.
	Ready() error
	// Public returns a user's public part; UnknownUser when there is none.
	Public(ctx context.Context, app user.ClientID, human user.HumanID) (user.Public, error)
	// Session tells what is known of a session token: Pending while it has an
	// intent, its outcome within the replay window afterwards, else false.
	Session(ctx context.Context, app user.ClientID, human user.HumanID, token secret.Text) (user.Session, bool, error)
	// Intent returns the intent of a session token; false when there is none.
	Intent(ctx context.Context, app user.ClientID, token secret.Text) (user.Intent, bool, error)
	// Begin writes the intent and gives it its arrival number and incarnation.
	// It fails, with an error of no kind, for a session that is known already.
	Begin(ctx context.Context, in user.Intent) (user.Intent, error)
	// Commit writes the user's row, keeps the session and removes the intent in
	// one transaction. When the row comes from a later arrival it changes
	// nothing of it, and the outcome is Superseded. UserMismatch, with nothing
	// written: the user is known under another clientUserId. An error of no
	// kind: the intent is not there any more. It can be repeated after a failure.
	Commit(ctx context.Context, in user.Intent, rec user.Record) (user.Result, error)
	// Finish removes the intent and keeps the session with outcome and failure;
	// nothing is kept for Unsent; IndeterminateOutcome marks the user's row. It
	// can be repeated after a failure.
	Finish(ctx context.Context, in user.Intent, outcome user.Outcome, failure user.Failure) error
	// PutPublicToken keeps a fetched publicToken, and makes the row if needed.
	PutPublicToken(ctx context.Context, app user.ClientID, human user.HumanID, token user.PublicToken) (user.Public, error)
	// InState returns up to limit users of an app in that state.
	InState(ctx context.Context, app user.ClientID, state user.State, limit int) ([]user.Public, error)
	// Intents returns all intents by arrival. Those that it cannot read are named
	// in an error beside the others; when it can read none of them the slice is nil.
	Intents(ctx context.Context) ([]user.Intent, error)
}

// Upstream is Human API. A failure is an *exchange.Error, whose class says what
// may have happened; any other error is taken as "may have taken effect". It
// bounds every call by a timeout of its own. Calls may be concurrent.
type Upstream interface {
	Tokens(ctx context.Context, r exchange.TokensRequest) (exchange.Reply, error)
	PublicToken(ctx context.Context, r exchange.PublicTokenRequest) (user.PublicToken, error)
}

// Secrets gives the apps' client secrets. Its errors are *user.Error of kind
// VaultUnavailable, VaultStale or SecretUnavailable. The Texts are the caller's
// own copies, and are wiped after use. Calls may be concurrent.
type Secrets interface {
	ClientSecret(ctx context.Context, app user.ClientID) (user.ClientSecret, error)
	// Refused says that Human API refused that version, and asks for another
	// one; false when there is nothing else to try.
	Refused(ctx context.Context, app user.ClientID, version int) (user.ClientSecret, bool, error)
	// Accepted says that Human API took that version. It returns at once.
	Accepted(app user.ClientID, version int)
}

// Journal is the audit log, for what ends without a caller to answer.
type Journal interface {
	// Write returns when the event is in the file.
	Write(audit.Event) error
	// Subject is the blind name of a user in the log.
	Subject(app user.ClientID, human user.HumanID) string
}

// App is what the broker knows of an app.
type App struct {
	Name string // for the audit log
	// RequireClientUserID: exchanges must state whose they are. The server
	// refuses those that do not; here it is an assertion.
	RequireClientUserID bool
}

// Backoff is the pause between two attempts: it doubles from First up to Max,
// and half of it is random.
type Backoff struct {
	First time.Duration // default 250 ms
	Max   time.Duration // default 30 s
}

var (
	defaultBackoff  = Backoff{First: 250 * time.Millisecond, Max: 30 * time.Second}
	defaultCoolDown = Backoff{First: time.Second, Max: 30 * time.Second}
)

func (o *Backoff) setDefaults(d Backoff) {
	if o.First <= 0 {
		o.First = d.First
	}
	if o.Max <= 0 {
		o.Max = d.Max
	}
}

// Config of a Broker. Store, Upstream, Secrets, Journal and Apps are required.
type Config struct {
	Store    Store
	Upstream Upstream
	Secrets  Secrets
	Journal  Journal
	Apps     map[user.ClientID]App
	// Incarnation of the store, required: an intent of another one (it came
	// with a restored backup) is never sent.
	Incarnation uint64
	// Deadline is how long a caller waits, and how long something is tried that
	// has not been sent yet. Default 30 s.
	Deadline time.Duration
	// GiveUp is how long something is repeated that may have taken effect, from
	// when this process took it up. Default 1 h.
	GiveUp  time.Duration
	Backoff Backoff
	Breaker Breaker
	// PerApp bounds the requests of one app that are on the wire at a time,
	// publicTokens included. Rules share them: one may have seven eighths. Default 64.
	PerApp int
	// MaxInFlight bounds the exchanges that are begun by this process and not
	// ended; one rule may have half of them. They outlive callers that hang up, by
	// up to GiveUp, and each is an intent and a goroutine. What is resumed comes on
	// top: what a crash left behind keeps nobody out. Repeats of what is in flight
	// or finished are not bounded by it. Default 4096.
	MaxInFlight int
	Now         func() time.Time // default time.Now; stamps only, timers are real
	Logger      *slog.Logger     // default: discards
	// Step is called at each named step of an exchange, for tests that stop the
	// process there: intent-written, sending, answered, checked, committed,
	// answering.
	Step func(name string)
}

// Broker is made by New. Its methods may be called concurrently.
type Broker struct {
	cfg  Config
	log  *slog.Logger
	salt secret.MAC // of the in-memory names of sessions

	// life ends when Drain stops waiting: what is on the wire is then cut off.
	life    context.Context
	endLife context.CancelFunc
	// stopping is closed when no new attempt may start.
	stopping chan struct{}
	// resumed is closed when every intent found at start stands in its line.
	resumed chan struct{}
	slots   chan struct{} // one taken by each resumed exchange that has or awaits the turn next
	repairs chan struct{} // publicTokens fetched of users in doubt

	fetches singleflight.Group

	mu       sync.Mutex
	work     sync.WaitGroup // grows only under mu, and not once stopped
	started  bool           // Run was called
	stopped  bool
	running  map[sessionName]*run
	lines    map[userName]*line
	begun    int            // runs in all lines, without the resumed
	byRule   map[string]int // the same by rule
	outcomes map[user.Outcome]uint64
	damaged  uint64
	wires    map[user.ClientID]*wire
	breaker  breaker
	cooling  *time.Timer // nil, or looks after the breaker
	garbage  garbage
}

const (
	resumeSlots = 4 // a restart must not fall upon Human API with all it has
	repairSlots = 4
)

// New makes a Broker. Exchanges wait until Run has put the intents that it
// found into their lines.
func New(c Config) (*Broker, error) {
	if c.Store == nil || c.Upstream == nil || c.Secrets == nil || c.Journal == nil {
		return nil, errors.New("make a broker: Store, Upstream, Secrets and Journal are required")
	}
	if c.Incarnation == 0 {
		return nil, errors.New("make a broker: the store's incarnation is required")
	}
	c.setDefaults()
	b := &Broker{
		cfg: c, log: c.Logger, salt: newSalt(),
		stopping: make(chan struct{}), resumed: make(chan struct{}),
		slots: make(chan struct{}, resumeSlots), repairs: make(chan struct{}, repairSlots),
		running: map[sessionName]*run{}, lines: map[userName]*line{}, byRule: map[string]int{},
		outcomes: map[user.Outcome]uint64{}, wires: map[user.ClientID]*wire{},
		breaker: newBreaker(c.Breaker), garbage: garbage{empty: map[claim]time.Time{}, failed: map[claim]bool{}},
	}
	b.life, b.endLife = context.WithCancel(context.Background())
	return b, nil
}

func (c *Config) setDefaults() {
	if c.Deadline <= 0 {
		c.Deadline = 30 * time.Second
	}
	if c.GiveUp <= 0 {
		c.GiveUp = time.Hour
	}
	c.Backoff.setDefaults(defaultBackoff)
	c.Breaker.CoolDown.setDefaults(defaultCoolDown)
	if c.Breaker.Failures <= 0 {
		c.Breaker.Failures = 5
	}
	if c.Breaker.Users <= 0 {
		c.Breaker.Users = 2
	}
	if c.PerApp <= 0 {
		c.PerApp = 64
	}
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = 4096
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
}

// Run resumes the intents in the store, then waits for ctx to end. From then on
// no attempt starts: what was not sent ends as unsent with Draining, what is on
// the wire is waited for by Drain, and what is still uncertain keeps its intent
// for the next start. It fails when the intents cannot be read, and then takes
// no exchanges. It may be called once.
func (b *Broker) Run(ctx context.Context) error {
	defer b.stop()
	b.mu.Lock()
	twice := b.started
	b.started = true
	b.mu.Unlock()
	if twice {
		return errors.New("run the broker: it ran already")
	}
	if err := b.resume(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("resume exchanges: %w", err)
	}
	<-ctx.Done()
	return nil
}

// stop lets no new attempt and no new exchange start.
func (b *Broker) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		b.stopped = true
		close(b.stopping)
		if b.cooling != nil {
			b.cooling.Stop()
		}
	}
}

// Drain stops like the end of Run's ctx does, and waits for all work to end.
// When ctx ends first it cuts off what is on the wire, waits for that to unwind
// and says so; those exchanges keep their intents.
func (b *Broker) Drain(ctx context.Context) error {
	b.stop()
	defer b.endLife()
	idle := make(chan struct{})
	go func() { b.work.Wait(); close(idle) }()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	left := b.Status().InFlight
	b.endLife()
	<-idle
	return fmt.Errorf("drain exchanges: %d were cut off: %w", left, ctx.Err())
}

// spawn runs f in a goroutine that Drain waits for; false once stopped.
func (b *Broker) spawn(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spawnLocked(f)
}

func (b *Broker) spawnLocked(f func()) bool {
	if b.stopped {
		return false
	}
	b.work.Go(f)
	return true
}
