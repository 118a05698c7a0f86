package store_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/crypto/store/storetest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

const app = user.ClientID("marker-app")

// wrapper wraps keys with a key of its own, and binds the context.
type wrapper struct{ aead cipher.AEAD }

func newWrapper(key byte) wrapper {
	block, err := aes.NewCipher([]byte{31: key})
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return wrapper{aead}
}

func (w wrapper) Wrap(_ context.Context, key secret.Text, binding []byte) (string, error) {
	nonce := make([]byte, w.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", err
	}
	return hex.EncodeToString(w.aead.Seal(nonce, nonce, key.Reveal(), binding)), nil
}

// outage keeps every wrapper from unwrapping.
var outage atomic.Bool

var errOutage = errors.New("unwrap: cannot be reached")

func (w wrapper) Unwrap(_ context.Context, wrapped string, binding []byte) (secret.Text, error) {
	if outage.Load() {
		return secret.Text{}, errOutage
	}
	b, err := hex.DecodeString(wrapped)
	if err != nil || len(b) < w.aead.NonceSize() {
		return secret.Text{}, errors.New("unwrap: malformed")
	}
	key, err := w.aead.Open(nil, b[:w.aead.NonceSize()], b[w.aead.NonceSize():], binding)
	if err != nil {
		return secret.Text{}, errors.New("unwrap: refused")
	}
	return secret.New(key), nil
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// fixture is a real store over a real file.
type fixture struct {
	*store.Store
	t      testing.TB
	path   string
	clock  *clock
	bolt   *boltstore.DB
	faults *storetest.Faults
	keys   *keyring.Keyring
	wrap   func(store.Driver) store.Driver
}

// newFixture returns an empty store, which must be consistent at the end.
func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, path: filepath.Join(t.TempDir(), "store.db"), clock: &clock{at: time.Unix(1_800_000_000, 0)}}
	f.open(boltstore.Config{Path: f.path})
	t.Cleanup(func() {
		if f.Store != nil {
			f.clean()
			f.close()
		}
	})
	return f
}

func (f *fixture) open(c boltstore.Config) {
	f.t.Helper()
	ctx := context.Background()
	var err error
	if f.bolt, err = boltstore.Open(ctx, c); err != nil {
		f.t.Fatal(err)
	}
	f.faults = storetest.NewFaults(f.bolt)
	var driver store.Driver = f.faults
	if f.wrap != nil {
		driver = f.wrap(driver)
	}
	if f.keys, err = keyring.Open(ctx, keyring.Config{Blob: driver, Wrapper: newWrapper(1), Now: f.clock.Now}); err != nil {
		f.t.Fatal(err)
	}
	if f.Store, err = store.Open(ctx, store.Config{Driver: driver, Keys: f.keys, Now: f.clock.Now}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) close() {
	f.t.Helper()
	err := f.Store.Close()
	f.keys.Close()
	if err := errors.Join(err, f.bolt.Close()); err != nil {
		f.t.Fatal(err)
	}
	f.Store = nil
}

func (f *fixture) reopen() {
	f.t.Helper()
	f.close()
	f.open(boltstore.Config{Path: f.path})
}

func (f *fixture) ctx() context.Context { return context.Background() }

func (f *fixture) clean() store.Report {
	f.t.Helper()
	report, err := f.Check(f.ctx())
	if err != nil || len(report.Problems) != 0 {
		f.t.Fatalf("check: %v %v", err, report.Problems)
	}
	return report
}

func intent(human, session string) user.Intent {
	return user.Intent{
		RequestID: "request-1", Rule: "shop-web", ClientID: app, HumanID: user.HumanID(human),
		SessionToken: secret.FromString("marker-session-" + session), ReceivedAt: time.Unix(1_800_000_000, 5),
	}
}

func (f *fixture) begin(human, session string) user.Intent {
	f.t.Helper()
	in, err := f.Begin(f.ctx(), intent(human, session))
	if err != nil {
		f.t.Fatal(err)
	}
	return in
}

// answer is what Human API would have said to that intent.
func answer(in user.Intent, clientUserID user.ClientUserID) user.Record {
	return user.Record{
		Public:  user.Public{ClientID: in.ClientID, HumanID: in.HumanID, ClientUserID: clientUserID, PublicToken: user.PublicToken(fmt.Sprintf("marker-public-%d", in.Arrival))},
		Private: user.Private{AccessToken: secret.FromString(fmt.Sprintf("marker-access-%d", in.Arrival)), ExpiresAt: time.Unix(1_900_000_000, 0).UTC()},
	}
}

func (f *fixture) commit(in user.Intent, clientUserID user.ClientUserID) user.Result {
	f.t.Helper()
	result, err := f.Commit(f.ctx(), in, answer(in, clientUserID))
	if err != nil {
		f.t.Fatal(err)
	}
	return result
}

func (f *fixture) finish(in user.Intent, outcome user.Outcome, failure user.Failure) {
	f.t.Helper()
	if err := f.Finish(f.ctx(), in, outcome, failure); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) session(human, session string) (user.Session, bool) {
	f.t.Helper()
	got, found, err := f.Session(f.ctx(), app, user.HumanID(human), intent(human, session).SessionToken)
	if err != nil {
		f.t.Fatal(err)
	}
	return got, found
}

// holds fails unless the user's tokens are those of that arrival.
func (f *fixture) holds(human string, arrival uint64, state user.State) user.Record {
	f.t.Helper()
	rec, err := f.Private(f.ctx(), app, user.HumanID(human))
	if err != nil {
		f.t.Fatal(err)
	}
	want := answer(user.Intent{Arrival: arrival}, "")
	if rec.Arrival != arrival || rec.PublicToken != want.PublicToken || !rec.AccessToken.Equal(want.AccessToken) || rec.State != state {
		f.t.Fatalf("the record is of arrival %d and %s, want %d and %s (or its tokens are others)", rec.Arrival, rec.State, arrival, state)
	}
	return rec
}

func wantKind(t testing.TB, err error, want user.Failure) {
	t.Helper()
	if user.KindOf(err) != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}
