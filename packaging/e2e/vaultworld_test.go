package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What a row of the table about Vault says beside the words of faults_test.go.
const (
	noOutcome = "none"

	awayHealth    = "ready, degraded: Vault cannot be reached; the clientSecret of an app is not available or not fresh"
	deniedHealth  = "ready, degraded: Vault denies the daemon something that it needs; the clientSecret of an app is not available or not fresh; private keys are not in memory"
	secretsHealth = "ready, degraded: the clientSecret of an app is not available or not fresh"
	downHealth    = "not ready: Vault cannot be reached"
	refusedHealth = "not ready: Vault denies the daemon something that it needs"

	byItself = "by itself"
)

// vaultRow is a row about Vault. It brings its condition about in a world whose
// Vault and daemon are well, and ends it.
type vaultRow struct {
	faultRow
	then  string // how all is well again; "": it stays as it is
	begin func(t *testing.T, w *world)
	end   func(t *testing.T, w *world) // nil: nothing is to be ended
	also  func(t *testing.T, w *world) // looks closer at the condition; nil: nothing more
}

// mendsWithin is how long a daemon on a busy machine may take to be well again.
const mendsWithin = 45 * time.Second

func (w *world) vaultRow(t *testing.T, r vaultRow) {
	group := w.t
	w.t, w.life = t, group // the daemon outlives the row
	defer func() { w.t = group }()
	human := w.sim.NewHumanID()
	s := w.finishEvent(human, human+"@example.test")
	r.begin(t, w)
	w.awaitWords(r.health)
	seen := w.exchangeRow(s, r.outcomeName())
	if seen.outcome == "" {
		seen.outcome = noOutcome
	}
	seen.health = w.healthText()
	for _, d := range r.differs(seen) {
		t.Error(d)
	}
	if r.also != nil {
		r.also(t, w)
	}
	then := r.then
	if r.end != nil {
		r.end(t, w)
		took := w.mended(s)
		then = fmt.Sprintf("%s (%.1f s)", r.then, took.Seconds())
	}
	if stored := w.storedOf(human); stored != tokensStored {
		t.Errorf("in the end there is stored: %s", stored)
	}
	t.Logf("figure: | Vault: %s | %s | %s | %s | %s | %s |", r.name, r.answer, r.outcome, r.stored, r.health, then)
	r.documented(t, "Vault")
}

func (r vaultRow) outcomeName() string {
	if r.outcome == noOutcome {
		return ""
	}
	return r.outcome
}

// mended waits until the request that was sent during the condition is answered
// with success, and health is content again.
func (w *world) mended(s sto) time.Duration {
	w.t.Helper()
	since := time.Now()
	root := w.root("public")
	defer root.http.CloseIdleConnections()
	last := ""
	for limit := since.Add(mendsWithin); ; time.Sleep(50 * time.Millisecond) { // nobody tells
		if last = root.do("POST", tokens, s.json()).short(w.t); last == "200" {
			break
		}
		if time.Now().After(limit) {
			w.t.Fatalf("not mended within %v: %s; health %s\n%s", mendsWithin, last, w.healthText(), w.logTail())
		}
	}
	w.awaitWords(soundHealth)
	return time.Since(since)
}

// awaitWords waits until health is in these words.
func (w *world) awaitWords(words string) {
	w.t.Helper()
	w.awaitHealth(func(_ int, h health) bool { return h.words() == words })
}

// ask makes the daemon ask Vault for every clientSecret now, as an operator can: it
// would do so by itself within a minute.
func ask(_ *testing.T, w *world) {
	admin := w.root("admin")
	defer admin.http.CloseIdleConnections()
	admin.do("POST", "/v1/admin/secrets/check", "")
}

// again stops the daemon and starts it.
func (w *world) again() {
	w.t.Helper()
	w.stop()
	w.start()
}

// edit changes the configuration.
func (w *world) edit(pattern, by string) {
	w.t.Helper()
	toml, err := os.ReadFile(w.config)
	must(w.t, err)
	re := regexp.MustCompile(pattern)
	if !re.Match(toml) {
		w.t.Fatalf("the configuration has no %s", pattern)
	}
	must(w.t, os.WriteFile(w.config, re.ReplaceAllLiteral(toml, []byte(by)), 0o644))
}

