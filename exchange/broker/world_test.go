package broker_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

const (
	app        = user.ClientID("marker-client-id")
	firstValue = "marker-client-secret-1"
)

// world is the real broker over the real store, audit log and Human API client,
// and the simulator behind it. It can be stopped, crashed and started again.
type world struct {
	t       testing.TB
	dir     string
	sim     *humanapitest.Server
	url     string
	secrets *vaultEntry
	logs    *safeBuffer
	config  broker.Config // what start completes
	timeout time.Duration // of one attempt
	later   uint64        // how many incarnations later than the store's
	faults  *faultyDriver

	db     *boltstore.DB
	keys   *keyring.Keyring
	store  *store.Store
	audit  *audit.Log
	client *exchange.Client
	b      *broker.Broker
	end    context.CancelFunc
	ran    chan error

	mu     sync.Mutex
	secret []string      // what must never stand in a log
	sent   []secret.Text // session tokens, as the broker held them
}

func newWorld(t testing.TB, shape ...func(*world)) *world {
	t.Helper()
	sim := humanapitest.Start(t, humanapitest.Config{Apps: map[string]string{string(app): firstValue}})
	w := &world{
		t: t, dir: t.TempDir(), sim: sim, url: sim.URL, logs: &safeBuffer{},
		secrets: &vaultEntry{versions: []string{firstValue}},
		config: broker.Config{
			Deadline: 20 * time.Second, GiveUp: time.Minute,
			Backoff: broker.Backoff{First: time.Millisecond, Max: 20 * time.Millisecond},
			Breaker: broker.Breaker{Failures: 1 << 30}, // tests of the breaker have their own
		},
		timeout: 20 * time.Second,
	}
	for _, f := range shape {
		f(w)
	}
	w.start()
	t.Cleanup(func() {
		w.stop(5 * time.Second)
		w.checkLogs()
		w.checkWiped()
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start() {
	w.t.Helper()
	ctx := context.Background()
	var err error
	w.db, err = boltstore.Open(ctx, boltstore.Config{Path: filepath.Join(w.dir, "store.db")})
	w.must(err)
	w.faults = &faultyDriver{Driver: w.db}
	w.keys, err = keyring.Open(ctx, keyring.Config{Blob: w.db, Wrapper: transit{}})
	w.must(err)
	w.store, err = store.Open(ctx, store.Config{Driver: w.faults, Keys: w.keys})
	w.must(err)
	w.audit, err = audit.Open(ctx, audit.Config{
		Path: filepath.Join(w.dir, "audit.log"), Instance: "main", Incarnation: w.keys.Incarnation(),
		Signer: w.keys.Signer(), SubjectKey: w.keys.Subject(),
	})
	w.must(err)
	w.client, err = exchange.New(exchange.Config{UserURL: w.url, Timeout: w.timeout, UnsafePlainHTTP: true})
	w.must(err)
	c := w.config
	c.Store, c.Upstream, c.Journal = w.store, &watched{Client: w.client, w: w}, w.audit
	if c.Secrets == nil {
		c.Secrets = w.secrets
	}
	c.Incarnation = w.keys.Incarnation() + w.later
	c.Logger = slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if c.Apps == nil {
		c.Apps = map[user.ClientID]broker.App{app: {Name: "shop"}}
	}
	w.b, err = broker.New(c)
	w.must(err)
	var run context.Context
	run, w.end = context.WithCancel(ctx)
	w.ran = make(chan error, 1)
	go func(b *broker.Broker, ran chan<- error) { ran <- b.Run(run) }(w.b, w.ran)
}

// stop ends everything as the daemon does; what is not done in time is cut off.
func (w *world) stop(patience time.Duration) {
	w.t.Helper()
	if w.end == nil {
		return
	}
	w.end()
	w.end = nil
	w.must(<-w.ran)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.b.Drain(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		w.t.Error(err)
	}
	w.client.Close()
	w.must(w.store.Close())
	w.must(w.audit.Close())
	w.keys.Close()
	w.must(w.db.Close())
}

// crash stops without patience: what is on the wire is cut off.
func (w *world) crash() { w.stop(time.Nanosecond) }

// finish is a finish event of a user: what the app hands to the broker.
func (w *world) finish(human user.HumanID, known user.ClientUserID) user.Exchange {
	w.t.Helper()
	return w.event(human, w.sim.NewSession(string(app), string(human), string(known)))
}

var requests struct {
	sync.Mutex
	n int
}

func (w *world) event(human user.HumanID, token string) user.Exchange {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secret = append(w.secret, string(human), token)
	requests.Lock()
	defer requests.Unlock()
	requests.n++
	return user.Exchange{
		RequestID: user.RequestID("request-" + string(rune('a'+requests.n%26)) + time.Now().Format("150405.000000000")),
		Rule:      "shop-web", ClientID: app, HumanID: human, SessionToken: secret.FromString(token),
	}
}

func (w *world) exchange(x user.Exchange) (user.Result, error) {
	return w.b.Exchange(context.Background(), x)
}

// begin exchanges in the background.
func (w *world) begin(x user.Exchange) <-chan answered {
	out := make(chan answered, 1)
	go func() {
		r, err := w.exchange(x)
		out <- answered{r, err}
	}()
	return out
}

type answered struct {
	user.Result
	err error
}

func (w *world) asked() int { return w.sim.Count(humanapitest.TokensPath) }

func (w *world) awaitAsked(n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := w.sim.Await(ctx, humanapitest.TokensPath, n); err != nil {
		w.t.Fatalf("waiting for request %d at Human API: %v (have %d)", n, err, w.asked())
	}
}

// until polls for a state that has no event of its own.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func (w *world) awaitOutcome(o user.Outcome, n uint64) {
	w.t.Helper()
	w.until(string(o), func() bool { return w.b.Status().Outcomes[o] >= n })
}

func (w *world) idle() {
	w.t.Helper()
	w.until("nothing in flight", func() bool { return w.b.Status().InFlight == 0 })
}

func (w *world) intents() []user.Intent {
	w.t.Helper()
	all, err := w.store.Intents(context.Background())
	w.must(err)
	return all
}

// wantKind checks an error's kind; "" is success.
func wantKind(t testing.TB, err error, kind user.Failure) {
	t.Helper()
	if user.KindOf(err) != kind || (err == nil) != (kind == "") {
		t.Errorf("the error is of kind %q (%v), want %q", user.KindOf(err), err, kind)
	}
}

// wantCurrent checks that the store holds what Human API holds now.
func (w *world) wantCurrent(human user.HumanID) {
	w.t.Helper()
	access, public := w.sim.Current(string(app), string(human))
	rec, err := w.store.Private(context.Background(), app, human)
	w.must(err)
	if string(rec.AccessToken.Reveal()) != access || string(rec.PublicToken) != public || rec.State != user.Active {
		w.t.Errorf("the store does not hold the current tokens (state %s)", rec.State)
	}
}

// wantNothing checks that a user has no tokens here.
func (w *world) wantNothing(human user.HumanID) {
	w.t.Helper()
	rec, err := w.store.Private(context.Background(), app, human)
	if user.KindOf(err) != user.UnknownUser && (err != nil || !rec.AccessToken.IsZero()) {
		w.t.Errorf("the store holds an access token that it must not (%v)", err)
	}
}

// events reads the audit log back.
func (w *world) events(kind string) (out []map[string]any) {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.dir, "audit.log"))
	w.must(err)
	for line := range bytes.Lines(raw) {
		var e map[string]any
		w.must(json.Unmarshal(line, &e))
		if e["kind"] == kind {
			out = append(out, e)
		}
	}
	return out
}

