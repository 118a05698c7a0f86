package broker

import (
	"testing"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// A resumed exchange that gets a slot has it in the moment in which it wants the
// turn: a later arrival does not slip through in between.
func TestSlotComesWithTheWish(t *testing.T) {
	for _, free := range []bool{true, false} {
		b := &Broker{slots: make(chan struct{}, 1)}
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
		want := map[bool]*run{true: old, false: later}[free]
		if l.next() != want || old.slotted != free || (b.slotsFor(old) != nil) == free {
			t.Errorf("with a slot free %v the wrong one is next", free)
		}
	}
}
