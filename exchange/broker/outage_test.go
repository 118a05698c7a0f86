package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

func fragile(w *world) {
	w.config.Breaker = broker.Breaker{Failures: 4, Users: 2, CoolDown: broker.Backoff{First: time.Second, Max: time.Second}}
}

// outage makes Human API fail for everyone, and waits until the breaker is open.
// It returns what was begun before.
func (w *world) outage(fault humanapitest.Fault) (begun []<-chan answered) {
	w.t.Helper()
	fault.Permanent = true
	w.sim.Misbehave(fault)
	for i := range 4 {
		x := w.finish(user.HumanID(fmt.Sprintf("marker-early-%d", i)), "")
		x.Rule = fmt.Sprintf("rule-%d", i%2)
		begun = append(begun, w.begin(x))
	}
	w.until("the breaker to open", func() bool { return w.b.Status().Breaker == broker.BreakerOpen })
	return begun
}

// An outage costs whoever comes milliseconds, and Human API one request at a
// time; what was begun before goes on when it is over.
func TestOutageCostsMilliseconds(t *testing.T) {
	w := newWorld(t, fragile)
	w.sim.SetMode(humanapitest.Repeatable)
	done := w.finish("marker-human", "marker-user")
	_, err := w.exchange(done)
	wantKind(t, err, "")
	begun := w.outage(humanapitest.Fault{Kind: humanapitest.DropAfter, DelayAnswer: 50 * time.Millisecond})
	if s := w.b.Status(); s.OpenSince.IsZero() || s.Uncertain != 4 {
		t.Errorf("the status of an outage is %+v", s)
	}
	intents, asked := len(w.intents()), w.asked()
	start := time.Now()
	var took []time.Duration
	for time.Since(start) < 300*time.Millisecond {
		before := time.Now()
		_, err := w.exchange(w.finish("marker-late", ""))
		took = append(took, time.Since(before))
		wantKind(t, err, user.UpstreamUnavailable)
		if e, ok := errors.AsType[*user.Error](err); !ok || e.RetryAfter <= 0 || e.RetryAfter > time.Second {
			t.Fatal("the refusal does not say when to come back")
		}
	}
	// One attempt each time that it cools down, which is at least half a second.
	more, most := w.asked()-asked, int(time.Since(start)/(500*time.Millisecond))
	if n := len(w.intents()); n != intents || more > most {
		t.Errorf("%d intents and %d requests more (at most %d) while the breaker is open", n-intents, more, most)
	}
	before := time.Now()
	_, err = w.b.PublicToken(context.Background(), app, "marker-late", "request-p")
	wantKind(t, err, user.UpstreamUnavailable)
	if took := time.Since(before); took > 5*time.Second || w.sim.Count(humanapitest.PublicTokensPath) != 0 {
		t.Errorf("a publicToken was asked for, or refused after %s", took)
	}
	r, err := w.exchange(done)
	wantKind(t, err, "")
	if !r.Replayed {
		t.Error("what is finished is not answered during an outage")
	}
	w.until("one attempt", func() bool { return w.asked() > asked })
	w.sim.ClearFaults()
	for _, c := range begun {
		wantKind(t, (<-c).err, "")
	}
	_, err = w.exchange(w.finish("marker-late", ""))
	wantKind(t, err, "")
	if s := w.b.Status(); s.Breaker != broker.BreakerClosed || !s.OpenSince.IsZero() {
		t.Errorf("after the outage the breaker is %s", s.Breaker)
	}
	slices.Sort(took)
	t.Logf("figure: an outage of Human API: %d new exchanges refused, median %s, p99 %s; requests meanwhile: %d, then 1 at a time",
		len(took), took[len(took)/2], took[len(took)*99/100], more)
}

// Nothing was sent and the outage does not end: unsent, with nothing left.
func TestOutageOutlastsTheDeadline(t *testing.T) {
	w := newWorld(t, fragile, func(w *world) {
		w.config.Deadline = 500 * time.Millisecond
		w.config.Breaker.CoolDown = broker.Backoff{First: time.Minute, Max: time.Minute}
	})
	w.sim.Close()
	var begun []<-chan answered
	for i := range 4 {
		begun = append(begun, w.begin(w.finish(user.HumanID(fmt.Sprintf("marker-early-%d", i)), "")))
	}
	for _, c := range begun {
		r := <-c
		wantKind(t, r.err, user.UpstreamUnavailable)
		if e, ok := errors.AsType[*user.Error](r.err); !ok || e.RetryAfter < 20*time.Second {
			t.Error("whoever waited is not told how long it may take")
		}
	}
	if n := len(w.intents()); n != 0 || w.b.Status().Outcomes[user.Unsent] != 4 {
		t.Errorf("%d intents left, %d unsent", n, w.b.Status().Outcomes[user.Unsent])
	}
}