func (w *world) checkLogs() {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := os.ReadFile(filepath.Join(w.dir, "audit.log"))
	if err != nil {
		w.t.Error(err)
	}
	all := w.logs.String() + string(raw)
	for _, s := range append(w.secret, "sim-", firstValue, "marker-client-secret") {
		if strings.Contains(all, s) {
			w.t.Error("a log or the audit log shows an id, a token or a secret")
		}
	}
}

// checkWiped looks at every copy of a client secret that was handed out, and of a
// session token that the broker has sent.
func (w *world) checkWiped() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sent {
		if !s.Equal(secret.New(make([]byte, s.Len()))) {
			w.t.Error("a copy of a session token was not wiped")
			return
		}
	}
	w.secrets.mu.Lock()
	defer w.secrets.mu.Unlock()
	for _, s := range w.secrets.given {
		if !s.Equal(secret.New(make([]byte, s.Len()))) {
			w.t.Error("a copy of a client secret was not wiped")
			return
		}
	}
}

// watched is the real client, and keeps what it is given to send.
type watched struct {
	*exchange.Client
	w *world
}

func (u *watched) Tokens(ctx context.Context, r exchange.TokensRequest) (exchange.Reply, error) {
	u.w.mu.Lock()
	u.w.sent = append(u.w.sent, r.SessionToken)
	u.w.mu.Unlock()
	return u.Client.Tokens(ctx, r)
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// vaultEntry is an app's entry in Vault as the source of secrets shows it: its
// versions, of which one is held and the others are found when it is refused.
type vaultEntry struct {
	mu       sync.Mutex
	versions []string
	held     int   // index; 0 at first
	fail     error // of ClientSecret
	deny     error // of Refused
	endless  bool  // Refused always has one more, and it is wrong
	hang     bool  // ClientSecret waits for its ctx to end
	refused  int   // calls
	after    int   // calls of ClientSecret until done is closed
	done     chan struct{}
	given    []secret.Text // handed out: must be wiped at the end
}

func (v *vaultEntry) give(text string, version int) user.ClientSecret {
	s := user.ClientSecret{Text: secret.FromString(text), Version: version}
	v.given = append(v.given, s.Text)
	return s
}

func (v *vaultEntry) at(i int) user.ClientSecret {
	return v.give(v.versions[i], i+1)
}

func (v *vaultEntry) ClientSecret(ctx context.Context, _ user.ClientID) (user.ClientSecret, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.hang {
		<-ctx.Done()
		return user.ClientSecret{}, ctx.Err()
	}
	if v.after--; v.after == 0 {
		close(v.done)
	}
	if v.fail != nil {
		return user.ClientSecret{}, v.fail
	}
	return v.at(v.held), nil
}

func (v *vaultEntry) Accepted(user.ClientID, int) {}

func (v *vaultEntry) Refused(_ context.Context, _ user.ClientID, version int) (user.ClientSecret, bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refused++
	if v.deny != nil {
		return user.ClientSecret{}, false, v.deny
	}
	if v.endless {
		return v.give("marker-client-secret-wrong", version+1), true, nil
	}
	last := len(v.versions)
	if version == last {
		return user.ClientSecret{}, false, nil
	}
	v.held = last - 1
	return v.at(v.held), true, nil
}

func (v *vaultEntry) set(f func(*vaultEntry)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v)
}

