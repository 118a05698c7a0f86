package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// While it waits for Vault the rules are swapped, but it is not ready.
func TestReloadWhileStarting(t *testing.T) {
	v := vaulttest.StartStorage(t)
	w := newWorld(t, v)
	v.Stop()
	events := make(chan struct{}, 1)
	r := w.start(func(c *Config) { c.Reload, c.Load = events, w.load })
	r.await("STATUS=Not ready: log in at Vault")
	w.edit(`"lookup", `, "")
	events <- struct{}{}
	r.await("rules reloaded")
	w.edit(`["exchange"`, `["fly", "exchange"`)
	events <- struct{}{}
	r.await("STATUS=Not ready: log in at Vault")
	r.await("the rules on disk were not loaded")
	if r.said("RELOADING=1") || r.said("READY=1") {
		t.Errorf("not ready, and said was %q", r.states)
	}
	v.Restart()
	r.await("READY=1\nSTATUS=Ready, but the rules on disk were not loaded")
	_, err := w.client("public").UserByClientUserID(t.Context(), appID, "nobody")
	if client.CodeOf(err) != api.NotGranted {
		t.Errorf("a grant that was taken away before it was ready: %v", err)
	}
}

// Who revokes a right with a typo in the file must not believe it done: a reload
// that failed shows until one succeeds.
func TestFailedReloadShows(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	events := make(chan struct{}, 1)
	r := w.start(func(c *Config) { c.Reload, c.Load = events, w.load })
	r.await("READY=1")
	w.awaitHealthy()
	w.edit(`"lookup", `, `"look-up", `)
	r.forget()
	events <- struct{}{}
	r.await("READY=1\nSTATUS=Ready, but the rules on disk were not loaded: " + w.path + ":")
	health, err := w.client("public").Health(t.Context())
	const brief = "the rules on disk were not loaded: see tokenvault status"
	if err != nil || !health.Ready || !health.Degraded || len(health.Reasons) != 1 || health.Reasons[0] != brief {
		t.Errorf("health, which everybody may read: %+v, %v", health, err)
	}
	status, err := w.client("admin").AdminStatus(t.Context())
	reasons := strings.Join(status.Health.Reasons, " ")
	if err != nil || !status.Health.Degraded || !strings.Contains(reasons, w.path+":") || !strings.Contains(reasons, "look-up") {
		t.Errorf("status: %+v, %v", status.Health, err)
	}
	w.edit(`"look-up", `, "")
	r.forget()
	events <- struct{}{}
	r.await("READY=1\nSTATUS=Ready")
	if r.said("READY=1\nSTATUS=Ready, but") {
		t.Errorf("said was %q", r.states)
	}
	if health, err := w.client("public").Health(t.Context()); err != nil || health.Degraded || len(health.Reasons) != 0 {
		t.Errorf("health after a good reload: %+v, %v", health, err)
	}
}

// awaitHealthy waits for what goes on after READY, as the first look at a clientSecret does.
func (w *world) awaitHealthy() {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		health, err := w.client("public").Health(w.t.Context())
		if err == nil && health.Ready && !health.Degraded {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("not healthy: %+v, %v", health, err)
		}
	}
}
