package e2e

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// vaultGroups are rows that share a Vault and a daemon.
var vaultGroups = []struct {
	name string
	run  func(t *testing.T)
}{
	// Those that wait for real time go first.
	{"max TTL, token", maxTTLOfToken},
	{"max TTL, AppRole", maxTTLOfAppRole},
	{"expired", expiredToken},
	{"kill switch", killSwitch},
	{"front", behindFront},
	{"away", away},
	{"withdrawn", withdrawn},
	{"keys", transitKeys},
	{"AppRole", appRole},
	{"wrapped", wrapped},
	{"TLS", overTLS},
	{"certificate", certificateLogin},
	{"JWT", jwtLogin},
	{"Kubernetes", kubernetesLogin},
	{"clocks", clocks},
}

// atOnce is how many groups run beside one another: most of them wait.
const atOnce = 6

// Vault in its moods, the real server and the real daemon: what a caller, the store
// and health make of each, and how it ends. Each user's one session token is
// good once, so that the exchange that succeeds afterwards shows that it was not
// spent before.
func TestVaultFaults(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, g := range vaultGroups {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			t.Run(g.name, g.run)
		})
	}
	all.Wait()
}

func (w *world) vaultRows(t *testing.T, rows []vaultRow) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { w.vaultRow(t, r) })
	}
	w.toldNoSecret(t)
}

// toldNoSecret reads what the daemon has logged.
func (w *world) toldNoSecret(t *testing.T) {
	log := w.read("daemon.log")
	for _, marker := range []string{shopSecret, clubSecret, "hvs."} {
		if strings.Contains(log, marker) {
			t.Error("the daemon's log holds a secret")
		}
	}
}

func row(name, answer, outcome, stored, health string) faultRow {
	return faultRow{name, answer, outcome, stored, health}
}

// nothingHappens is a condition that nobody notices.
func nothingHappens(name string) faultRow {
	return row(name, "200", "stored", tokensStored, soundHealth)
}

func away(t *testing.T) {
	w := prepareWorld(t, options{storage: true})
	w.setUpVault()
	restart := func(_ *testing.T, w *world) { w.vault.Restart() }
	unseal := func(_ *testing.T, w *world) { w.vault.Unseal() }
	w.vaultRows(t, []vaultRow{
		{
			faultRow: row("unreachable at start", "503 starting", noOutcome, nothingStored, downHealth), then: byItself, end: restart,
			begin: func(_ *testing.T, w *world) { w.vault.Stop(); w.start() },
		},
		{
			faultRow: row("sealed at start", "503 starting", noOutcome, nothingStored, downHealth), then: byItself, end: unseal,
			begin: func(_ *testing.T, w *world) { w.stop(); w.vault.Seal(); w.start() },
		},
		{
			faultRow: row("unreachable later", "200", "stored", tokensStored, awayHealth), then: byItself, end: restart,
			begin: func(t *testing.T, w *world) { w.vault.Stop(); ask(t, w) },
		},
		{
			faultRow: row("sealed later", "200", "stored", tokensStored, awayHealth), then: byItself, end: unseal,
			begin: func(t *testing.T, w *world) { w.vault.Seal(); ask(t, w) },
		},
		{
			faultRow: row("hanging later (SIGSTOP)", "200", "stored", tokensStored, awayHealth), then: byItself,
			begin: func(t *testing.T, w *world) { w.vault.Pause(); ask(t, w) },
			end:   func(_ *testing.T, w *world) { w.vault.Resume() },
		},
		{
			faultRow: nothingHappens("restarted"), then: "nobody notices",
			begin: func(t *testing.T, w *world) { w.vault.Restart(); ask(t, w) },
		},
	})
}

