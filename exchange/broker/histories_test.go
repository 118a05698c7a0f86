package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

const historyWriters, historyRounds, historyUsers, historyReaders = 64, 12, 16, 8

// histories holds what readers and writers saw of each user.
type histories struct {
	w     *world
	acked [historyUsers]atomic.Uint64 // the latest arrival that an answer has shown

	mu       sync.Mutex
	pairs    map[user.PublicToken]string // access tokens by the publicToken beside them
	arrivals map[string]uint64           // by session token, of what was stored
	reads    atomic.Int64
	full     atomic.Int64
}

func (h *histories) human(i int) user.HumanID {
	return user.HumanID(fmt.Sprintf("marker-human-%d", i))
}

// TestConcurrentHistories lets 64 writers exchange for few users, while Human
// API drops answers and readers look on: no update is lost, no read is stale,
// tokens only get later, and Human API saw each user's in order.
func TestConcurrentHistories(t *testing.T) {
	w := newWorld(t)
	w.sim.SetMode(humanapitest.Rotating)
	h := &histories{w: w, pairs: map[user.PublicToken]string{}, arrivals: map[string]uint64{}}
	ctx, stop := context.WithCancel(context.Background())
	var writers, readers sync.WaitGroup
	for r := range historyReaders {
		readers.Go(func() {
			for i := r; ctx.Err() == nil; i++ {
				h.read(i % historyUsers)
			}
		})
	}
	for n := range historyWriters {
		writers.Go(func() {
			for r := range historyRounds {
				h.write(n, r)
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
	for i := range historyUsers {
		w.wantCurrent(h.human(i))
		p, err := w.store.Public(context.Background(), app, h.human(i))
		wantKind(t, err, "")
		if acked := h.acked[i].Load(); p.Arrival != acked {
			t.Errorf("arrival %d was answered last, %d is stored", acked, p.Arrival)
		}
	}
	s := w.b.Status()
	if n := s.Outcomes[user.Stored] + s.Outcomes[user.Superseded]; n != historyWriters*historyRounds || len(w.intents()) != 0 {
		t.Errorf("%d of %d exchanges ended with tokens, %d intents left", n, historyWriters*historyRounds, len(w.intents()))
	}
	h.order()
	t.Logf("figure: %d exchanges by %d writers for %d users, %d superseded, %d requests, %d times a full line; %d reads beside them: 0 lost, 0 stale, 0 out of order",
		historyWriters*historyRounds, historyWriters, historyUsers, s.Outcomes[user.Superseded], w.asked(), h.full.Load(), h.reads.Load())
}

// write exchanges one finish event, and comes back while the line is full.
func (h *histories) write(n, r int) {
	i := (n + r) % historyUsers
	if (n+r)%7 == 0 {
		h.w.sim.Misbehave(humanapitest.Fault{Path: humanapitest.TokensPath, HumanID: string(h.human(i)), Kind: humanapitest.DropAfter})
	}
	x := h.w.finish(h.human(i), "")
	x.Rule = fmt.Sprint("rule-", n%3)
	for {
		before := h.acked[i].Load()
		got, err := h.w.exchange(x)
		if user.KindOf(err) == user.TooManyWaiting {
			h.full.Add(1)
			time.Sleep(time.Millisecond) // as a caller that was told to come back
			continue
		}
		wantKind(h.w.t, err, "")
		if got.Outcome == user.Superseded && got.Arrival < before {
			h.w.t.Error("the answer is older than one that was given before it was asked for")
		}
		h.ack(i, got.Arrival)
		if got.Outcome == user.Stored {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.arrivals[string(x.SessionToken.Reveal())] = got.Arrival
		}
		return
	}
}

func (h *histories) ack(i int, arrival uint64) {
	for {
		known := h.acked[i].Load()
		if known >= arrival || h.acked[i].CompareAndSwap(known, arrival) {
			return
		}
	}
}

// read looks at a user: nothing older than what was answered before, and both
// tokens of one exchange.
func (h *histories) read(i int) {
	before := h.acked[i].Load()
	rec, err := h.w.store.Private(context.Background(), app, h.human(i))
	if user.KindOf(err) == user.UnknownUser && before == 0 {
		return
	}
	if err != nil {
		h.w.t.Errorf("read: %v", err)
		return
	}
	defer rec.AccessToken.Wipe()
	h.reads.Add(1)
	if rec.Arrival < before {
		h.w.t.Errorf("a stale read: arrival %d after %d was answered", rec.Arrival, before)
	}
	h.ack(i, rec.Arrival) // whoever reads later sees no less
	p, err := h.w.b.PublicToken(context.Background(), app, h.human(i), "request-p")
	if err == nil && p.Arrival < rec.Arrival {
		err = errors.New("it is older than what was read before")
	}
	if err != nil {
		h.w.t.Errorf("the publicToken beside: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	access := string(rec.AccessToken.Reveal())
	if known, ok := h.pairs[rec.PublicToken]; ok && known != access {
		h.w.t.Error("one publicToken beside two access tokens")
	}
	h.pairs[rec.PublicToken] = access
}

// order: Human API answered each user's exchanges in order of arrival, and saw no
// session token again after it was answered.
func (h *histories) order() {
	last, done := map[string]uint64{}, map[string]bool{}
	for _, r := range h.w.sim.Requests() {
		human, session := r.Fields["humanId"], r.Fields["sessionToken"]
		if session == "" {
			continue
		}
		if done[session] {
			h.w.t.Error("a session token was sent again after it was answered")
		}
		if r.Status != 200 || r.Fault != "" {
			continue
		}
		done[session] = true
		if h.arrivals[session] < last[human] {
			h.w.t.Error("an exchange was answered after one that arrived later")
		}
		last[human] = h.arrivals[session]
	}
	if len(last) != historyUsers || len(done) != len(h.arrivals) {
		h.w.t.Errorf("%d users and %d sessions had an answer, %d were stored", len(last), len(done), len(h.arrivals))
	}
}
