package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// steps are all that an exchange comes through (broker.Config.Step).
var steps = []string{"intent-written", "sending", "answered", "checked", "committed", "answering"}

// The daemon dies under load at every step of an exchange, the first that comes
// there and a later one, whatever Human API does with session tokens.
func TestKillAtEveryStep(t *testing.T) {
	k := newKilling(t)
	at, err := switched()
	must(t, err)
	k.w.binary = at
	perStep := map[string]int{}
	for _, mode := range humanapitest.Modes {
		for _, step := range steps {
			for _, nth := range []int{1, 2 + rand.N(100)} {
				k.dieAt(mode, fmt.Sprintf("%s:%d", step, nth))
				if perStep[step]++; t.Failed() {
					t.Fatalf("at %s, the %d. exchange, %s\n%s", step, nth, mode, k.w.logTail())
				}
			}
		}
	}
	k.finish(len(steps) * len(humanapitest.Modes) * 2)
	t.Logf("figure: died at each of %v", perStep)
}

// dieAt is a round in which the daemon kills itself.
func (k *killing) dieAt(mode humanapitest.Mode, step string) {
	k.begin(mode)
	k.w.kill() // nothing is under way
	k.w.env = []string{"TOKENVAULT_TEST_STEP=" + step}
	k.restart()
	k.w.env = nil
	left := k.load(func(<-chan struct{}) {
		select {
		case <-k.w.daemon.done:
		case <-time.After(30 * time.Second):
			k.t.Errorf("the daemon never came to %s", step)
		}
		k.kill()
	})
	k.recover(left)
}
