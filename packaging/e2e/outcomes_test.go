package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// exchangeStatus is what status says about exchanges.
type exchangeStatus struct {
	InFlight, Waiting, Uncertain, Resuming int
	Outcomes                               map[string]uint64
}

func (w *world) exchanges(admin rootCaller) exchangeStatus {
	w.t.Helper()
	var status struct{ Exchanges exchangeStatus }
	must(w.t, json.Unmarshal([]byte(admin.do("GET", "/v1/admin/status", "").body), &status))
	return status.Exchanges
}

// indeterminate is whom the command line lists in that state.
func (w *world) indeterminate() (humans []string) {
	w.t.Helper()
	var list struct{ Users []userBody }
	must(w.t, json.Unmarshal([]byte(w.must("", "users", "list", "--state", "indeterminate", "--app", "shop", "--json")), &list))
	for _, u := range list.Users {
		humans = append(humans, u.HumanID)
	}
	return humans
}

// Each outcome is counted as often as it happened, stands in the audit log, and
// who is in doubt is listed until the next finish event.
func TestOutcomes(t *testing.T) {
	w := quickWorld(t, options{mode: humanapitest.OneTime})
	w.setUpVault()
	w.start()
	w.awaitReady()
	root := w.root("private")
	happened := map[string]uint64{}
	exchange := func(outcome, human, want string, faults ...humanapitest.Fault) {
		t.Helper()
		for _, f := range faults {
			f.HumanID = human
			w.sim.Misbehave(f)
		}
		if got := root.do("POST", tokens, w.finishEvent(human, human+"@example.test").json(), jsonType).short(t); got != want {
			t.Errorf("%s: answered %s, want %s", outcome, got, want)
		}
		w.sim.ClearFaults()
		happened[outcome]++
	}
	doubtful := w.sim.NewHumanID()
	exchange("stored", doubtful, "200")
	for range 2 {
		exchange("stored", w.sim.NewHumanID(), "200")
	}
	for range 3 {
		exchange("refused", w.sim.NewHumanID(), "422 session_refused", humanapitest.Fault{Status: 400})
	}
	exchange("rejected", w.sim.NewHumanID(), "409 user_mismatch", humanapitest.Fault{Kind: humanapitest.WrongUser})
	exchange("unsent", w.sim.NewHumanID(), "503 upstream_unavailable", humanapitest.Fault{Status: 429, Permanent: true})
	exchange("indeterminate", doubtful, "409 indeterminate", humanapitest.Fault{Kind: humanapitest.DropAfter})
	w.overtaken(root, happened)
	if got := w.indeterminate(); !slices.Equal(got, []string{doubtful}) {
		t.Errorf("%d users are listed as indeterminate, want the one", len(got))
	}
	a := root.do("GET", "/v1/users?state=indeterminate&clientId="+shop, "").want(t, 200, "")
	if !strings.Contains(a.body, doubtful) {
		t.Error("the list of the API lacks the user in doubt")
	}
	w.checkOutcomes(happened)

	exchange("stored", doubtful, "200") // the next finish event repairs it
	if got := w.storedOf(doubtful); got != tokensStored {
		t.Errorf("after the next finish event the store has %s", got)
	}
	if got := w.indeterminate(); len(got) != 0 {
		t.Errorf("%d users are still listed", len(got))
	}
	w.checkOutcomes(happened)
	w.stop()
	w.checkAuditOutcomes(happened)
	t.Logf("figure: outcomes counted by status and the audit log as they happened: %v; the one in doubt listed, and repaired by the next finish event", happened)
}