// behindFront: what stands before Vault, or Vault by its status, says something
// that is no word of Vault's.
func behindFront(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	f := newFront(w, nil)
	w.start()
	w.awaitReady()
	const page = "<!DOCTYPE html><title>marker-page</title>"
	rows := []vaultRow{{
		faultRow: nothingHappens("slow: each answer takes 2 s"), then: byItself,
		begin: func(t *testing.T, w *world) { f.answer(f.slow(2 * time.Second)); ask(t, w) },
		end:   func(*testing.T, *world) { f.answer(nil) },
	}}
	for name, h := range map[string]http.HandlerFunc{
		"slower than vault.timeout":              f.slow(time.Minute),
		"standby, which redirects":               frontSays(307, "text/plain", "", "Location: http://127.0.0.1:1/v1/sys/health"),
		"standby (473)":                          frontSays(473, "application/json", `{"errors":["Vault is in standby mode"]}`),
		"412: the node lags behind":              frontSays(412, "application/json", `{"errors":["required index state not present"]}`),
		"429":                                    frontSays(429, "application/json", `{"errors":["request path: rate limit quota exceeded"]}`, "Retry-After: 1"),
		"500":                                    frontSays(500, "application/json", `{"errors":["internal error"]}`),
		"a web page instead of Vault":            frontSays(200, "text/html", page),
		"a proxy's own 403":                      frontSays(403, "text/html", page),
		"a proxy's own 404":                      frontSays(404, "text/html", page),
		"a connection that ends in the answer":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a load balancer without a server (503)": frontSays(503, "text/html", page),
	} {
		rows = append(rows, vaultRow{
			faultRow: row(name, "200", "stored", tokensStored, awayHealth), then: byItself,
			begin: func(t *testing.T, w *world) { f.answer(h); ask(t, w) },
			end:   func(*testing.T, *world) { f.answer(nil) },
		})
	}
	w.vaultRows(t, rows)
}

// overTLS: Vault's certificate.
func overTLS(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	authority, other := vaulttest.NewAuthority(t), vaulttest.NewAuthority(t)
	right, wrong, elsewhere := authority.Server("vault.test"), other.Server("vault.test"), authority.Server("other.test")
	f := newFront(w, &right)
	mend := func(t *testing.T, _ *world) { f.present(t, right) }
	says := func(words string) func(t *testing.T, w *world) {
		return func(t *testing.T, w *world) {
			if status := w.must("", "status"); !strings.Contains(status, words) {
				t.Errorf("the status does not say %q:\n%s", words, status)
			}
		}
	}
	w.vaultRows(t, []vaultRow{
		{
			faultRow: row("certificate not trusted, at start", "503 starting", noOutcome, nothingStored, downHealth), then: byItself, end: mend,
			begin: func(t *testing.T, w *world) { f.present(t, wrong); w.start() },
			also:  says("signed by no authority that ca_file"),
		},
		{
			faultRow: row("certificate not trusted, later", "200", "stored", tokensStored, awayHealth), then: byItself, end: mend,
			begin: func(t *testing.T, w *world) { f.present(t, wrong); ask(t, w) },
			also:  says("signed by no authority that ca_file"),
		},
		{
			faultRow: row("certificate of another name, later", "200", "stored", tokensStored, awayHealth), then: byItself, end: mend,
			begin: func(t *testing.T, w *world) { f.present(t, elsewhere); ask(t, w) },
			also:  says("for another name"),
		},
	})
}

// clocks: nothing that the daemon believes depends on whose clock is right.
func clocks(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.withClock()
	begin := func(ahead time.Duration) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			w.clock(ahead)
			w.start()
			w.awaitReady()
			ask(t, w)
		}
	}
	restart := func(_ *testing.T, w *world) { w.clock(0); w.again(); w.awaitReady() }
	w.vaultRows(t, []vaultRow{
		{faultRow: nothingHappens("the daemon's clock is an hour ahead"), then: "nobody notices, nor when it is put right", begin: begin(time.Hour), end: restart},
		{
			faultRow: nothingHappens("the daemon's clock is an hour behind"), then: "nobody notices, nor when it is put right",
			begin: func(t *testing.T, w *world) { w.stop(); begin(-time.Hour)(t, w) }, end: restart,
		},
		{
			faultRow: nothingHappens("the clock jumps back by half an hour"), then: "nobody notices, nor when it jumps forth",
			begin: func(t *testing.T, w *world) { w.clock(-30 * time.Minute); ask(t, w) },
			end:   func(t *testing.T, w *world) { w.clock(0); ask(t, w) },
		},
	})
}
