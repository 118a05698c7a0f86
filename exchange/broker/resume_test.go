package broker_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// interrupted begins an exchange, and crashes while Human API holds it: before
// it took effect, or after.
func (w *world) interrupted(x user.Exchange, took bool) {
	w.t.Helper()
	hold := make(chan struct{})
	f := humanapitest.Fault{HoldAnswer: hold}
	if !took {
		f = humanapitest.Fault{Hold: hold, Kind: humanapitest.DropBefore}
	}
	w.sim.Misbehave(f)
	before := w.asked()
	out := w.begin(x)
	w.awaitAsked(before + 1)
	if took {
		w.until("the effect", func() bool { return w.sim.Uses(string(x.SessionToken.Reveal())) > 0 })
	}
	w.crash()
	wantKind(w.t, (<-out).err, user.ExchangePending)
	close(hold)
}

func TestResume(t *testing.T) {
	for _, c := range []struct {
		name    string
		mode    humanapitest.Mode
		took    bool
		outcome user.Outcome
	}{
		{"one-time, no effect", humanapitest.OneTime, false, user.Stored},
		{"one-time, effect", humanapitest.OneTime, true, user.IndeterminateOutcome},
		{"repeatable, no effect", humanapitest.Repeatable, false, user.Stored},
		{"repeatable, effect", humanapitest.Repeatable, true, user.Stored},
		{"rotating, no effect", humanapitest.Rotating, false, user.Stored},
		{"rotating, effect", humanapitest.Rotating, true, user.Stored},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.sim.SetMode(c.mode)
			x := w.finish("marker-human", "marker-user")
			w.interrupted(x, c.took)
			w.start()
			w.awaitOutcome(c.outcome, 1)
			w.idle()
			r, err := w.exchange(x)
			if c.outcome == user.Stored {
				wantKind(t, err, "")
				if !r.Replayed {
					t.Error("the repeat was not answered from the store")
				}
				w.wantCurrent(x.HumanID)
				w.wantRecorded(user.Stored, "")
			} else {
				wantKind(t, err, user.ExchangeUnknown)
				w.wantRecorded(user.IndeterminateOutcome, "indeterminate")
				w.until("the repair", func() bool { return len(w.events("note")) == 1 })
			}
			if n := w.asked(); n != 2 || len(w.intents()) != 0 {
				t.Errorf("%d requests, %d intents left", n, len(w.intents()))
			}
		})
	}
}

// What the body said is held against the answer after a crash too; but whether
// the attempt before it took effect stays in doubt.
func TestBodyContradictedAfterRestart(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "marker-user")
	x.BodyUserID, x.BodyUserIDSet = "marker-somebody-else", true
	w.interrupted(x, false)
	w.start()
	w.awaitOutcome(user.IndeterminateOutcome, 1)
	_, err := w.exchange(x)
	wantKind(t, err, user.ExchangeUnknown)
	if rec, err := w.store.Private(t.Context(), x.ClientID, x.HumanID); err != nil || !rec.AccessToken.IsZero() || rec.State != user.Indeterminate {
		t.Errorf("the user's state is %q (error %v), or the answer's token was kept", rec.State, err)
	}
}

// What was found at start goes first; a repeat of its session joins it.
func TestNewExchangeStaysBehindResumed(t *testing.T) {
	w := newWorld(t)
	w.sim.SetMode(humanapitest.Repeatable)
	x := w.finish("marker-human", "marker-user")
	w.interrupted(x, true)
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{Hold: hold})
	w.start()
	w.awaitAsked(2)
	repeat := w.begin(x)
	next := w.queued(w.finish("marker-human", "marker-user"), 2)
	if n := w.asked(); n != 2 {
		t.Errorf("%d requests while the resumed one is on the wire", n)
	}
	close(hold)
	r1, r2 := <-repeat, <-next
	wantKind(t, r1.err, "")
	wantKind(t, r2.err, "")
	if r1.Outcome != user.Stored || r1.Arrival >= r2.Arrival {
		t.Error("the resumed exchange did not go first")
	}
	w.wantCurrent("marker-human")
	if n := len(w.events("outcome")); n != 0 {
		t.Errorf("%d outcomes were recorded that have a caller", n)
	}
}

func TestResumeManyInOrder(t *testing.T) {
	// Each is sent once before the crash, so that nothing is on the wire then: Human
	// API would execute it whenever it came to it.
	quick := broker.Backoff{}
	w := newWorld(t, func(w *world) {
		quick, w.config.Backoff = w.config.Backoff, broker.Backoff{First: time.Minute, Max: time.Minute}
	})
	w.sim.SetMode(humanapitest.Repeatable)
	w.sim.Misbehave(humanapitest.Fault{Permanent: true, Kind: humanapitest.DropBefore})
	var all []<-chan answered
	humans := []user.HumanID{"marker-h1", "marker-h2", "marker-h3", "marker-h4", "marker-h5", "marker-h6"}
	for i, human := range humans {
		for range 2 {
			all = append(all, w.begin(w.finish(human, user.ClientUserID("of "+human))))
		}
		w.until("the intents", func() bool { return len(w.intents()) == 2*(i+1) })
	}
	w.awaitSessions(len(all))
	w.crash()
	for _, c := range all {
		wantKind(t, (<-c).err, user.ExchangePending)
	}
	left := w.left()
	w.sim.ClearFaults()
	w.config.Backoff = quick
	w.start()
	w.awaitOutcome(user.Stored, uint64(left)) // none is superseded: each user's in their order
	if left != len(all) {
		t.Errorf("%d intents were there to resume", left)
	}
	for _, human := range humans {
		w.wantCurrent(human)
	}
}

