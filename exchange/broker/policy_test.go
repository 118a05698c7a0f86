package broker

import (
	"slices"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Whatever an attempt can meet, in whatever stage, one rule decides.
func TestPolicyIsComplete(t *testing.T) {
	for _, met := range []exchange.Class{exchange.NotSent, exchange.Unknown, exchange.TryLater, exchange.Unauthorized,
		exchange.Refused, exchange.Invalid, exchange.Unreadable, noSecret, notReady} {
		for s := range stages {
			n := 0
			for _, r := range policy {
				if r.met == met && slices.Contains(r.stages, s) {
					n++
				}
			}
			if want := 1; n != want && (met != notReady || s != fetching) { // fetching needs no keys
				t.Errorf("%d rules for %q in stage %q", n, met, stageNames[s])
			}
		}
	}
	if r := ruleFor("a class of tomorrow", first); !r.doubt || !r.retry {
		t.Error("what is not known is not taken as in doubt")
	}
}

// What may have taken effect never ends as if it had not, and nothing but that
// is called in doubt.
func TestPolicyIsSound(t *testing.T) {
	for _, r := range policy {
		inDoubt := r.stages[0] == uncertain
		switch {
		case r.retry && r.outcome != "":
			t.Errorf("%q is tried again and final", r.met)
		case inDoubt && (r.outcome == user.Refused || r.outcome == user.Unsent || r.unspent):
			t.Errorf("in doubt, %q ends as %s", r.met, r.outcome)
		case r.unspent && r.outcome != user.Unsent && r.outcome != user.Refused:
			t.Errorf("%q leaves the session token good and ends as %s", r.met, r.outcome)
		case r.doubt != (r.met == exchange.Unknown && r.retry):
			t.Errorf("%q puts in doubt: %v", r.met, r.doubt)
		}
	}
	for s := range fetching {
		if limits[s].long != (limits[s].outcome == user.IndeterminateOutcome) || limits[s].long != slices.Contains(doubted, s) {
			t.Errorf("the limit of stage %q is not that of its doubt", stageNames[s])
		}
	}
}

// The table as the documentation shows it.
func TestPolicyTable(t *testing.T) {
	rows := Policy()
	if len(rows) != len(policy) {
		t.Fatalf("%d rows for %d rules", len(rows), len(policy))
	}
	var out strings.Builder
	out.WriteString("| met | stage | then | until | pause | outcome | error | origin |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		cells := []string{r.Met, r.Stage, r.Then, r.Until, r.Pause, r.Outcome, r.Failure, r.Origin}
		if slices.Contains(cells[:3], "") || (r.Then == "again") != (r.Until != "" && r.Pause != "") {
			t.Errorf("a row lacks something: %q", cells)
		}
		out.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	t.Logf("the retry policy:\n%s", out.String())
}
