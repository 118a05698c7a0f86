package daemon

import (
	"context"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// exchanging begins an exchange and waits until Human API has it.
func (r *running) exchanging() (answered <-chan error) {
	r.t.Helper()
	c, session, done := r.client("public"), r.session(), make(chan error, 1)
	go func() {
		_, err := c.Exchange(context.Background(), session)
		done <- err
	}()
	if err := r.sim.Await(r.t.Context(), humanapitest.TokensPath, 1); err != nil {
		r.t.Fatal(err)
	}
	return done
}

// drain_timeout is for everything together: a Human API that hangs does not make
// the stop take it twice.
func TestStopTakesDrainTimeoutOnce(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	w.edit(`drain_timeout = "10s"`, `drain_timeout = "2s"`)
	r := w.start()
	r.await("READY=1")
	never := make(chan struct{})
	defer close(never)
	w.sim.Misbehave(humanapitest.Fault{Hold: never, Permanent: true})
	answered := r.exchanging()
	begun := time.Now()
	if err := r.finish(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took < 1500*time.Millisecond || took > 3500*time.Millisecond {
		t.Errorf("the stop took %v", took)
	}
	if err := <-answered; err == nil {
		t.Error("the exchange that was cut off has an answer")
	}
}

// From SIGTERM on nothing is tried again, and nobody waits for what will not
// come: the next start goes on.
func TestStopBeginsNoAttempt(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	r := w.start()
	r.await("READY=1")
	w.sim.Misbehave(humanapitest.Fault{Status: 503, Permanent: true})
	answered := r.exchanging()
	begun := time.Now()
	if err := r.finish(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the stop took %v although nothing was on the wire", took)
	}
	if n := w.sim.Count(humanapitest.TokensPath); n > 2 { // one may have begun before
		t.Errorf("Human API was asked %d times", n)
	}
	if err := <-answered; err == nil {
		t.Error("the exchange succeeded")
	}
}

// While it stops, SIGHUP changes nothing, and READY=1 would be a lie.
func TestReloadWhileStopping(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	events := make(chan struct{}, 1)
	r := w.start(func(c *Config) { c.Reload, c.Load = events, w.load })
	r.await("READY=1")
	release := make(chan struct{})
	w.sim.Misbehave(humanapitest.Fault{HoldAnswer: release})
	answered := r.exchanging()
	r.stop()
	r.await("STOPPING=1")
	r.forget()
	events <- struct{}{}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the exchange in flight: %v", err)
	}
	if err := r.finish(); err != nil || r.said("READY=1") || r.said("RELOADING=1") {
		t.Errorf("%v; said was %q", err, r.states)
	}
}

// A reload that hangs (the file is on a disk that is gone) does not keep the
// daemon from stopping, and is not reported as done.
func TestStopDuringReload(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	events, hung := make(chan struct{}, 1), make(chan struct{})
	defer close(hung)
	r := w.start(func(c *Config) {
		c.Reload, c.Load = events, func() (*config.Config, error) { <-hung; return nil, context.Canceled }
	})
	r.await("READY=1")
	r.forget()
	events <- struct{}{}
	r.await("RELOADING=1")
	if err := r.finish(); err != nil || r.said("READY=1") {
		t.Errorf("%v; said was %q", err, r.states)
	}
}
