package broker_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// A store that cannot take the intent refuses before the session token is spent.
func TestStoreFailsAtIntent(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "marker-user")
	w.faults.set(beginning, nil)
	_, err := w.exchange(x)
	wantKind(t, err, user.StoreUnavailable)
	if w.asked() != 0 {
		t.Error("an exchange without an intent was sent")
	}
	w.faults.set(nil, nil)
	_, err = w.exchange(x)
	wantKind(t, err, "")
	w.wantCurrent(x.HumanID)
}

// The write of the intent failed and took effect all the same: the repeat goes
// on with that intent.
func TestStoreFailsAfterIntent(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "marker-user")
	w.faults.set(nil, beginning)
	_, err := w.exchange(x)
	wantKind(t, err, user.StoreUnavailable)
	w.faults.set(nil, nil)
	if len(w.intents()) != 1 || w.asked() != 0 {
		t.Fatal("that was not the case meant")
	}
	other := x
	other.HumanID = "marker-other-human"
	_, err = w.exchange(other)
	wantKind(t, err, user.SessionConflict)
	_, err = w.exchange(x)
	wantKind(t, err, "")
	w.wantCurrent(x.HumanID)
	if len(w.intents()) != 0 || w.asked() != 1 {
		t.Error("the orphaned intent was not ended")
	}
}

// A damaged intent of somebody else keeps nobody from going on with theirs.
func TestStoreFailsAfterIntentBesideADamagedOne(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "marker-user")
	x.BodyUserID, x.BodyUserIDSet = "marker-somebody-else", true
	w.faults.set(nil, beginning)
	_, err := w.exchange(x)
	wantKind(t, err, user.StoreUnavailable)
	w.faults.set(nil, nil)
	w.must(w.db.Apply(context.Background(), store.Batch{Fence: w.keys.Version(), Ops: []store.Op{
		{Table: store.Intents, Key: [32]byte{1}, Revision: 1, Value: []byte("marker damaged")},
	}}))
	x.BodyUserIDSet = false // it is the intent's that counts
	_, err = w.exchange(x)
	wantKind(t, err, user.ExchangeUnknown) // what became of an intent from before is in doubt
	if n := w.asked(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A token that was received is held until the store takes it.
func TestStoreFailsAtCommit(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Deadline = 100 * time.Millisecond })
	x := w.finish("marker-human", "marker-user")
	w.faults.set(ending, nil)
	_, err := w.exchange(x)
	wantKind(t, err, user.ExchangePending)
	if len(w.intents()) != 1 {
		t.Error("the intent is gone before the commit")
	}
	if n := w.events("note"); len(n) != 1 || n[0]["error"] != "store_unavailable" || !strings.Contains(w.logs.String(), "held in memory") {
		t.Error("nobody is told that a token is held in memory")
	}
	w.faults.set(nil, nil)
	w.awaitOutcome(user.Stored, 1)
	w.wantCurrent(x.HumanID)
	w.wantRecorded(user.Stored, "")
	_, err = w.exchange(x)
	wantKind(t, err, "")
	if w.asked() != 1 {
		t.Errorf("Human API was asked %d times", w.asked())
	}
}

// The commit failed and took effect all the same.
func TestStoreFailsAfterCommit(t *testing.T) {
	w := newWorld(t)
	w.faults.set(nil, ending)
	out := w.begin(w.finish("marker-human", "marker-user"))
	w.until("the commit", func() bool { return len(w.events("note")) == 1 })
	w.faults.set(nil, nil)
	r := <-out
	wantKind(t, r.err, "")
	if r.Outcome != user.Stored {
		t.Errorf("outcome %s", r.Outcome)
	}
	w.wantCurrent("marker-human")
}

// The store is still broken when the daemon stops: the exchange is not lost
// silently, and goes on at the next start.
func TestStoreFailsUntilShutdown(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Deadline = 100 * time.Millisecond })
	w.sim.SetMode("repeatable")
	w.faults.set(ending, nil)
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, user.ExchangePending)
	w.crash()
	if !strings.Contains(w.logs.String(), "never stored") || len(w.events("note")) != 2 {
		t.Error("nobody is told that a token is lost")
	}
	w.start()
	w.awaitOutcome(user.Stored, 1)
	w.wantCurrent("marker-human")
}

// An end without tokens is made durable too, before anybody is told.
func TestStoreFailsAtFinish(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Deadline = 100 * time.Millisecond })
	x := w.event("marker-human", "marker-garbage-session")
	w.faults.set(ending, nil)
	_, err := w.exchange(x)
	wantKind(t, err, user.ExchangePending)
	w.faults.set(nil, ending)
	w.until("the end", func() bool { return len(w.intents()) == 0 })
	w.faults.set(nil, nil)
	w.awaitOutcome(user.Refused, 1)
	_, err = w.exchange(x)
	wantKind(t, err, user.SessionRefused)
	if w.asked() != 1 {
		t.Errorf("Human API was asked %d times", w.asked())
	}
}

// Somebody else took the same session between the look and the intent.
func TestSessionBecomesKnownMeanwhile(t *testing.T) {
	w := newWorld(t)
	x := w.finish("marker-human", "marker-user")
	var once atomic.Bool // Begin comes here again
	w.faults.set(func(b store.Batch) error {
		if b.Arrive == nil || once.Swap(true) {
			return nil
		}
		_, err := w.store.Begin(context.Background(), user.Intent{
			RequestID: "request-other", Rule: "shop-web", ClientID: app, HumanID: x.HumanID, SessionToken: x.SessionToken, ReceivedAt: time.Now(),
		})
		return err
	}, nil)
	_, err := w.exchange(x)
	wantKind(t, err, "")
	w.wantCurrent(x.HumanID)
	if w.asked() != 1 || len(w.intents()) != 0 {
		t.Errorf("%d requests, %d intents left", w.asked(), len(w.intents()))
	}
}

// Somebody else ended the exchange while its answer was being checked.
func TestIntentEndedMeanwhile(t *testing.T) {
	for _, outcome := range []user.Outcome{user.IndeterminateOutcome, user.Unsent} {
		t.Run(string(outcome), func(t *testing.T) {
			var w *world
			w = newWorld(t, func(w2 *world) {
				w2.config.Step = func(step string) {
					if step == "checked" {
						if err := w.store.Finish(context.Background(), w.intents()[0], outcome, ""); err != nil {
							t.Error(err)
						}
					}
				}
			})
			_, err := w.exchange(w.finish("marker-human", "marker-user"))
			if outcome == user.IndeterminateOutcome {
				wantKind(t, err, user.ExchangeUnknown)
			} else if err == nil || user.KindOf(err) != "" || len(w.events("note")) != 1 {
				t.Error("an exchange that somebody else ended was answered, or not reported")
			}
			w.wantNothing("marker-human")
		})
	}
}
