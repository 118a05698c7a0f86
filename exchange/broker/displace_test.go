package broker

import (
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// place is one who stands in a line: a login (each has its own claim), its rule,
// and whether it failed lately.
type place struct {
	login     byte
	rule      string
	phase     phase
	failed    bool
	resumed   bool
	uncertain bool
	displaced bool
}

// lineOf is a line of such, and a broker that knows who failed.
func lineOf(t *testing.T, places []place) (*Broker, *line) {
	t.Helper()
	b := &Broker{
		cfg:     Config{MaxInFlight: 100, PerApp: 1},
		breaker: newBreaker(Breaker{Failures: 1, Users: 1, CoolDown: defaultCoolDown}),
		garbage: garbage{empty: map[claim]time.Time{}, failed: map[claim]bool{}},
		byRule:  map[string]int{}, wires: map[user.ClientID]*wire{}, lines: map[userName]*line{},
	}
	l := &line{}
	for i, p := range places {
		r := &run{
			claim: claim{p.login}, phase: p.phase, resumed: p.resumed, uncertain: p.uncertain, displaced: p.displaced,
			intent: user.Intent{Rule: p.rule, Arrival: uint64(i + 1)}, wake: make(chan struct{}, 1), line: l,
		}
		r.berth = berth{rule: p.rule, run: r}
		if p.failed {
			b.garbage.take(r.claim, time.Now())
			b.garbage.blame(r.claim)
		}
		l.runs = append(l.runs, r)
	}
	return b, l
}

func TestDisplace(t *testing.T) {
	const web, ios = "web", "ios"
	for name, c := range map[string]struct {
		line   []place
		comer  place
		room   bool
		leaves []int // indexes
	}{
		"an empty line": {comer: place{login: 1, rule: web}, room: true},
		"one login has both places of the rule": {
			line:  []place{{login: 1, rule: web, phase: waiting}, {login: 1, rule: web, phase: waiting}},
			comer: place{login: 2, rule: web}, room: true, leaves: []int{1}},
		"nobody has more than one": {
			line:  []place{{login: 1, rule: web, phase: waiting}, {login: 2, rule: web, phase: waiting}},
			comer: place{login: 3, rule: web}},
		"who has lost one keeps the other": {
			line: []place{{login: 1, rule: web, phase: waiting}, {login: 1, rule: web, phase: waiting, displaced: true},
				{login: 2, rule: web, phase: waiting}},
			comer: place{login: 3, rule: web}},
		"who is in the line already makes no room": {
			line: []place{{login: 2, rule: web, phase: sending}, {login: 1, rule: web, phase: waiting},
				{login: 1, rule: web, phase: waiting}},
			comer: place{login: 2, rule: web}},
		"who failed lately makes no room": {
			line:  []place{{login: 1, rule: web, phase: waiting}, {login: 1, rule: web, phase: waiting}},
			comer: place{login: 2, rule: web, failed: true}},
		"garbage gives way, whoever's rule it is": {
			line:  []place{{login: 1, rule: ios, phase: pausing, failed: true}, {login: 2, rule: web, phase: waiting}},
			comer: place{login: 3, rule: web}, room: true, leaves: []int{0}},
		"what may have been sent stays": {
			line: []place{{login: 1, rule: web, phase: pausing, failed: true, uncertain: true},
				{login: 1, rule: web, phase: waiting, failed: true, resumed: true}, {login: 1, rule: web, phase: sending, failed: true}},
			comer: place{login: 2, rule: web}, room: true},
		"nobody moves for who does not get in": {
			line: []place{{login: 1, rule: ios, phase: waiting, failed: true}, {login: 2, rule: web, phase: pausing, uncertain: true},
				{login: 3, rule: web, phase: pausing, uncertain: true}},
			comer: place{login: 4, rule: web}},
		"another rule's crowd has its own two places": {
			line:  []place{{login: 1, rule: ios, phase: waiting}, {login: 1, rule: ios, phase: waiting}},
			comer: place{login: 2, rule: web}, room: true},
	} {
		t.Run(name, func(t *testing.T) {
			b, l := lineOf(t, append(c.line, c.comer))
			r := l.runs[len(c.line)]
			l.runs = l.runs[:len(c.line)]
			if got := b.displace(r, l); got != c.room {
				t.Errorf("there is room: %v", got)
			}
			leaves := map[int]bool{}
			for _, i := range c.leaves {
				leaves[i] = true
			}
			for i, o := range l.runs {
				if want := leaves[i] || c.line[i].displaced; o.displaced != want {
					t.Errorf("number %d is displaced: %v", i, o.displaced)
				}
				if woken := len(o.wake) == 1; woken != c.room {
					t.Errorf("number %d is woken: %v", i, woken)
				}
			}
		})
	}
}

// Who is refused for another reason has taken nobody's place, and is not the one
// that the breaker waits for.
func TestRefusedTakesNobodysPlace(t *testing.T) {
	crowd := []place{{login: 1, rule: "web", phase: waiting}, {login: 1, rule: "web", phase: waiting}}
	for name, c := range map[string]struct {
		spoil func(*Broker, *run)
		kind  user.Failure
	}{
		"too many in all": {func(b *Broker, _ *run) { b.begun = b.cfg.MaxInFlight }, user.TooManyWaiting},
		"its budget is used up": {func(b *Broker, r *run) {
			for range garbageBurst {
				b.garbage.take(r.claim, time.Now())
			}
		}, user.TooManyWaiting},
		"human api is down": {func(b *Broker, _ *run) {
			b.breaker.opened, b.breaker.unsent, b.breaker.until = true, true, time.Now().Add(time.Hour)
		}, user.UpstreamUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b, l := lineOf(t, append(crowd, place{login: 2, rule: "web"}))
			r := l.runs[2]
			l.runs = l.runs[:2]
			c.spoil(b, r)
			if err := b.admit(r, l); user.KindOf(err) != c.kind {
				t.Errorf("got %v", err)
			}
			if l.runs[0].displaced || l.runs[1].displaced {
				t.Error("somebody lost a place to who did not get in")
			}
		})
	}
	b, l := lineOf(t, []place{{login: 1, rule: "web", phase: waiting}, {login: 2, rule: "web", phase: waiting}, {login: 3, rule: "web"}})
	r := l.runs[2]
	l.runs = l.runs[:2]
	b.breaker.opened, b.breaker.unsent = true, true // half-open
	if err := b.admit(r, l); user.KindOf(err) != user.TooManyWaiting || b.breaker.candidate != nil {
		t.Errorf("got %v, and the breaker waits for it: %v", err, b.breaker.candidate != nil)
	}
}

