package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
)

const someRequest = "0123456789abcdef0123456789abcdef"

func deniedExplanation() api.Explanation {
	return api.Explanation{
		Listener: "public", Grant: "exchange", App: "shop", InCeiling: true, Reason: "no rule, alone, has all of it; web comes closest, and lacks: units",
		Rules:      []api.RuleVerdict{{Rule: "web", Failed: []string{api.FailedUnits}}, {Rule: "worker", Failed: []string{api.FailedUsers, api.FailedGrants}}},
		Suggestion: "[[rule]]\nname = \"uid-33-exchange\"\n",
	}
}

// TestExplain: the answer's exit status says what the answer says, and nothing else
// is printed.
func TestExplain(t *testing.T) {
	args := []string{"policy", "explain", "--user", "33", "--group", "33", "--listener", "public", "--app", "shop", "--grant", "exchange"}
	d := answering(t, map[string]any{"/v1/admin/policy/explain": deniedExplanation()})
	r := d.run(t, exitDenied, "", args...)
	if golden(t, "explain-denied.golden", r.stdout); r.stderr != "" {
		t.Errorf("%q", r.stderr)
	}
	if r := d.run(t, exitDenied, "", append(args, "--json")...); !json.Valid([]byte(r.stdout)) || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	allowed := deniedExplanation()
	allowed.Allowed, allowed.Rule, allowed.Reason, allowed.Suggestion = true, "web", "rule web is the first of which every condition holds", ""
	allowed.Rules[0] = api.RuleVerdict{Rule: "web", Matches: true, Failed: []string{}}
	d = answering(t, map[string]any{"/v1/admin/policy/explain": allowed})
	golden(t, "explain-allowed.golden", d.run(t, exitOK, "", args...).stdout)
	for words, says := range map[string]string{
		"explain --listener public --app shop --grant exchange":                    "needs --user",
		"explain --user 33 --app shop --grant exchange":                            "needs --listener",
		"explain --user 33 --listener public --app shop":                           "needs --grant",
		"explain --user 33 --listener public --grant exchange":                     "needs --app",
		"explain --user 33 --listener public --app shop --grant exchang":           "there are exchange,",
		"explain --user no-such-user --listener a --app shop --grant lookup":       "there is no user",
		"explain --user 33 --group no-such --listener a --app shop --grant lookup": "there is no group",
		"who-can everything":                "is not a grant",
		"who-can":                           "needs GRANT",
		"suggest 0123":                      "32 hex digits",
		"suggest " + someRequest + " twice": "takes only",
	} {
		r := invoke(t, nil, "", strings.Fields("policy "+words)...)
		if r.status != exitUsage || r.stdout != "" || !strings.Contains(r.stderr, says) || !strings.Contains(r.stderr, "hint: ") {
			t.Errorf("%s: %+v", words, r)
		}
	}
}

func TestWhoCan(t *testing.T) {
	d := answering(t, map[string]any{"/v1/admin/policy/who-can": api.WhoCan{Grant: "access-token", Holders: []api.Holder{
		{Rule: "worker", Users: []string{"4000000"}, Apps: []string{"shop"}, Listeners: []string{"private"}},
		{Rule: "unit", Units: []string{"shop-\x1b.service"}, Proven: true, Contained: true, Apps: []string{"shop", "gym"}, Listeners: []string{"private"}},
	}}})
	golden(t, "who-can.golden", d.runFlagsFirst(t, exitOK, "policy", "who-can", "access-token").stdout)
	d = answering(t, map[string]any{"/v1/admin/policy/who-can": api.WhoCan{Grant: "forget"}})
	if r := d.runFlagsFirst(t, exitOK, "policy", "who-can", "forget"); r.stdout != "nobody has forget\n" {
		t.Errorf("%+v", r)
	}
}

// runFlagsFirst is run for a command with an argument, before which options stand.
func (d *daemonWith) runFlagsFirst(t *testing.T, want int, words ...string) result {
	t.Helper()
	last := len(words) - 1
	r := invoke(t, map[string]string{"TZ": "UTC"}, "", append(append(append([]string{}, words[:last]...), "--socket", d.socket), words[last])...)
	if r.status != want {
		t.Errorf("%q: exit %d, want %d; stdout %q, stderr %q", words, r.status, want, r.stdout, r.stderr)
	}
	return r
}

