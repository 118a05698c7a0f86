package e2e

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// restarting counts what callers meet while the daemon is restarted.
type restarting struct {
	w                 *world
	answered, refused atomic.Int64
	draining, early   atomic.Int64 // told to come again
	longest           atomic.Int64 // nanoseconds that a finish event took
	over              chan struct{}
}

func (r *restarting) String() string {
	return fmt.Sprintf("%d exchanges answered, %d connections refused, told to come again %d times as it was draining and %d times as it was starting, cut off 0, lost 0, doubled 0; the longest took %v",
		r.answered.Load(), r.refused.Load(), r.draining.Load(), r.early.Load(), time.Duration(r.longest.Load()).Round(time.Millisecond))
}

// restartUnderLoad stops and starts the daemon under 16 callers, each with a user
// of its own, and holds the store against Human API in the end.
func restartUnderLoad(t *testing.T, w *world, wrap ...string) *restarting {
	t.Helper()
	r := &restarting{w: w, over: make(chan struct{})}
	humans := make([]string, 16)
	var callers sync.WaitGroup
	for i := range humans {
		humans[i] = w.sim.NewHumanID()
		callers.Go(func() { r.call(humans[i]) })
	}
	for range restarts {
		at := r.answered.Load()
		for limit := time.Now().Add(20 * time.Second); r.answered.Load() < at+20 && time.Now().Before(limit); {
			time.Sleep(time.Millisecond) // callers tell nobody
		}
		w.stop()
		w.start(wrap...)
		if w.sockets == nil {
			w.awaitReady() // else callers wait at the socket
		}
	}
	w.awaitReady()
	close(r.over)
	callers.Wait()
	for _, human := range humans {
		if got := w.storedOf(human); got != tokensStored {
			t.Errorf("lost: the store has %s", got)
		}
	}
	for _, q := range w.sim.Requests() {
		if q.Reason != "" {
			t.Errorf("doubled: Human API was sent what it refused: %s", q.Reason)
		}
	}
	return r
}

func (r *restarting) call(human string) {
	c := r.w.root("public")
	defer c.http.CloseIdleConnections()
	for {
		select {
		case <-r.over:
			return
		default:
		}
		if !r.exchange(c, human) {
			return
		}
	}
}

// exchange is one finish event, however often it takes.
func (r *restarting) exchange(c rootCaller, human string) bool {
	s := r.w.finishEvent(human, human+"@example.test")
	for start := time.Now(); time.Since(start) < 30*time.Second; {
		a, err := c.try("POST", tokens, s.json(), jsonType)
		switch {
		case err != nil && notConnected(err):
			r.refused.Add(1)
			time.Sleep(5 * time.Millisecond) // the daemon is away
			continue
		case err != nil:
			r.w.t.Errorf("an exchange is cut off: %v", err)
			return false
		case a.status == 200:
			r.answered.Add(1)
			r.longest.Store(max(r.longest.Load(), int64(time.Since(start))))
			_, public := r.w.sim.Current(shop, human)
			if a.field(r.w.t, "publicToken") != public || a.field(r.w.t, "humanId") != human {
				r.w.t.Error("mixed up: an answer does not have its user's tokens")
			}
			return true
		}
		switch code := a.field(r.w.t, "error"); code {
		case "draining", "exchange_pending":
			r.draining.Add(1)
		case "starting":
			r.early.Add(1)
			time.Sleep(5 * time.Millisecond) // sooner than told
		default:
			r.w.t.Errorf("an exchange is answered %d %s", a.status, code)
			return false
		}
	}
	r.w.t.Error("an exchange is not answered within 30 s of restarts")
	return false
}