// transit wraps with AES-GCM under a key that everybody knows.
type transit struct{}

func (transit) aead() cipher.AEAD {
	block, _ := aes.NewCipher([]byte("marker-transit-key-of-32-bytes!!"))
	a, _ := cipher.NewGCMWithRandomNonce(block)
	return a
}

func (t transit) Wrap(_ context.Context, key secret.Text, bound []byte) (string, error) {
	return string(t.aead().Seal(nil, nil, key.Reveal(), bound)), nil
}

func (t transit) Unwrap(_ context.Context, wrapped string, bound []byte) (secret.Text, error) {
	key, err := t.aead().Open(nil, nil, []byte(wrapped), bound)
	return secret.New(key), err
}

// faultyDriver is the real driver, whose writes fail on demand, before or after
// they took effect.
type faultyDriver struct {
	store.Driver
	mu     sync.Mutex
	before func(store.Batch) error
	after  func(store.Batch) error
}

var errDisk = errors.New("simulated: the disk is full")

func (d *faultyDriver) set(before, after func(store.Batch) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before, d.after = before, after
}

func (d *faultyDriver) Apply(ctx context.Context, b store.Batch) error {
	d.mu.Lock()
	before, after := d.before, d.after
	d.mu.Unlock()
	if before != nil {
		if err := before(b); err != nil {
			return err
		}
	}
	err := d.Driver.Apply(ctx, b)
	if err == nil && after != nil {
		err = after(b)
	}
	return err
}

// beginning and ending tell the batches of Begin and of Commit or Finish apart.
func beginning(b store.Batch) error {
	if b.Arrive != nil {
		return errDisk
	}
	return nil
}

func ending(b store.Batch) error {
	if b.Arrive == nil {
		return errDisk
	}
	return nil
}
