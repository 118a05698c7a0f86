package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// The fault table. Each row is one condition of a real part, and says what a
// caller, the store and health make of it; packaging/doc/reliability.md has each, or
// the test fails.
//
//	condition | status and code | outcome | what is stored | what health says
type faultRow struct{ name, answer, outcome, stored, health string }

func (r faultRow) print(t testing.TB, group string) {
	t.Helper()
	t.Log("figure: " + r.line(group))
	r.documented(t, group)
}

func (r faultRow) line(group string) string {
	return fmt.Sprintf("| %s: %s | %s | %s | %s | %s |", group, r.name, r.answer, r.outcome, r.stored, r.health)
}

// differs says how what was seen is not what the row promises.
func (r faultRow) differs(seen faultRow) (out []string) {
	for _, f := range [][3]string{
		{"answer", r.answer, seen.answer}, {"outcome", r.outcome, seen.outcome},
		{"stored", r.stored, seen.stored}, {"health", r.health, seen.health},
	} {
		if f[1] != f[2] {
			out = append(out, fmt.Sprintf("%s: want %q, seen %q", f[0], f[1], f[2]))
		}
	}
	return out
}

const (
	nothingStored = "nothing"
	tokensStored  = "the tokens"
	doubtStored   = "the user, indeterminate, with a fresh publicToken"
	soundHealth   = "ready"
)

// humanAPIFaults are asked of a Human API whose session tokens are good once.
// Each fault is one user's alone.
var humanAPIFaults = []struct {
	faultRow
	faults []humanapitest.Fault
	again  string // the answer to the same request once the fault is over; "": not asked
}{
	{faultRow{"right answer", "200", "stored", tokensStored, soundHealth}, nil, "200"},
	{faultRow{"answer without clientId", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.MissingField, Field: "clientId"}), "200"},
	{faultRow{"slow answer", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{DelayAnswer: 500 * time.Millisecond}), "200"},
	{faultRow{"no answer in time, once, without effect", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Delay: 5 * time.Second, NoEffect: true}), "200"},
	{faultRow{"no answer in time, with effect", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{DelayAnswer: 5 * time.Second}), "409 indeterminate"},
	{faultRow{"connection closed before the effect, once", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.DropBefore}), "200"},
	{faultRow{"connection closed after the effect", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.DropAfter}), "409 indeterminate"},
	{faultRow{"500, once, without effect", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Status: 500}), "200"},
	{faultRow{"500 with effect", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Status: 500, TakesEffect: true}), "409 indeterminate"},
	{faultRow{"503 with Retry-After: 1, once", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Status: 503, RetryAfter: "1"}), "200"},
	{faultRow{"503, without end", "504 exchange_pending", "indeterminate", doubtStored, soundHealth}, always(humanapitest.Fault{Path: tokens, Status: 503}), "409 indeterminate"},
	{faultRow{"429 with Retry-After: 1, once", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Status: 429, RetryAfter: "1"}), "200"},
	{faultRow{"429, without end", "503 upstream_unavailable", "unsent", nothingStored, soundHealth}, always(humanapitest.Fault{Status: 429}), "200"},
	{faultRow{"400", "422 session_refused", "refused", nothingStored, soundHealth}, once(humanapitest.Fault{Status: 400}), "422 session_refused"},
	{faultRow{"404", "422 session_refused", "refused", nothingStored, soundHealth}, once(humanapitest.Fault{Status: 404}), "422 session_refused"},
	{faultRow{"408", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Status: 408}), "200"},
	{faultRow{"redirect", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.Redirect}), "200"},
	{faultRow{"empty answer", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.Empty}), "409 indeterminate"},
	{faultRow{"a web page", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.HTML}), "409 indeterminate"},
	{faultRow{"broken JSON", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.NotJSON}), "409 indeterminate"},
	{faultRow{"an answer cut short", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.Truncated}), "409 indeterminate"},
	{faultRow{"a head cut short", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.CutHead}), "409 indeterminate"},
	{faultRow{"no HTTP", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.NoHTTP}), "409 indeterminate"},
	{faultRow{"1 MiB of answer", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.Huge}), "409 indeterminate"},
	{faultRow{"an answer without end", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.Endless}), "409 indeterminate"},
	{faultRow{"1 MiB of header", "409 indeterminate", "indeterminate", doubtStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.BigHeader}), "409 indeterminate"},
	{faultRow{"bytes after the answer", "200", "stored", tokensStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.Surplus}), "200"},
	{faultRow{"another humanId", "409 user_mismatch", "rejected", nothingStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.WrongUser}), "409 user_mismatch"},
	{faultRow{"another clientId", "502 upstream_invalid", "rejected", nothingStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.WrongClient}), "502 upstream_invalid"},
	{faultRow{"no accessToken", "502 upstream_invalid", "rejected", nothingStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.MissingField, Field: "accessToken"}), "502 upstream_invalid"},
	{faultRow{"a publicToken that is a number", "502 upstream_invalid", "rejected", nothingStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.WrongType, Field: "publicToken"}), "502 upstream_invalid"},
	{faultRow{"two accessTokens", "502 upstream_invalid", "rejected", nothingStored, soundHealth}, once(humanapitest.Fault{Kind: humanapitest.DoubleField, Field: "accessToken"}), "502 upstream_invalid"},
	{faultRow{"401, without end", "503 secret_unavailable", "refused", nothingStored, "ready, degraded: the clientSecret of an app is not available or not fresh"}, always(humanapitest.Fault{Status: 401}), "200"},
}

