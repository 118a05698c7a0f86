package broker

import (
	"testing"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// What was resumed goes before what is new, whether a slot is free or not; alone
// it waits for one.
func TestResumedGoesFirst(t *testing.T) {
	for _, free := range []bool{true, false} {
		b := &Broker{slots: make(chan struct{}, 1), wires: map[user.ClientID]*wire{}, stopped: true} // nothing is given out
		if !free {
			b.slots <- struct{}{}
		}
		l := &line{}
		old := &run{line: l, phase: beginning, resumed: true, intent: user.Intent{Arrival: 1}}
		later := &run{line: l, phase: waiting, intent: user.Intent{Arrival: 2}}
		l.runs = []*run{later, old}
		if l.next() != nil {
			t.Error("somebody sends before the resumed one has begun")
		}
		b.enter(old, waiting)
		if l.next() != old || old.slotted != free || (b.slotsFor(old) != nil) == free {
			t.Errorf("with a slot free %v the wrong one is next", free)
		}
		l.runs = []*run{old}
		if (l.next() == old) != free {
			t.Errorf("with a slot free %v, and nobody behind it, it goes: %v", free, l.next() == old)
		}
	}
}

// Who stood in for a place and is not next any more does not get it: one of a
// user is on the wire, and in order.
func TestPlaceAndTurnGoTogether(t *testing.T) {
	w := newWire(1)
	b := &Broker{
		slots: make(chan struct{}, 1), wires: map[user.ClientID]*wire{"": w},
		life: t.Context(), breaker: newBreaker(Breaker{Failures: 1, Users: 1}),
	}
	other := &berth{rule: "web", ready: make(chan struct{})}
	w.join(other)
	b.dispatch(w)
	l := &line{}
	for arrival := range uint64(2) {
		r := &run{line: l, phase: pausing, intent: user.Intent{Arrival: arrival + 1}}
		r.berth = berth{rule: "web", run: r}
		l.runs = append(l.runs, r)
	}
	early, late := l.runs[0], l.runs[1]
	b.enter(late, waiting)
	b.enter(early, waiting) // its pause is over while the other waits for a place
	b.alight(other)
	if early.phase != sending || late.phase != waiting {
		t.Fatalf("the phases are %d and %d", early.phase, late.phase)
	}
	w.places = 2
	b.dispatch(w)
	if late.phase != waiting || w.total != 1 {
		t.Fatal("two of one user are on the wire")
	}
	b.alight(&early.berth)
	if late.phase != waiting {
		t.Fatal("the turn went over with the place, while the answer is checked")
	}
	b.enter(early, holding)
	if late.phase != sending {
		t.Error("who was passed over does not come again")
	}
}
