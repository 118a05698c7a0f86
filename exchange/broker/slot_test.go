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
