package broker_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// sessions lists what Human API was sent, as the number of the exchange that each
// request was for.
func (w *world) sessions(all ...user.Exchange) (order []int) {
	w.t.Helper()
	for _, r := range w.sim.Requests() {
		order = append(order, 1+slices.IndexFunc(all, func(x user.Exchange) bool {
			return string(x.SessionToken.Reveal()) == r.Fields["sessionToken"]
		}))
	}
	return order
}

// behind begins an exchange while another of the user's is on the wire, and waits
// until it has its place: it is sent as soon as the other is not.
func (w *world) behind(x user.Exchange) <-chan answered {
	w.t.Helper()
	out := w.begin(x)
	w.until("a place behind", func() bool { return w.b.Standing() == 1 })
	return out
}

// held makes the next request wait, and fail, with or without effect.
func (w *world) held(took bool) (release chan struct{}) {
	release = make(chan struct{})
	f := humanapitest.Fault{Path: humanapitest.TokensPath, Status: 500, Hold: release}
	if took {
		f.TakesEffect = true
	}
	w.sim.Misbehave(f)
	return release
}

// wantTruth checks that a record that is active is Human API's current one.
func (w *world) wantTruth(human user.HumanID) user.Record {
	w.t.Helper()
	rec, err := w.store.Private(context.Background(), app, human)
	w.must(err)
	access, _ := w.sim.Current(string(app), string(human))
	if rec.State == user.Active && string(rec.AccessToken.Reveal()) != access {
		w.t.Error("an older access token passes for the current one")
	}
	return rec
}

// Two exchanges of one user are in doubt: the later one is settled first, and the
// earlier one never takes effect behind it, whatever became of either at Human API
// and whatever that does with a session token that comes twice.
func TestBothInDoubt(t *testing.T) {
	for _, mode := range []humanapitest.Mode{humanapitest.OneTime, humanapitest.Repeatable, humanapitest.Rotating} {
		for effects := range 4 {
			early, late := effects&1 != 0, effects&2 != 0
			t.Run(fmt.Sprintf("%s, effect of the earlier %v, of the later %v", mode, early, late), func(t *testing.T) {
				w := newWorld(t)
				w.sim.SetMode(mode)
				x, y := w.finish("marker-human", "marker-user"), w.finish("marker-human", "marker-user")
				release := []chan struct{}{w.held(early), w.held(late)}
				first := w.begin(x)
				w.awaitAsked(1)
				second := w.behind(y)
				close(release[0])
				w.awaitAsked(2)
				close(release[1])
				r1, r2 := <-first, <-second
				order := w.sessions(x, y)
				if !slices.Equal(order[:3], []int{1, 2, 2}) {
					t.Errorf("the order of the requests is %v", order)
				}
				rec := w.wantTruth("marker-human")
				if mode == humanapitest.OneTime && late { // its repeat is refused: nobody can know
					wantKind(t, r2.err, user.ExchangeUnknown)
					if rec.State != user.Indeterminate {
						t.Errorf("the state is %s", rec.State)
					}
					if !early { // and its tokens are better than none
						wantKind(t, r1.err, "")
						w.wantHeld("marker-human")
					}
					return
				}
				wantKind(t, r1.err, "")
				wantKind(t, r2.err, "")
				if r1.Outcome != user.Superseded || r2.Outcome != user.Stored || len(order) != 3 {
					t.Errorf("they ended %s and %s after %v", r1.Outcome, r2.Outcome, order)
				}
				w.wantCurrent("marker-human")
			})
		}
	}
}

// wantHeld checks that Human API's current access token is here, though in doubt.
func (w *world) wantHeld(human user.HumanID) {
	w.t.Helper()
	rec, err := w.store.Private(context.Background(), app, human)
	w.must(err)
	if access, _ := w.sim.Current(string(app), string(human)); string(rec.AccessToken.Reveal()) != access {
		w.t.Error("the tokens of the earlier exchange are not here")
	}
}

