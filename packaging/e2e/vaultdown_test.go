package e2e

import (
	"strings"
	"testing"
	"time"
)

// Vault down at start: sockets open, not ready, says why, becomes ready by
// itself. Vault down later: everything goes on, visibly degraded.
func TestVaultDown(t *testing.T) {
	w := prepareWorld(t, options{storage: true})
	w.setUpVault()
	w.vault.Stop()
	w.start()
	h := w.awaitHealth(func(status int, h health) bool {
		return status == 503 && strings.Contains(h.text(), "Vault")
	})
	t.Logf("figure: not ready, and health says: %s", h.text())
	human := w.sim.NewHumanID()
	s := w.finishEvent(human, "down@example.test")
	root := w.root("public")
	if a := root.do("POST", tokens, s.json()).want(t, 503, "starting"); a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if out := w.cli("", "status", "--check"); out.code == 0 {
		t.Error("status --check is content")
	}
	w.vault.Restart()
	w.vault.Unseal()
	back := time.Now()
	w.awaitReady()
	t.Logf("figure: ready %v after Vault came back", time.Since(back).Round(100*time.Millisecond))
	root.do("POST", tokens, s.json()).want(t, 200, "")

	w.vault.Stop()
	h = w.awaitHealth(func(status int, h health) bool { return status == 200 && h.Degraded })
	t.Logf("figure: Vault away, and health says: %s", h.text())
	for range 3 {
		root.do("POST", tokens, w.finishEvent(w.sim.NewHumanID(), "later@example.test").json()).want(t, 200, "")
		root.do("GET", "/v1/users/"+human+"?clientId="+shop, "").want(t, 200, "")
	}
	w.vault.Restart()
	w.vault.Unseal()
	w.awaitHealth(func(status int, h health) bool { return status == 200 && !h.Degraded })
}