// TestSuggest: a request of a caller whom no rule names has no grant on record; what
// to ask next is said.
func TestSuggest(t *testing.T) {
	line := func(more string) api.AuditLines {
		return api.AuditLines{Lines: []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"kind":"outcome","listener":"public","uid":33,"gid":34,"groups":[61],"unit":"shop.service","unproven":true,"contained":true,%s}`, more))}}
	}
	for more, c := range map[string]struct {
		status int
		says   string
	}{
		`"status":403,"error":"unknown_caller"`:                 {exitFailed, "hint: say what it is to be allowed: tokenvault policy explain --user 33 --group 34 --group 61 --unit shop.service --contained --unproven --listener public --app APP --grant GRANT\n"},
		`"status":404,"error":"not_found"`:                      {exitFailed, "404 not_found, and no rule could change that"},
		`"grant":"exchange","status":403,"error":"not_granted"`: {exitOK, ""},
	} {
		asked := ""
		d := answering(t, map[string]any{
			"/v1/admin/audit/find": line(more),
			"/v1/admin/policy/explain": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.URL.RawQuery
				_ = json.NewEncoder(w).Encode(deniedExplanation())
			}),
		})
		r := d.runFlagsFirst(t, c.status, "policy", "suggest", someRequest)
		if c.says != "" && !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s: %+v", more, r)
		}
		if c.status == exitOK {
			golden(t, "suggest.golden", r.stdout)
			if asked != "contained=true&gid=34&grant=exchange&group=61&listener=public&proven=false&uid=33&unit=shop.service" {
				t.Errorf("asked %s", asked)
			}
		}
	}
	d := answering(t, map[string]any{"/v1/admin/audit/find": api.AuditLines{Lines: []json.RawMessage{}}})
	if r := d.runFlagsFirst(t, exitFailed, "policy", "suggest", someRequest); !strings.Contains(r.stderr, "hint: repeated refusals stand in it as counts") {
		t.Errorf("%+v", r)
	}
}

// TestAuditFind: bad input is refused before anybody is asked, and lines cannot steer
// a terminal.
func TestAuditFind(t *testing.T) {
	for words, says := range map[string]string{
		"":                                      "needs one of",
		"--request 12":                          "32 hex digits",
		"--human-id h --request " + someRequest: "needs one of",
		"--human-id h --client-user-id c":       "needs one of",
		"--human-id h --limit 0":                "--limit wants",
		"--human-id h --limit 9999999":          "--limit wants",
		"--human-id h --since yesterday":        "--since wants",
		"--human-id h --until -3h":              "--until wants",
	} {
		if r := invoke(t, nil, "", append([]string{"audit", "find"}, strings.Fields(words)...)...); r.status != exitUsage || !strings.Contains(r.stderr, says) {
			t.Errorf("%q: %+v", words, r)
		}
	}
	found := api.AuditLines{Truncated: true, Lines: []json.RawMessage{
		json.RawMessage(`{"seq":7,"time":"2026-03-01T00:00:00.000000Z","kind":"outcome","requestId":"` + someRequest + `","uid":33,"unit":"a\u001b.service","contained":false,"rule":"web","route":"POST /v1/connect/tokens","status":200}`),
		json.RawMessage(`{"seq":8,"time":"2026-03-01T00:00:01.000000Z","kind":"note","outcome":"stored"}`),
	}}
	d := answering(t, map[string]any{"/v1/admin/audit/find": found})
	r := d.run(t, exitOK, "", "audit", "find", "--human-id", "h")
	if !strings.Contains(r.stdout, "a\uFFFD.service") || !strings.Contains(r.stdout, "stored") || r.stderr != "note: these are the last 2, there are more\n" {
		t.Errorf("%+v", r)
	}
	if r := d.run(t, exitOK, "", "audit", "find", "--human-id", "h", "--json"); !json.Valid([]byte(r.stdout)) {
		t.Errorf("%+v", r)
	}
}
