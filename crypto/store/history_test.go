package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/user"
)

const historyWriters, historyRounds, historyUsers = 64, 6, 8

// ending is how one exchange of the history ended.
type ending struct {
	human   user.HumanID
	arrival uint64
	outcome user.Outcome
}

// TestHistory lets many writers exchange for few users at once, in every way
// that an exchange can end, and holds what is left against what was answered.
func TestHistory(t *testing.T) {
	f := newFixture(t)
	ends := make([][]ending, historyWriters)
	ctx, stop := context.WithCancel(f.ctx())
	var writers, readers sync.WaitGroup
	for u := range historyUsers {
		readers.Go(func() { f.watch(ctx, user.HumanID(fmt.Sprint("h", u))) })
	}
	for w := range historyWriters {
		writers.Go(func() {
			for r := range historyRounds {
				ends[w] = append(ends[w], f.oneOfHistory(w, r))
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
	last, doubt := make(map[user.HumanID]uint64), make(map[user.HumanID]uint64)
	superseded := 0
	for _, list := range ends {
		for _, e := range list {
			switch e.outcome {
			case user.Stored:
				last[e.human] = max(last[e.human], e.arrival)
			case user.IndeterminateOutcome:
				doubt[e.human] = max(doubt[e.human], e.arrival)
			case user.Superseded:
				superseded++
			}
		}
	}
	for _, list := range ends {
		for _, e := range list {
			if e.outcome == user.Superseded && e.arrival > last[e.human] {
				t.Errorf("arrival %d was superseded by none later", e.arrival)
			}
		}
	}
	for human, arrival := range last {
		state := user.Active
		if doubt[human] > arrival {
			state = user.Indeterminate
		}
		f.holds(string(human), arrival, state)
	}
	report := f.clean()
	if report.Counts["intents"] != 0 || report.Counts["sessions"] != historyWriters*historyRounds {
		t.Errorf("left: %v", report.Counts)
	}
	t.Logf("%d exchanges, %d superseded, %d commits", historyWriters*historyRounds, superseded, f.bolt.Commits())
}

// oneOfHistory is one exchange. Errors are reported, and end nothing.
func (f *fixture) oneOfHistory(w, r int) ending {
	human := fmt.Sprint("h", (w+r)%historyUsers)
	in, err := f.Begin(f.ctx(), intent(human, fmt.Sprint(w, ".", r)))
	if err != nil {
		f.t.Errorf("begin: %v", err)
		return ending{}
	}
	e := ending{human: in.HumanID, arrival: in.Arrival, outcome: user.IndeterminateOutcome}
	if (w+r)%5 == 0 {
		err = f.Finish(f.ctx(), in, e.outcome, user.ExchangeUnknown)
	} else {
		var result user.Result
		result, err = f.Commit(f.ctx(), in, answer(in, user.ClientUserID("c"+human)))
		e.outcome = result.Outcome
		if err == nil && e.outcome == user.Stored && result.Arrival != in.Arrival {
			f.t.Error("stored, and answered with another's tokens")
		}
	}
	if err != nil {
		f.t.Errorf("end: %v", err)
	}
	if _, err := f.Commit(f.ctx(), user.Intent{ClientID: app, HumanID: in.HumanID, SessionToken: intent(human, "never begun").SessionToken, Arrival: 1 << 60}, answer(in, "")); !errors.Is(err, store.ErrIntentGone) {
		f.t.Errorf("an exchange that nobody began: %v", err)
	}
	return e
}

// watch reads a user until ctx ends: the tokens only ever get later, and the two
// boxes are of one exchange.
func (f *fixture) watch(ctx context.Context, human user.HumanID) {
	var last uint64
	for ctx.Err() == nil {
		rec, err := f.Private(context.Background(), app, human)
		if user.KindOf(err) == user.UnknownUser {
			continue
		}
		if err != nil {
			f.t.Errorf("read: %v", err)
			return
		}
		if rec.Arrival < last {
			f.t.Errorf("arrival %d after %d", rec.Arrival, last)
			return
		}
		last = rec.Arrival
		if want := answer(user.Intent{Arrival: last}, ""); last != 0 && (rec.PublicToken != want.PublicToken || !rec.AccessToken.Equal(want.AccessToken)) {
			f.t.Error("tokens of two exchanges in one record")
			return
		}
	}
}
