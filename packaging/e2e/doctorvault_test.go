package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// ---- what somebody with rights at Vault did ----

const daemonPolicy = "sys/policies/acl/tokenvault"

func lesserPolicy(d *doctorWorld) func() {
	_, body := d.vault.Do("GET", daemonPolicy, nil)
	var there struct{ Data struct{ Policy string } }
	must(d.t, json.Unmarshal(body, &there))
	less := strings.Replace(there.Data.Policy, "transit/decrypt/tokenvault", "transit/decrypt/another", 1)
	d.vault.Must("POST", daemonPolicy, map[string]any{"policy": less})
	return func() { d.vault.Must("POST", daemonPolicy, map[string]any{"policy": there.Data.Policy}) }
}

func defaultPolicy(d *doctorWorld) func() {
	d.vault.Must("POST", daemonRole, map[string]any{"token_no_default_policy": false})
	return func() { d.vault.Must("POST", daemonRole, map[string]any{"token_no_default_policy": true}) }
}

func unbound(d *doctorWorld) func() {
	d.vault.Must("POST", daemonRole, map[string]any{"token_bound_cidrs": []string{}})
	return func() {
		d.vault.Must("POST", daemonRole, map[string]any{"token_bound_cidrs": []string{"127.0.0.1/32"}})
	}
}

func (d *doctorWorld) putSecret(app, secret string) {
	d.t.Helper()
	d.must(secret+"\n", "secret", "put", "--token-file", d.path("operator-token"), app)
	ask(nil, d.world)
}

func emptyEntry(d *doctorWorld) func() {
	d.vault.Must("POST", "secret/data/tokenvault/apps/"+shop, map[string]any{"data": map[string]string{"other": "marker-other"}})
	return func() { d.putSecret("shop", shopSecret); d.awaitWords(soundHealth) }
}

func noEntry(d *doctorWorld) func() {
	d.vault.Must("DELETE", "secret/metadata/tokenvault/apps/"+club, nil)
	return func() { d.putSecret("club", clubSecret); d.awaitWords(soundHealth) }
}

// wrongSecret: Human API knows the clientSecret no more, and an exchange has found
// that out.
func wrongSecret(d *doctorWorld) func() {
	d.sim.Misbehave(humanapitest.Fault{Status: 401, Permanent: true})
	d.exchange(503)
	return func() {
		d.sim.ClearFaults()
		d.putSecret("shop", shopSecret)
		d.exchange(200)
		d.awaitWords(soundHealth)
	}
}

// notLoaded changes beside the rules what only a restart changes.
func notLoaded(d *doctorWorld) func() {
	back := edited(`unsafe_plain_http = true\n`, "unsafe_plain_http = true\ntimeout = \"6s\"\n")(d)
	if out := d.cli("", "reload"); out.code == 0 {
		d.t.Error("a change of vault.timeout is taken without a restart")
	}
	return func() {
		back()
		d.must("", "reload")
	}
}

// stoppedWell is what ends otherwise while no daemon runs.
var stoppedWell = map[string]string{"daemon": "warn", "sockets": "not checked"}

// leftAlone is every file of the daemon with mode, time and content, and how many
// tokens Vault has.
func (d *doctorWorld) leftAlone() string {
	d.t.Helper()
	var out strings.Builder
	for _, name := range []string{"role-id", "secret-id", "tokenvault.toml", "state/store.db", "log/audit.log", "backups/tokenvault-1.backup"} {
		info, err := os.Stat(d.path(name))
		must(d.t, err)
		b, err := os.ReadFile(d.path(name))
		must(d.t, err)
		fmt.Fprintf(&out, "%s %v %v %x\n", name, info.Mode(), info.ModTime(), sha256.Sum256(b))
	}
	for _, dir := range []string{"", "state", "log", "run/public", "backups"} {
		entries, err := os.ReadDir(d.path(dir))
		must(d.t, err)
		fmt.Fprintln(&out, dir, entries)
	}
	_, body := d.vault.Do("LIST", "auth/token/accessors", nil)
	var list struct{ Data struct{ Keys []string } }
	must(d.t, json.Unmarshal(body, &list))
	fmt.Fprintln(&out, len(list.Data.Keys), "tokens")
	return out.String()
}

