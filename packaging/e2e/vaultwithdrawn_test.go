package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

const (
	shopPath = "tokenvault/apps/" + shop
	later    = 5*time.Minute + time.Second // what Vault denies is believed for five minutes
)

// withdrawn: Vault says no to one thing, or has another one.
func withdrawn(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.withClock()
	w.start()
	w.awaitReady()
	noSecret := func(name string) faultRow {
		return row(name, "503 secret_unavailable", "unsent", nothingStored, secretsHealth)
	}
	put := func(_ *testing.T, w *world) { w.putSecret(shopSecret) }
	w.vaultRows(t, []vaultRow{
		{
			faultRow: noSecret("policy narrowed: no read of the clientSecrets"), then: "by itself, at most five minutes after the policy is right",
			begin: func(t *testing.T, w *world) { w.policy("secret/data/tokenvault/apps"); ask(t, w) },
			end:   func(t *testing.T, w *world) { w.policy(""); w.clock(later); ask(t, w) },
		},
		{
			faultRow: noSecret("secret deleted"), then: "by itself with a new version", end: put,
			begin: func(t *testing.T, w *world) { w.vault.Must("DELETE", "secret/data/"+shopPath, nil); ask(t, w) },
		},
		{
			faultRow: noSecret("version destroyed"), then: "by itself with a new version", end: put,
			begin: func(t *testing.T, w *world) {
				w.vault.Must("PUT", "secret/destroy/"+shopPath, map[string]any{"versions": []int{w.latestSecret()}})
				ask(t, w)
			},
		},
		{
			faultRow: noSecret("secret deleted with all its versions"), then: "by itself with a new one", end: put,
			begin: func(t *testing.T, w *world) { w.vault.Must("DELETE", "secret/metadata/"+shopPath, nil); ask(t, w) },
		},
		{
			faultRow: noSecret("KV mount moved"), then: "by itself when it is back (else kv_mount and a restart)",
			begin: func(t *testing.T, w *world) { w.clock(2 * later); w.remount("secret", "moved"); ask(t, w) },
			end:   func(t *testing.T, w *world) { w.remount("moved", "secret"); ask(t, w) },
		},
		{
			faultRow: nothingHappens("clientSecret rotated"), then: "read on Human API's 401, without a restart",
			begin: func(_ *testing.T, w *world) {
				const next = "marker-client-secret-of-the-shop-2"
				w.putSecret(next)
				w.sim.RotateSecret(shop, next)
			},
		},
	})
}

func (w *world) latestSecret() int {
	w.t.Helper()
	n, ok := w.vault.Must("GET", "secret/metadata/"+shopPath, nil)["current_version"].(float64)
	if !ok {
		w.t.Fatal("the secret has no version")
	}
	return int(n)
}

// remount moves a mount, and waits until Vault has.
func (w *world) remount(from, to string) {
	w.t.Helper()
	id, _ := w.vault.Must("POST", "sys/remount", map[string]any{"from": from, "to": to})["migration_id"].(string)
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) { // nobody tells
		_, body := w.vault.Do("GET", "sys/remount/status/"+id, nil)
		var move struct {
			Data struct {
				Info struct{ Status string } `json:"migration_info"`
			}
		}
		must(w.t, json.Unmarshal(body, &move))
		switch {
		case move.Data.Info.Status == "success":
			return
		case move.Data.Info.Status == "failure" || time.Now().After(limit):
			w.t.Fatalf("moving the mount: %q", move.Data.Info.Status)
		}
	}
}

const transitKey = "transit/keys/tokenvault"

// transitKeys: the key that wraps the store's keys.
func transitKeys(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	rotate := func() { w.vault.Must("POST", transitKey+"/rotate", nil) }
	oldest := func(version int) {
		w.vault.Must("POST", transitKey+"/config", map[string]any{"min_decryption_version": version})
	}
	restarts := func(_ *testing.T, w *world) { w.again(); w.awaitReady() }
	w.vaultRows(t, []vaultRow{
		{
			faultRow: row("policy narrowed: no transit/decrypt", "200", "stored", tokensStored, "ready, degraded: Vault denies the daemon something that it needs"), then: "by itself with the right policy",
			begin: func(_ *testing.T, w *world) { w.start(); w.awaitReady(); w.policy("transit/decrypt") },
			end:   func(_ *testing.T, w *world) { w.policy("") },
		},
		{
			faultRow: row("policy narrowed: no transit/decrypt, and the daemon restarts", "503 starting", noOutcome, nothingStored, refusedHealth), then: "by itself with the right policy",
			begin: func(_ *testing.T, w *world) { w.stop(); w.policy("transit/decrypt"); w.start() },
			end:   func(_ *testing.T, w *world) { w.policy("") },
		},
		{
			faultRow: nothingHappens("Transit key rotated"), then: "nobody notices, a restart neither",
			begin: func(t *testing.T, w *world) { rotate(); ask(t, w) }, end: restarts,
		},
		{
			faultRow: nothingHappens("min_decryption_version raised, the keys in memory"), then: "wrapped anew within 15 minutes, and a restart works",
			begin: func(_ *testing.T, w *world) {
				w.again()
				w.awaitReady()
				rotate()
				oldest(2)
				w.awaitLog("keys that Vault opens no longer were wrapped anew", 1)
			},
			end: restarts,
		},
		{
			faultRow: row("min_decryption_version raised while the daemon was down", "503 starting", noOutcome, nothingStored, "not ready: Vault lacks something that the daemon needs"),
			then:     "by itself when it is lowered again",
			begin:    func(_ *testing.T, w *world) { w.stop(); rotate(); rotate(); oldest(4); w.start() },
			also: func(t *testing.T, w *world) {
				if status := w.must("", "status"); !strings.Contains(status, "no longer opens") {
					t.Errorf("the status does not say why:\n%s", status)
				}
			},
			end: func(*testing.T, *world) { oldest(2) },
		},
	})
}