// awaitSessions waits until Human API has seen that many session tokens.
func (w *world) awaitSessions(n int) {
	w.t.Helper()
	w.until("every session at Human API", func() bool {
		seen := map[string]bool{}
		for _, r := range w.sim.Requests() {
			seen[r.Fields["sessionToken"]] = true
		}
		return len(seen) == n
	})
}

// left counts the intents in a store that is closed.
func (w *world) left() int {
	w.t.Helper()
	db, err := boltstore.Open(context.Background(), boltstore.Config{Path: filepath.Join(w.dir, "store.db")})
	w.must(err)
	all, err := db.Scan(context.Background(), store.Intents, nil, 1000)
	w.must(err)
	w.must(db.Close())
	return len(all)
}

// A restored backup brings intents that were finished in another life.
func TestAnotherIncarnationIsNeverSent(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "marker-user")
	w.interrupted(x, false)
	w.later = 1
	w.start()
	w.awaitOutcome(user.IndeterminateOutcome, 1)
	_, err := w.exchange(x)
	wantKind(t, err, user.ExchangeUnknown)
	if n := w.asked(); n != 1 {
		t.Errorf("an intent of another incarnation was sent, %d requests", n)
	}
}

// The user's row says that a later exchange was committed before the crash.
func TestResumedAndSuperseded(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Backoff.First, w.config.Backoff.Max = time.Minute, time.Minute })
	w.sim.Misbehave(humanapitest.Fault{Status: 500})
	first := w.begin(w.finish("marker-human", "marker-user"))
	w.awaitAsked(1)
	// The store takes the second commit and nothing else: the first cannot be ended.
	commits := 0
	w.faults.set(func(b store.Batch) error {
		if b.Arrive == nil {
			if commits++; commits > 1 {
				return errDisk
			}
		}
		return nil
	}, nil)
	second, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	w.crash()
	wantKind(t, (<-first).err, user.ExchangePending)
	w.start()
	w.awaitOutcome(user.Superseded, 1)
	p, err := w.store.Public(context.Background(), app, "marker-human")
	wantKind(t, err, "")
	if p != second.Public || w.asked() != 2 {
		t.Error("a superseded intent was sent again")
	}
	w.wantRecorded(user.Superseded, "")
}

func TestShutdown(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{Hold: hold})
	sent := w.begin(w.finish("marker-human", "marker-user"))
	w.awaitAsked(1)
	queued := w.queued(w.finish("marker-human", "marker-user"), 2)
	w.end()
	wantKind(t, (<-queued).err, user.Draining)
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, user.Draining)
	_, err = w.b.PublicToken(context.Background(), app, "marker-human", "request-p")
	wantKind(t, err, user.Draining)
	drained := make(chan error, 1)
	go func() { drained <- w.b.Drain(context.Background()) }()
	select {
	case <-drained:
		t.Fatal("Drain did not wait for what is on the wire")
	default:
	}
	close(hold)
	wantKind(t, (<-sent).err, "")
	wantKind(t, <-drained, "")
	w.wantCurrent("marker-human")
	if len(w.intents()) != 0 {
		t.Error("intents are left after an orderly end")
	}
}

func TestDrainCutsOff(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	defer close(hold)
	w.sim.Misbehave(humanapitest.Fault{Hold: hold})
	sent := w.begin(w.finish("marker-human", "marker-user"))
	w.awaitAsked(1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.b.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Drain says %v", err)
	}
	wantKind(t, (<-sent).err, user.ExchangePending)
	if len(w.intents()) != 1 {
		t.Error("what is uncertain lost its intent")
	}
}

func TestRunTwice(t *testing.T) {
	w := newWorld(t)
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	b := w.b
	w.stop(time.Second)
	if err := b.Run(context.Background()); err == nil {
		t.Error("a broker ran twice")
	}
}

// No new exchange starts before the intents in the store stand in their lines.
func TestWaitsForResumption(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Deadline = 50 * time.Millisecond })
	b, err := broker.New(broker.Config{
		Store: w.store, Upstream: w.client, Secrets: w.secrets, Journal: w.audit, Incarnation: 1,
		Apps: map[user.ClientID]broker.App{app: {Name: "shop"}}, Deadline: 50 * time.Millisecond,
	})
	w.must(err)
	x := w.finish("marker-human", "marker-user")
	_, err = b.Exchange(context.Background(), x)
	wantKind(t, err, user.StoreUnavailable)
	gone, hangUp := context.WithCancel(context.Background())
	hangUp()
	if _, err = b.Exchange(gone, x); err == nil || w.asked() != 0 {
		t.Error("an exchange began before the resumption")
	}
	w.must(b.Drain(context.Background()))
	_, err = b.Exchange(context.Background(), x)
	wantKind(t, err, user.Draining)
}

func TestResumptionFails(t *testing.T) {
	w := newWorld(t)
	s, err := store.Open(context.Background(), store.Config{Driver: w.db, Keys: w.keys})
	w.must(err)
	w.must(s.Close())
	b, err := broker.New(broker.Config{Store: s, Upstream: w.client, Secrets: w.secrets, Journal: w.audit, Incarnation: 1,
		Apps: map[user.ClientID]broker.App{app: {Name: "shop"}}})
	w.must(err)
	wantKind(t, b.Run(context.Background()), user.StoreUnavailable)
	_, err = b.Exchange(context.Background(), w.finish("marker-human", "marker-user"))
	wantKind(t, err, user.Draining)
}