// changesNothing: neither on disk nor at Vault.
func (d *doctorWorld) changesNothing(t *testing.T) {
	before := d.leftAlone()
	d.doctor()
	if after := d.leftAlone(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// wrappedStays: a wrapping token is not used up.
func (d *doctorWorld) wrappedStays(t *testing.T) {
	defer edited(`\[vault\.auth\]\n`, "[vault.auth]\nwrapped = true\n")(d)()
	before, err := os.ReadFile(d.path("secret-id"))
	must(t, err)
	token := d.vault.Wrap("POST", daemonRole+"/secret-id", nil, time.Minute)
	d.credential("secret-id", token)
	defer d.credential("secret-id", string(before))
	lines, code := d.doctor()
	if got := lines["Vault login"]; got.State != "not checked" || code != 0 {
		t.Errorf("exit %d, %+v", code, got)
	}
	if !d.vault.Unwraps(token) {
		t.Error("the wrapping token was used up")
	}
}

// TestDoctorStopped plants faults while no daemon runs.
func TestDoctorStopped(t *testing.T) {
	d := newDoctorWorld(t)
	d.stop()
	t.Run("healthy", func(t *testing.T) { d.healthy(t, stoppedWell) })
	t.Run("changes nothing", d.changesNothing)
	t.Run("a wrapped secret id", d.wrappedStays)
	for _, r := range stoppedFaults {
		t.Run(r.name, func(t *testing.T) { d.row(t, r, stoppedWell) })
	}
	t.Run("healthy again", func(t *testing.T) { d.healthy(t, stoppedWell) })
	t.Run("the Transit key is gone", func(t *testing.T) {
		d.row(t, doctorRow{"the Transit key is gone", noTransitKey, "Transit", "fail", "snapshot restore"}, stoppedWell)
	})
}

// TestDoctorRefused: a login that the daemon was refused is not sent once more, which
// would count towards the lockout of its role.
func TestDoctorRefused(t *testing.T) {
	d := newDoctorWorld(t)
	d.stop()
	d.credential("secret-id", "marker-no-secret-id")
	d.start()
	d.awaitWords(refusedHealth)
	var logins atomic.Int32
	d.front.answer(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/login") {
			logins.Add(1)
		}
		d.front.pass.ServeHTTP(w, r)
	})
	lines, code := d.doctor()
	if got := lines["Vault login"]; code != 5 || got.State != "fail" || !strings.HasPrefix(got.Finding, "the daemon: log in to vault") || logins.Load() != 0 {
		t.Errorf("exit %d, %d logins, %+v", code, logins.Load(), got)
	}
	for name, c := range lines {
		if name != "Vault login" && c.State != "not checked" && !well(c, nil) {
			t.Errorf("%s changed, too: %s: %s", name, c.State, c.Finding)
		}
	}
}

var stoppedFaults = []doctorRow{
	{"no role id", func(d *doctorWorld) func() { return d.moved("role-id", "role-id.away") }, "files and modes", "fail", "tokenvault vault setup --apply"},
	{"a role id that all may read", moded("role-id", 0o644, 0o600), "files and modes", "fail", "chmod 0600"},
	{"no directory of the store", func(d *doctorWorld) func() { return d.moved("state", "away") }, "files and modes", "fail", "install -d -m 0700"},
	{"a directory of another user's", owned("state", 0), "files and modes", "fail", "chown 64000"},
	{"a user's row changed", changedRow, "store", "fail", "tokenvault store check"},
	{"a byte of the audit log changed", damaged("log/audit.log"), "audit log", "fail", "tokenvault audit verify --anchor"},
	{"the audit log is gone", func(d *doctorWorld) func() { return d.moved("log/audit.log", "log/away") }, "audit log", "fail", "tokenvault store accept"},
	{"the store is gone", func(d *doctorWorld) func() { return d.moved("state/store.db", "state/away") }, "audit log", "fail", "tokenvault store accept"},
	{"the anchor is gone", noAnchor, "audit log", "fail", "tokenvault store accept"},
	{"an old store", oldStore, "audit log", "fail", "tokenvault store accept"},
}

func changedRow(d *doctorWorld) func() {
	flip := func(_, value []byte) []byte { value[100] ^= 1; return value }
	c := &diskCase{world: d.world}
	c.changeRows(flip)
	return func() { c.changeRows(flip) }
}

func noAnchor(d *doctorWorld) func() {
	d.vault.Must("POST", "secret/delete/"+anchorPath, map[string]any{"versions": []int{d.anchorVersion()}})
	return func() {
		d.vault.Must("POST", "secret/undelete/"+anchorPath, map[string]any{"versions": []int{d.anchorVersion()}})
	}
}

func (d *doctorWorld) anchorVersion() int {
	_, body := d.vault.Do("GET", "secret/metadata/"+anchorPath, nil)
	var about struct {
		Data struct {
			Current int `json:"current_version"`
		}
	}
	must(d.t, json.Unmarshal(body, &about))
	return about.Data.Current
}

// oldStore is a copy from before the last exchange.
func oldStore(d *doctorWorld) func() {
	older, err := os.ReadFile(d.path("state/store.db"))
	must(d.t, err)
	d.start()
	d.awaitReady()
	d.exchange(200)
	d.stop()
	newer, err := os.ReadFile(d.path("state/store.db"))
	must(d.t, err)
	put := func(b []byte) { must(d.t, os.WriteFile(d.path("state/store.db"), b, 0o600)) }
	put(older)
	return func() { put(newer) }
}

func noTransitKey(d *doctorWorld) func() {
	d.vault.Must("POST", "transit/keys/tokenvault/config", map[string]any{"deletion_allowed": true})
	d.vault.Must("DELETE", "transit/keys/tokenvault", nil)
	return nil
}
