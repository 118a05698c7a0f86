package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAuditFind: what was done for a user, and for a request, is found over closed
// segments by the ids that the operator has, although none of them stands in the log.
func TestAuditFind(t *testing.T) {
	w := prepareWorld(t, options{})
	text, err := os.ReadFile(w.config)
	must(t, err)
	must(t, os.WriteFile(w.config, []byte(strings.Replace(string(text), "[audit]\n", "[audit]\nrotate_size = \"1MiB\"\n", 1)), 0o644))
	w.setUpVault()
	w.start()
	w.awaitReady()
	alice, bob := w.sim.NewHumanID(), w.sim.NewHumanID()
	root := w.root("private")
	defer root.http.CloseIdleConnections()
	exchange := func(human, own string) string {
		return root.do("POST", tokens, w.finishEvent(human, own).json(), jsonType).want(t, 200, "").header.Get("X-Request-Id")
	}
	first := exchange(alice, "alice@example.test")
	exchange(bob, "bob@example.test")
	look := "/v1/users/" + alice + "?clientId=" + shop
	looks := 0
	for segments := 0; segments < 2; looks++ {
		root.do("GET", look, "").want(t, 200, "")
		closed, err := filepath.Glob(w.path("log/audit.log.*"))
		must(t, err)
		segments = len(closed)
	}
	exchange(alice, "alice@example.test")
	find := func(args ...string) (lines []struct{ Kind, RequestID, Route string }) {
		out := w.must("", append([]string{"audit", "find", "--json", "--limit", "10000"}, args...)...)
		var found struct {
			Lines     []struct{ Kind, RequestID, Route string }
			Truncated bool
		}
		must(t, json.Unmarshal([]byte(out), &found))
		if found.Truncated || strings.Contains(out, alice) || strings.Contains(out, "alice@") {
			t.Errorf("%q: the lines are cut, or have an id", args)
		}
		return found.Lines
	}
	want := 4 + looks // attempt and outcome of two exchanges, an outcome of each look
	for _, args := range [][]string{{"--app", "shop", "--human-id", alice}, {"--client-id", shop, "--client-user-id", "alice@example.test"}} {
		got := find(args...)
		// The search before is about the same user, and on record.
		if more := len(got) - want; more < 0 || more > 1 || got[0].RequestID != first {
			t.Errorf("%s: %d lines, want %d", args[2], len(got), want)
		}
	}
	if got := find("--request", first); len(got) != 2 || got[0].Kind != "attempt" || got[1].Kind != "outcome" {
		t.Errorf("of the request: %+v", got)
	}
	if got := find("--app", "shop", "--client-user-id", "bob@example.test"); len(got) != 2 {
		t.Errorf("%d lines of another user, want 2", len(got))
	}
	for _, none := range [][]string{{"--app", "shop", "--client-user-id", "nobody"}, {"--app", "club", "--human-id", alice}, {"--request", fmt.Sprintf("%032x", 7)}} {
		if got := find(none...); len(got) != 0 {
			t.Errorf("%q: %d lines", none, len(got))
		}
	}
	cut := w.cli("", "audit", "find", "--app", "shop", "--human-id", alice, "--limit", "3")
	if cut.code != 0 || strings.Count(cut.stdout, "\n") != 4 || !strings.Contains(cut.stderr, "there are more") {
		t.Errorf("the last 3: exit %d\n%s%s", cut.code, cut.stdout, cut.stderr)
	}
	t.Logf("figure: audit find over 3 segments: %d lines of a user by humanId and by clientUserId, 2 of a request, none of others", want)
}
