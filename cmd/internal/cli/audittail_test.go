package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
)

// Lines stand below each other whatever comes next, and steer no terminal.
func TestTailLines(t *testing.T) {
	uid := uint32(33)
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local)
	for want, l := range map[string]audit.Line{
		"    41  2030-01-02 03:04:05  outcome   uid 33     shop-web         POST /v1/connect/tokens  200 \n": {
			Seq: 41, Time: at, Event: audit.Event{Kind: "outcome", UID: &uid, Rule: "shop-web", Route: "POST /v1/connect/tokens", Status: 200}},
		"     1  2030-01-02 03:04:05  note      uid -      -                -                        started\n": {
			Seq: 1, Time: at, Event: audit.Event{Kind: "note", Outcome: "started"}},
		"     2  2030-01-02 03:04:05  outcome   uid 33     a\uFFFD[2J            -                        403 not_granted\n": {
			Seq: 2, Time: at, Event: audit.Event{Kind: "outcome", UID: &uid, Rule: "a\x1b[2J", Status: 403, Error: "not_granted"}},
	} {
		var out strings.Builder
		if showLine(&out, l); out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	}
	for _, line := range [][]string{{"--lines", "-1"}, {"--lines", "many"}} {
		if r := invoke(t, nil, "", append([]string{"audit", "tail"}, line...)...); r.status != exitUsage || r.stdout != "" {
			t.Errorf("%q: %+v", line, r)
		}
	}
}