// A rule whose requests hang takes no place from another's.
func TestHangingRequestsOfOneRule(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.PerApp = 8 })
	hold := make(chan struct{})
	const many = 200
	var busy []<-chan answered
	for i := range many {
		human := user.HumanID(fmt.Sprintf("marker-human-%d", i))
		w.sim.Misbehave(humanapitest.Fault{HumanID: string(human), Hold: hold})
		x := w.finish(human, "")
		x.Rule = "busy"
		busy = append(busy, w.begin(x))
	}
	w.awaitAsked(7)
	w.until("all to wait", func() bool { return w.b.Status().Waiting == many-7 })
	single := w.finish("marker-single", "")
	single.Rule = "quiet"
	before := time.Now()
	_, err := w.exchange(single)
	took := time.Since(before)
	wantKind(t, err, "")
	if n := w.asked(); n != 8 {
		t.Errorf("%d requests of 8 places", n)
	}
	close(hold)
	for _, c := range busy {
		wantKind(t, (<-c).err, "")
	}
	t.Logf("figure: %d exchanges of one rule wait for hanging requests; another rule's exchange took %s", many, took)
}

// Hundreds of exchanges of a rule wait for places; another rule's does not wait
// for them.
func TestRulesShareTheWire(t *testing.T) {
	w := newWorld(t, func(w *world) { w.config.PerApp = 4 })
	w.sim.Misbehave(humanapitest.Fault{Permanent: true, Delay: 10 * time.Millisecond})
	const many = 300
	var busy []<-chan answered
	for i := range many {
		x := w.finish(user.HumanID(fmt.Sprintf("marker-human-%d", i)), "")
		x.Rule = "busy"
		busy = append(busy, w.begin(x))
	}
	w.until("them to wait", func() bool { return w.b.Status().Waiting > many/2 })
	single := w.finish("marker-single", "")
	single.Rule = "quiet"
	before := time.Now()
	_, err := w.exchange(single)
	took := time.Since(before)
	wantKind(t, err, "")
	left := w.b.Status().InFlight
	if left < many/4 {
		t.Errorf("only %d of the other rule's were left when it ended", left)
	}
	for _, c := range busy {
		wantKind(t, (<-c).err, "")
	}
	t.Logf("figure: one exchange beside %d waiting ones of another rule, 4 places, 10 ms a request: %s, with %d of them left", many, took, left)
}

// The attacker's hour: 10,000 posts of garbage that name a victim.
func TestAttackersHour(t *testing.T) {
	w := newWorld(t)
	const slow = 100 * time.Millisecond
	const posts, posters = 10_000, 64
	w.sim.Misbehave(humanapitest.Fault{Permanent: true, HumanID: "marker-victim", Delay: slow})
	var attackers sync.WaitGroup
	var mu sync.Mutex
	kinds := map[user.Failure]int{}
	begun := make(chan struct{})
	start := time.Now()
	for p := range posters {
		attackers.Go(func() {
			for i := p; i < posts; i += posters {
				x := w.event("marker-victim", fmt.Sprintf("marker-garbage-%d", i))
				x.Rule = "attacker"
				_, err := w.exchange(x)
				mu.Lock()
				kinds[user.KindOf(err)]++
				if kinds[user.SessionRefused] == 1 && user.KindOf(err) == user.SessionRefused {
					close(begun)
				}
				mu.Unlock()
			}
		})
	}
	<-begun
	other := w.finish("marker-victim", "marker-user")
	other.Rule = "shop-web"
	before := time.Now()
	_, err := w.exchange(other)
	delay := time.Since(before) - slow
	wantKind(t, err, "")
	w.until("the burst to be used up", func() bool { return w.asked() >= 9 && w.b.Status().InFlight == 0 })
	same := w.finish("marker-victim", "marker-user")
	same.Rule, same.Expected, same.ExpectedSet = "attacker", "marker-user", true
	before = time.Now()
	_, err = w.exchange(same)
	sameDelay := time.Since(before) - slow
	wantKind(t, err, "")
	attackers.Wait()
	took := time.Since(start)
	unnamed := w.event("marker-victim", "marker-garbage-unnamed")
	unnamed.Rule = "attacker"
	_, err = w.exchange(unnamed)
	if e, ok := errors.AsType[*user.Error](err); ok && e.Kind == user.TooManyWaiting && (e.RetryAfter < time.Second || e.RetryAfter > 5*time.Second) {
		t.Errorf("the advice is to come back in %s", e.RetryAfter)
	}
	sent := w.asked() - 2
	if most := 8 + int(time.Since(start)/(5*time.Second)) + 1; sent > most {
		t.Errorf("%d pieces of garbage were sent, at most %d in that time", sent, most)
	}
	// The figure is the claim (and packaging/e2e holds the daemon to a second); here
	// it may run beside anything.
	if delay > 10*time.Second || sameDelay > 10*time.Second {
		t.Errorf("the victim's exchange was delayed by %s, by the same rule %s", delay, sameDelay)
	}
	w.wantCurrent("marker-victim")
	t.Logf("figure: %d garbage posts naming one user in %s, each refused after %s: %d sent to Human API, the victim's exchange by another rule delayed by %s, by the same rule with X-Client-User-Id by %s",
		posts, took.Round(time.Millisecond), slow, sent, delay.Round(time.Millisecond), sameDelay.Round(time.Millisecond))
}
