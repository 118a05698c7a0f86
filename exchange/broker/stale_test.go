package broker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// wipingAt makes a world whose private keys are wiped the n-th time that an
// exchange is at that step, as when Vault was not heard for max_stale.
func wipingAt(t *testing.T, step string, n int32, shape ...func(*world)) (w *world) {
	var seen atomic.Int32
	return newWorld(t, append(shape, func(made *world) {
		w = made
		w.config.Step = func(s string) {
			if s == step && seen.Add(1) == n {
				w.keys.Wipe(keyring.Private)
			}
		}
	})...)
}

func (w *world) reload() {
	w.t.Helper()
	w.must(w.keys.Reload(context.Background()))
}

func impatient(w *world) { w.config.Deadline = 100 * time.Millisecond }

// Tokens that came when they cannot be sealed any more are held until they can.
func TestKeysWipedAtCommit(t *testing.T) {
	w := wipingAt(t, "checked", 1, impatient)
	x := w.finish("marker-human", "marker-user")
	for range 2 {
		_, err := w.exchange(x)
		wantKind(t, err, user.ExchangePending)
	}
	if n := w.events("note"); len(n) != 1 || n[0]["error"] != "vault_stale" {
		t.Error("nobody is told that a token is held in memory")
	}
	w.reload()
	w.awaitOutcome(user.Stored, 1)
	w.wantCurrent(x.HumanID)
	r, err := w.exchange(x)
	wantKind(t, err, "")
	if !r.Replayed || w.asked() != 1 || len(w.intents()) != 0 {
		t.Errorf("%d requests, %d intents left", w.asked(), len(w.intents()))
	}
}

// An end without tokens that needs the keys waits for them too.
func TestKeysWipedAtFinish(t *testing.T) {
	w := wipingAt(t, "answered", 2, impatient)
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, "")
	w.sim.Misbehave(humanapitest.Fault{Path: humanapitest.TokensPath, Kind: humanapitest.Empty})
	x := w.finish("marker-human", "marker-user")
	_, err = w.exchange(x)
	wantKind(t, err, user.ExchangePending)
	w.reload()
	w.awaitOutcome(user.IndeterminateOutcome, 1)
	_, err = w.exchange(x)
	wantKind(t, err, user.ExchangeUnknown)
}

// While nothing can be sealed a new exchange is refused with nothing written and
// nothing sent; what is finished is answered.
func TestKeysWipedBefore(t *testing.T) {
	w := newWorld(t)
	done, x := w.finish("marker-human", "marker-user"), w.finish("marker-human", "marker-user")
	_, err := w.exchange(done)
	wantKind(t, err, "")
	w.keys.Wipe(keyring.Private)
	w.faults.set(beginning, nil) // not even tried
	_, err = w.exchange(x)
	wantKind(t, err, user.VaultStale)
	r, err := w.exchange(done)
	wantKind(t, err, "")
	if !r.Replayed || w.asked() != 1 || len(w.intents()) != 0 || w.b.Status().Outcomes[user.Unsent] != 0 {
		t.Error("an exchange was begun whose tokens nobody could keep")
	}
	w.faults.set(nil, nil)
	w.reload()
	_, err = w.exchange(x)
	wantKind(t, err, "")
	w.wantCurrent(x.HumanID)
}

// The keys go between the intent and the request.
func TestKeysWipedBeforeSending(t *testing.T) {
	w := wipingAt(t, "intent-written", 1)
	x := w.finish("marker-human", "marker-user")
	_, err := w.exchange(x)
	wantKind(t, err, user.VaultStale)
	if w.asked() != 0 || len(w.intents()) != 0 || w.b.Status().Outcomes[user.Unsent] != 1 {
		t.Error("it did not end as unsent")
	}
	w.reload()
	_, err = w.exchange(x)
	wantKind(t, err, "")
}

// Who is in backoff does not ask for tokens either, and waits for the keys.
func TestKeysWipedInBackoff(t *testing.T) {
	for _, status := range []int{429, 500} {
		w := wipingAt(t, "answered", 1)
		w.sim.Misbehave(humanapitest.Fault{Status: status})
		ticks := w.tick(5)
		out := w.begin(w.finish("marker-human", "marker-user"))
		select {
		case <-ticks:
		case <-out:
			t.Fatalf("after a %d it did not wait for the keys", status)
		}
		if n := w.asked(); n != 1 {
			t.Errorf("after a %d tokens were asked for that nobody could keep", status)
		}
		w.reload()
		wantKind(t, (<-out).err, "")
		w.wantCurrent("marker-human")
	}
}

// Whose deadline comes first hears why.
func TestKeysDoNotComeBack(t *testing.T) {
	w := wipingAt(t, "answered", 1, func(w *world) { w.config.Deadline = 2 * time.Second })
	w.sim.Misbehave(humanapitest.Fault{Status: 429})
	_, err := w.exchange(w.finish("marker-human", "marker-user"))
	wantKind(t, err, user.VaultStale)
	if n := len(w.intents()); n != 0 {
		t.Errorf("%d intents left", n)
	}
}
