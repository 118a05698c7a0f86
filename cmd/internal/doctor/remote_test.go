package doctor

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/vault"
)

// A certificate is spoken of in the last tenth of its life, and of a long one in the
// last two weeks.
func TestCertificateEnds(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		life, left time.Duration
		want       State
	}{
		{time.Hour, 30 * time.Minute, OK}, {time.Hour, 5 * time.Minute, Warn},
		{365 * 24 * time.Hour, 20 * 24 * time.Hour, OK}, {365 * 24 * time.Hour, 10 * 24 * time.Hour, Warn},
	} {
		until := now.Add(c.left)
		e := &exam{
			Config: Config{Now: func() time.Time { return now }}, cfg: &config.Config{Vault: config.Vault{Address: "https://vault.test"}}, probed: true,
			contact: vault.Contact{Dialled: true, Secured: true, Serves: true, Encrypted: true, Since: until.Add(-c.life), Until: until},
		}
		if f := e.vaultTLS(t.Context()); f.State != c.want || c.want == Warn && !strings.Contains(f.Cures[0], "openssl s_client") {
			t.Errorf("%v of %v left: %+v", c.left, c.life, f)
		}
	}
}

// A check that hangs is left out after its time, and the others are made.
func TestLimit(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	defer close(hold)
	w.kernel.pidfd = func() error { <-hold; return nil }
	w.limit = 20 * time.Millisecond
	seen := w.examine()
	if f := seen["kernel"]; f.State != Unknown || !strings.Contains(f.Text, "longer than") {
		t.Errorf("%+v", f)
	}
	if f := seen["space"]; f.State != OK {
		t.Errorf("%+v", f)
	}
}

// Clocks that are apart are spoken of, and beyond a minute a failure.
func TestClocks(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	w := newWorld(t)
	for apart, want := range map[time.Duration]State{0: OK, 4 * time.Second: OK, 20 * time.Second: Warn, -20 * time.Second: Warn, 2 * time.Minute: Fail, -time.Hour: Fail} {
		e := &exam{
			Config: Config{Now: func() time.Time { return now }, kernel: &w.kernel}, cfg: &config.Config{},
			contact: vault.Contact{Clock: now.Add(apart)},
		}
		if f := e.clock(t.Context()); f.State != want {
			t.Errorf("%v apart: %+v", apart, f)
		}
	}
}