// loginBy replaces what [vault.auth] says.
func (w *world) loginBy(lines ...string) {
	w.t.Helper()
	w.edit(`(?s)\[vault\.auth\]\n.*?\n\[humanapi\]`, "[vault.auth]\n"+strings.Join(lines, "\n")+"\n[humanapi]")
}

// vaultSetting adds a line to [vault].
func (w *world) vaultSetting(line string) {
	w.t.Helper()
	w.edit(`unsafe_plain_http = true\n\[vault\.auth\]`, "unsafe_plain_http = true\n"+line+"\n[vault.auth]")
}

// credential writes a file that only the daemon can read, whole at once.
func (w *world) credential(name, content string) {
	w.t.Helper()
	w.write(name+".new", content, daemonUID, 0o600)
	must(w.t, os.Rename(w.path(name+".new"), w.path(name)))
}

// withClock makes the daemon one whose clock can be set.
func (w *world) withClock() {
	w.t.Helper()
	at, err := switched()
	must(w.t, err)
	w.binary, w.env = at, []string{"TOKENVAULT_TEST_CLOCK=" + w.path("clock")}
}

// clock sets how far the daemon's clock is ahead.
func (w *world) clock(ahead time.Duration) {
	w.t.Helper()
	w.write("clock.new", ahead.String(), 0, 0o644)
	must(w.t, os.Rename(w.path("clock.new"), w.path("clock")))
}

func (w *world) ahead() time.Duration {
	w.t.Helper()
	text, err := os.ReadFile(w.path("clock"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	must(w.t, err)
	d, err := time.ParseDuration(string(text))
	must(w.t, err)
	return d
}

// ---- what an operator does at Vault ----

const daemonRole = "auth/approle/role/tokenvault"

// revokeTokens revokes every token that carries the daemon's policy.
func (w *world) revokeTokens() {
	w.t.Helper()
	_, body := w.vault.Do("LIST", "auth/token/accessors", nil)
	var list struct{ Data struct{ Keys []string } }
	must(w.t, json.Unmarshal(body, &list))
	revoked := 0
	for _, accessor := range list.Data.Keys {
		name := map[string]string{"accessor": accessor}
		status, body := w.vault.Do("POST", "auth/token/lookup-accessor", name)
		var about struct{ Data struct{ Policies []string } }
		if status != 200 || json.Unmarshal(body, &about) != nil || strings.Join(about.Data.Policies, " ") != "tokenvault" {
			continue
		}
		w.vault.Must("POST", "auth/token/revoke-accessor", name)
		revoked++
	}
	if revoked == 0 {
		w.t.Fatal("the daemon has no token to be revoked")
	}
}

// token makes one for the daemon.
func (w *world) token(fields map[string]any) string {
	w.t.Helper()
	all := map[string]any{"policies": []string{"tokenvault"}, "no_default_policy": true, "no_parent": true}
	for name, value := range fields {
		all[name] = value
	}
	token, ok := w.vault.Must("POST", "auth/token/create", all)["client_token"].(string)
	if !ok {
		w.t.Fatal("vault makes no token")
	}
	return token
}

// newSecretID makes one and puts it into the daemon's file.
func (w *world) newSecretID() {
	w.t.Helper()
	id, ok := w.vault.Must("POST", daemonRole+"/secret-id", nil)["secret_id"].(string)
	if !ok {
		w.t.Fatal("vault makes no secret id")
	}
	w.credential("secret-id", id)
}

// policy writes the daemon's policy, without the lines about a path.
func (w *world) policy(without string) {
	w.t.Helper()
	text := w.must("", "vault", "policy", "--format", "hcl")
	if without != "" {
		full := text
		text = strings.ReplaceAll(full, `path "`+without, `path "no-such-mount/`+without)
		if text == full {
			w.t.Fatalf("the policy has no line about %s", without)
		}
	}
	w.vault.Must("PUT", "sys/policies/acl/tokenvault", map[string]any{"policy": text})
}

// putSecret puts a clientSecret of the shop into Vault.
func (w *world) putSecret(text string) {
	w.t.Helper()
	w.must(text+"\n", "secret", "put", "--token-file", w.path("operator-token"), "shop")
}

// read is a file of the world's.
func (w *world) read(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(w.path(name))
	must(w.t, err)
	return string(b)
}