func once(f humanapitest.Fault) []humanapitest.Fault { return []humanapitest.Fault{f} }

func always(f humanapitest.Fault) []humanapitest.Fault { f.Permanent = true; return once(f) }

// quickWorld has a Human API that is given up early.
func quickWorld(t *testing.T, o options) *world {
	w := prepareWorld(t, o)
	toml, err := os.ReadFile(w.config)
	must(t, err)
	text := strings.Replace(string(toml), "[humanapi]\n", "[humanapi]\ntimeout = \"1s\"\n", 1)
	must(t, os.WriteFile(w.config, []byte(text+"\n[exchange]\ndeadline = \"3s\"\ngive_up = \"6s\"\n"), 0o644))
	return w
}

func TestHumanAPIFaults(t *testing.T) {
	w := quickWorld(t, options{mode: humanapitest.OneTime})
	w.setUpVault()
	w.start()
	w.awaitReady()
	for _, row := range humanAPIFaults {
		t.Run(row.name, func(t *testing.T) {
			human := w.sim.NewHumanID()
			s := w.finishEvent(human, human+"@example.test")
			for _, f := range row.faults {
				f.HumanID = human
				w.sim.Misbehave(f)
			}
			seen := w.exchangeRow(s, row.outcome)
			for _, d := range row.differs(seen) {
				t.Error(d)
			}
			w.sim.ClearFaults()
			if row.again != "" {
				if again := w.root("public").do("POST", tokens, s.json()).short(t); again != row.again {
					t.Errorf("the same request afterwards: want %q, seen %q", row.again, again)
				}
			}
			// Nobody else is affected, and what is counted in a row is broken here.
			w.root("public").do("POST", tokens, w.finishEvent(w.sim.NewHumanID(), "other@example.test").json()).want(t, 200, "")
			row.print(t, "Human API")
		})
	}
	t.Run("down", func(t *testing.T) {
		w.sim.Close()
		human := w.sim.NewHumanID()
		row := faultRow{"down", "503 upstream_unavailable", "unsent", nothingStored, soundHealth}
		for _, d := range row.differs(w.exchangeRow(sto{shop, human, "marker-session"}, row.outcome)) {
			t.Error(d)
		}
		row.print(t, "Human API")
	})
}

// short is status and code.
func (a answer) short(t testing.TB) string {
	if a.status == 200 {
		return "200"
	}
	return fmt.Sprintf("%d %s", a.status, a.field(t, "error"))
}

// exchangeRow exchanges, waits until the exchange has the outcome that is
// expected (or any, for a while), and looks at what is there.
func (w *world) exchangeRow(s sto, outcome string) (seen faultRow) {
	before := w.outcomes()
	root := w.root("public")
	defer root.http.CloseIdleConnections()
	seen.answer = root.do("POST", tokens, s.json()).short(w.t)
	seen.health = w.healthText()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // nobody tells
		for name, n := range w.outcomes() {
			if n > before[name] {
				seen.outcome = name
			}
		}
		if seen.stored = w.storedOf(s.humanID); seen.outcome == outcome && (outcome != "indeterminate" || seen.stored == doubtStored) || time.Now().After(limit) {
			return seen
		}
	}
}

func (w *world) outcomes() map[string]uint64 {
	var status struct {
		Exchanges struct{ Outcomes map[string]uint64 }
	}
	admin := w.root("admin")
	defer admin.http.CloseIdleConnections()
	must(w.t, json.Unmarshal([]byte(admin.do("GET", "/v1/admin/status", "").body), &status))
	return status.Exchanges.Outcomes
}

// storedOf says what the store has of a user, in the words of the table.
func (w *world) storedOf(human string) string {
	root := w.root("private")
	defer root.http.CloseIdleConnections()
	a := root.do("GET", "/v1/users/"+human+"?clientId="+shop, "")
	if a.status != 200 {
		return nothingStored
	}
	var u userBody
	must(w.t, json.Unmarshal([]byte(a.body), &u))
	access, public := w.sim.Current(shop, human)
	var held struct{ AccessToken string }
	must(w.t, json.Unmarshal([]byte(root.do("GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").body), &held))
	switch {
	case u.State == "active" && u.PublicToken == public && held.AccessToken == access:
		return tokensStored
	case u.State == "indeterminate" && u.PublicToken == public && held.AccessToken == "":
		return doubtStored
	}
	return fmt.Sprintf("something else: state %s, publicToken right: %v, accessToken right: %v", u.State, u.PublicToken == public, held.AccessToken == access)
}

// healthText is what everybody may read.
func (w *world) healthText() string {
	root := w.root("public")
	defer root.http.CloseIdleConnections()
	var h health
	must(w.t, json.Unmarshal([]byte(root.do("GET", "/v1/health", "").body), &h))
	return h.words()
}

func (h health) words() string {
	text := "not ready"
	if h.Ready {
		text = "ready"
	}
	if h.Degraded {
		text += ", degraded"
	}
	if len(h.Reasons) > 0 {
		text += ": " + h.text()
	}
	return text
}