// overtaken: while an exchange pauses after an attempt in doubt, a later one of
// the same user is stored.
func (w *world) overtaken(root rootCaller, happened map[string]uint64) {
	w.t.Helper()
	human := w.sim.NewHumanID()
	w.sim.Misbehave(humanapitest.Fault{HumanID: human, Status: 503, RetryAfter: "2"})
	first := w.finishEvent(human, human+"@example.test")
	earlier := make(chan answer)
	go func() {
		a, _ := root.try("POST", tokens, first.json(), jsonType)
		earlier <- a
	}()
	w.awaitPosts(first, 1)
	w.awaitWaiting(1)
	later := root.do("POST", tokens, w.finishEvent(human, human+"@example.test").json(), jsonType).want(w.t, 200, "")
	if a := <-earlier; a.status != 200 || a.field(w.t, "publicToken") != later.field(w.t, "publicToken") {
		w.t.Errorf("the exchange that was overtaken is answered %d, or with other tokens", a.status)
	}
	happened["stored"]++
	happened["superseded"]++
}

func (w *world) checkOutcomes(want map[string]uint64) {
	w.t.Helper()
	got := w.outcomes()
	maps.DeleteFunc(got, func(_ string, n uint64) bool { return n == 0 })
	if !maps.Equal(got, want) {
		w.t.Errorf("status counts %v, and %v happened", got, want)
	}
}

func (w *world) checkAuditOutcomes(want map[string]uint64) {
	w.t.Helper()
	log, err := os.ReadFile(w.path("log/audit.log"))
	must(w.t, err)
	got := map[string]uint64{}
	for line := range bytes.Lines(log) {
		var e struct{ Kind, Outcome, Route, Grant string }
		must(w.t, json.Unmarshal(line, &e))
		if e.Kind == "outcome" && e.Outcome != "" {
			got[e.Outcome]++
		}
	}
	if !maps.Equal(got, want) {
		w.t.Errorf("the audit log has %v, and %v happened", got, want)
	}
}

// Two users under one clientUserId: nobody is shown the other's tokens until an
// administrator has decided.
func TestUsersPrefer(t *testing.T) {
	w := newWorld(t, options{})
	root, own := w.root("private"), "shared@example.test"
	first, second := w.sim.NewHumanID(), w.sim.NewHumanID()
	for _, human := range []string{first, second} {
		root.do("POST", tokens, w.finishEvent(human, own).json(), jsonType).want(t, 200, "")
	}
	w.lookup(own).want(t, 409, "ambiguous_user")
	if out := w.cli("", "users", "prefer", "--client-user-id", own, "--app", "shop", "--yes", "marker-no-such-human"); out.code == 0 {
		t.Error("somebody who is not stored can be preferred")
	}
	w.lookup(own).want(t, 409, "ambiguous_user")
	for _, human := range []string{second, first} { // and it can be decided again
		out := w.cli("", "users", "prefer", "--client-user-id", own, "--app", "shop", "--yes", human)
		if out.code != 0 || !strings.Contains(out.stderr, first) || !strings.Contains(out.stderr, second) || !strings.Contains(out.stdout, human) {
			t.Fatalf("prefer: exit %d, or it does not show both and the one", out.code)
		}
		access, public := w.sim.Current(shop, human)
		if got := w.lookup(own).want(t, 200, "").publicTokens(t); !slices.Equal(got, []string{public}) {
			t.Error("the lookup does not show the preferred user alone")
		}
		header := cuidHeader + url.PathEscape(own)
		if got := root.do("GET", "/v1/users/-/access-token?clientId="+shop, "", header).want(t, 200, "").field(t, "accessToken"); got != access {
			t.Error("the access token is not the preferred user's")
		}
	}
	// A new finish event of the other one changes nothing of the decision.
	root.do("POST", tokens, w.finishEvent(second, own).json(), jsonType).want(t, 200, "")
	_, public := w.sim.Current(shop, first)
	if got := w.lookup(own).want(t, 200, "").publicTokens(t); !slices.Equal(got, []string{public}) {
		t.Error("another finish event undid the decision")
	}
	start := time.Now()
	w.kill()
	w.start()
	w.awaitReady()
	if got := w.lookup(own).want(t, 200, "").publicTokens(t); !slices.Equal(got, []string{public}) {
		t.Error("the decision is gone after a kill")
	}
	t.Logf("figure: two users under one clientUserId: 409 ambiguous_user until users prefer, then the one, also after kill -9 (back in %v)", time.Since(start).Round(10*time.Millisecond))
}