// Who must wait for a later arrival neither sends nor keeps a slot that others need.
func TestBarredHasNoSlot(t *testing.T) {
	b, l := lineOf(t, []place{{login: 1, phase: waiting, resumed: true, uncertain: true}, {login: 1, phase: beginning, resumed: true, uncertain: true}})
	b.slots, b.life, b.stopped = make(chan struct{}, 1), t.Context(), false
	b.cfg.PerApp = 1
	early, late := l.runs[0], l.runs[1]
	if l.bars(early) {
		t.Error("what only an earlier process has sent bars the one before it")
	}
	late.tried = true
	early.giveUp, late.giveUp = t.Context(), t.Context()
	if !l.bars(early) || l.bars(late) {
		t.Fatal("the wrong one is barred")
	}
	if b.slotsFor(early) != nil || l.wantsSlot() != late {
		t.Error("one that is barred may take a slot")
	}
	b.slots <- struct{}{}
	early.slotted = true // it got the slot a moment before the other came
	if _, ok := b.mayGo(early); ok || early.slotted || len(b.slots) != 0 {
		t.Error("one that is barred keeps its slot")
	}
	b.enter(late, waiting)
	if !late.slotted || late.phase != sending {
		t.Errorf("the later one has a slot: %v, and is in phase %d", late.slotted, late.phase)
	}
	late.uncertain, late.phase = false, holding
	if !l.bars(early) {
		t.Error("tokens that the store cannot take yet bar nobody")
	}
	late.phase = pausing
	if l.bars(early) {
		t.Error("one that Human API asked to come back bars another")
	}
}
