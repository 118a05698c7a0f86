package cli

import (
	"testing"

	"github.com/tokenvault/tokenvault/crypto/audit"
)

// TestNotesDecidedByRules: of what the log only has counts of, those about which the
// rules had a say are named.
func TestNotesDecidedByRules(t *testing.T) {
	for _, c := range []struct {
		e    audit.Event
		want bool
	}{
		{audit.Event{Status: 404, Error: "unknown_user", Route: "GET /v1/users/{humanId}"}, true},
		{audit.Event{Status: 200, Route: "GET /v1/users"}, true},
		{audit.Event{Status: 429, Error: "rate_limited"}, true},
		{audit.Event{Status: 200, Outcome: "unrecorded"}, true},
		{audit.Event{Status: 403, Error: "not_granted"}, true},
		{audit.Event{Status: 200, Route: "GET /v1/whoami"}, false},
		{audit.Event{Status: 404, Error: "not_found"}, false},
		{audit.Event{Status: 400, Outcome: "not http"}, false},
	} {
		c.e.Kind, c.e.Count = audit.Note, 3
		if got := decidedByRules(&c.e); got != c.want {
			t.Errorf("%+v: got %v", c.e, got)
		}
	}
}