// One that Human API asked to come back later has not taken effect, and is not sent
// behind a later one in doubt either.
func TestUnsentStaysBehindDoubt(t *testing.T) {
	w := newWorld(t)
	w.sim.SetMode(humanapitest.Repeatable)
	x, y := w.finish("marker-human", "marker-user"), w.finish("marker-human", "marker-user")
	wait := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{Status: 429, Hold: wait})
	release := w.held(true)
	first := w.begin(x)
	w.awaitAsked(1)
	second := w.behind(y)
	close(wait)
	w.awaitAsked(2)
	close(release)
	wantKind(t, (<-second).err, "")
	if r := <-first; r.err != nil || r.Outcome != user.Superseded {
		t.Errorf("the earlier one ended as %q (%v)", r.Outcome, r.err)
	}
	if order := w.sessions(x, y); !slices.Equal(order, []int{1, 2, 2}) {
		t.Errorf("the order of the requests is %v", order)
	}
	w.wantCurrent("marker-human")
}

// Tokens that the store cannot take yet hold the earlier one back too.
func TestEarlierStaysBehindHeldTokens(t *testing.T) {
	w := newWorld(t)
	w.sim.SetMode(humanapitest.Rotating)
	x, y := w.finish("marker-human", "marker-user"), w.finish("marker-human", "marker-user")
	release := w.held(false)
	first := w.begin(x)
	w.awaitAsked(1)
	second := w.behind(y)
	full := make(chan struct{})
	tries := make(chan struct{}, 100)
	w.faults.set(func(b store.Batch) error {
		select {
		case <-full:
			return nil
		default:
		}
		if err := ending(b); err != nil {
			tries <- struct{}{}
			return err
		}
		return nil
	}, nil)
	close(release)
	for range 5 { // longer than the earlier one pauses
		<-tries
	}
	if order := w.sessions(x, y); !slices.Equal(order, []int{1, 2}) {
		t.Errorf("the order of the requests is %v", order)
	}
	close(full)
	wantKind(t, (<-second).err, "")
	if r := <-first; r.err != nil || r.Outcome != user.Superseded {
		t.Errorf("the earlier one ended as %q (%v)", r.Outcome, r.err)
	}
	w.wantCurrent("marker-human")
}

// The same after a crash: both are sent again, in order.
func TestBothInDoubtAfterRestart(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("effect of the later %v", late), func(t *testing.T) {
			quick := broker.Backoff{}
			w := newWorld(t, func(w *world) {
				quick, w.config.Backoff = w.config.Backoff, broker.Backoff{First: time.Minute, Max: time.Minute}
			})
			x, y := w.finish("marker-human", "marker-user"), w.finish("marker-human", "marker-user")
			release := []chan struct{}{w.held(false), w.held(late)}
			first := w.begin(x)
			w.awaitAsked(1)
			second := w.behind(y)
			close(release[0])
			w.awaitAsked(2)
			close(release[1])
			w.until("both in doubt", func() bool { return w.b.Status().Uncertain == 2 })
			w.crash()
			wantKind(t, (<-first).err, user.ExchangePending)
			wantKind(t, (<-second).err, user.ExchangePending)
			w.config.Backoff = quick
			w.start()
			if late { // one-time: the repeat is refused, and the earlier one's tokens are kept in doubt
				w.awaitOutcome(user.IndeterminateOutcome, 1)
				w.awaitOutcome(user.Stored, 1)
				w.wantHeld("marker-human")
			} else {
				w.awaitOutcome(user.Stored, 2)
				w.wantCurrent("marker-human")
			}
			w.idle()
			if rec := w.wantTruth("marker-human"); (rec.State == user.Indeterminate) != late {
				t.Errorf("the state is %s", rec.State)
			}
			if order := w.sessions(x, y); !slices.Equal(order[2:4], []int{1, 2}) {
				t.Errorf("the order of the requests is %v", order)
			}
		})
	}
}

// A later exchange in doubt holds back nobody who comes after it, and nobody else's.
func TestDoubtHoldsBackNobodyLater(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.Backoff.First, w.config.Backoff.Max = time.Minute, time.Minute })
	w.sim.Misbehave(humanapitest.Fault{Status: 500})
	first := w.begin(w.finish("marker-human", ""))
	w.until("doubt", func() bool { return w.b.Status().Uncertain == 1 })
	for _, human := range []user.HumanID{"marker-human", "marker-other"} {
		_, err := w.exchange(w.finish(human, ""))
		wantKind(t, err, "")
	}
	if r := <-first; r.Outcome != user.Superseded {
		t.Errorf("it ended as %q (%v)", r.Outcome, r.err)
	}
}
