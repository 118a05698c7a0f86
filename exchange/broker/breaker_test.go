package broker

import (
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// judgement is a breaker at a moment.
type judgement struct {
	*testing.T
	k   breaker
	now time.Time
}

func newJudgement(t *testing.T) *judgement {
	return &judgement{t, newBreaker(Breaker{Failures: 3, Users: 2, CoolDown: Backoff{First: time.Second, Max: 4 * time.Second}}), time.Unix(1e9, 0)}
}

// attempt makes one, if it is allowed.
func (j *judgement) attempt(rule string, human user.HumanID, end origin, notSent bool) bool {
	if !j.k.allows(rule, j.now) {
		return false
	}
	t := &berth{rule: rule, who: userName{"marker-app", human}}
	j.k.boards(t)
	j.k.sees(t, end, notSent, j.now)
	j.k.alights(t)
	return true
}

func (j *judgement) want(state string) {
	j.Helper()
	if got := j.k.state(j.now); got != state {
		j.Errorf("the breaker is %s, want %s", got, state)
	}
}

func TestBreakerOpens(t *testing.T) {
	j := newJudgement(t)
	for range 20 {
		j.attempt("web", "h1", down, false)
	}
	j.want(BreakerClosed) // the bad session of one user
	j.attempt("web", "h2", down, false)
	j.want(BreakerOpen)

	j = newJudgement(t)
	for range 5 {
		j.attempt("web", "h1", down, false)
		j.attempt("web", "h2", down, false)
		j.attempt("web", "h3", up, false)
	}
	j.want(BreakerClosed) // none three in a row
	for _, human := range []user.HumanID{"h1", "h2", "h3", "h4", "h5"} {
		j.attempt("web", human, down, false)
		j.now = j.now.Add(2 * streakGap)
	}
	j.want(BreakerClosed) // too far apart
}

// One attempt at a time when the cool-down is over; it doubles up to its
// limit while they fail, and the first success closes.
func TestBreakerHalfOpen(t *testing.T) {
	j := newJudgement(t)
	for _, human := range []user.HumanID{"h1", "h2", "h3"} {
		j.attempt("web", human, down, true)
	}
	since := j.k.since
	for trip := range 8 {
		j.want(BreakerOpen)
		cool := j.k.until.Sub(j.now)
		if longest := min(time.Second<<trip, 4*time.Second); cool < longest/2 || cool > longest {
			t.Errorf("after %d tries it cools down for %s", trip, cool)
		}
		if j.attempt("web", "h4", up, false) || j.k.admits(&berth{rule: "web"}, j.now) != cool {
			t.Error("an attempt while it cools down")
		}
		j.now = j.k.until
		j.want(BreakerHalfOpen)
		a, b := &berth{rule: "web"}, &berth{rule: "other"}
		if j.k.admits(a, j.now) != 0 || j.k.admits(b, j.now) == 0 {
			t.Error("not one is let in when the cool-down is over")
		}
		j.k.boards(a)
		if j.k.allows("web", j.now) || j.k.allows("other", j.now) || j.k.admits(b, j.now) == 0 {
			t.Error("two attempts at a time")
		}
		j.k.alights(a) // it came to nothing
		if !j.k.allows("web", j.now) {
			t.Error("an attempt that came to nothing keeps the others out")
		}
		j.attempt("web", "h1", down, false)
	}
	if j.k.since != since {
		t.Error("a failed attempt to close it changed since when it is open")
	}
	j.now = j.k.until
	j.attempt("web", "h1", up, false)
	j.want(BreakerClosed)
}

// What one rule's requests provoke is closed to that rule alone, until another
// rule meets it too, or nobody can connect.
func TestBreakerBlamesARule(t *testing.T) {
	for _, notSent := range []bool{false, true} {
		j := newJudgement(t)
		for _, human := range []user.HumanID{"h1", "h2", "h3"} {
			j.attempt("attacker", human, down, false)
		}
		if j.k.allows("attacker", j.now) || !j.k.allows("web", j.now) || !j.k.allows(fetchRule, j.now) {
			t.Error("one rule's failures concern another")
		}
		if notSent {
			j.attempt("web", "h4", down, true)
		} else {
			j.attempt(fetchRule, "h4", down, false)
			if j.k.allows(fetchRule, j.now) || !j.k.allows("web", j.now) {
				t.Error("a fetch counts as a second rule")
			}
			j.attempt("web", "h4", down, false)
		}
		if j.k.allows("web", j.now) || j.k.allows("third", j.now) {
			t.Error("a second rule's failure does not count")
		}
	}
}

// The bucket of a claim: a burst, then one by one, whatever is asked for.
func TestGarbageBudget(t *testing.T) {
	g, now := garbage{empty: map[claim]time.Time{}}, time.Unix(1e9, 0)
	start, let := now, 0
	for ; now.Sub(start) < time.Hour; now = now.Add(360 * time.Millisecond) { // 10,000
		wait := g.take(claim{1}, now)
		if wait == 0 {
			let++
		}
		if wait > garbageEvery {
			t.Fatalf("the advice is to wait %s", wait)
		}
	}
	if most := garbageBurst + int(time.Hour/garbageEvery); let > most || let < most-2 {
		t.Errorf("%d of 10,000 in an hour were let through", let)
	}
	if g.take(claim{2}, now) != 0 {
		t.Error("one claim's garbage is another's")
	}
	t.Logf("figure: garbage naming one user, 10,000 posts in an hour by one rule: %d sent to Human API", let)
	g.giveBack(claim{2}, now)
	for range 100 {
		if g.take(claim{2}, now) != 0 {
			t.Fatal("what is given back is counted")
		}
		g.giveBack(claim{2}, now)
	}
	if len(g.empty) != 1 {
		t.Errorf("%d claims are remembered", len(g.empty))
	}
}

func TestGarbageMemoryIsBounded(t *testing.T) {
	g, now := garbage{empty: map[claim]time.Time{}}, time.Unix(1e9, 0)
	for i := range garbageKept + 1000 {
		g.take(claim{byte(i), byte(i >> 8), byte(i >> 16)}, now)
	}
	if len(g.empty) != garbageKept {
		t.Errorf("%d claims are remembered", len(g.empty))
	}
	now = now.Add(time.Minute)
	g.take(claim{255, 255, 255}, now)
	if len(g.empty) != 1 {
		t.Errorf("%d claims are remembered that are empty", len(g.empty)-1)
	}
}

// A free place goes to who has the fewest, and no rule has all.
func TestPlacesAreShared(t *testing.T) {
	w := newWire(8)
	all := func(string) bool { return true }
	queue := func(rule string) *berth {
		x := &berth{rule: rule, ready: make(chan struct{})}
		w.join(x)
		return x
	}
	var aboard []*berth
	for range 10_000 {
		queue("big")
	}
	for x := w.pick(all); x != nil; x = w.pick(all) {
		w.board(x)
		aboard = append(aboard, x)
	}
	if len(aboard) != 7 {
		t.Errorf("one rule has %d of 8 places", len(aboard))
	}
	single := queue("small")
	if x := w.pick(all); x != single {
		t.Fatal("a place that is free is not given to another rule")
	}
	w.board(single)
	w.alight(aboard[0])
	next := queue("third")
	if w.pick(all) != next {
		t.Error("10,000 that wait go before one of another rule")
	}
	next.gone = true
	if more := queue("small"); w.pick(all) != more {
		t.Error("the rule that has one place, its last a moment ago, is behind the one that has six")
	} else {
		more.gone = true
	}
	if x := w.pick(all); x == nil || x.rule != "big" {
		t.Error("who is gone is still in the way")
	}
	if w.pick(func(rule string) bool { return rule != "big" }) != nil {
		t.Error("a place for who is not allowed")
	}

	w = newWire(1) // in turns
	turns := map[string]int{}
	for range 100 {
		queue("big")
		queue("small")
		x := w.pick(all)
		w.board(x)
		turns[x.rule]++
		w.alight(x)
	}
	if turns["big"] != 50 || turns["small"] != 50 {
		t.Errorf("the turns are %v", turns)
	}
}
