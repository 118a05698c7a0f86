package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// lendingRules: rules that would have to lend each other parts to allow more.
const lendingRules = `
[[rule]]
name = "web-exchanges-for-shop"
users = ["33"]
apps = ["shop"]
grants = ["exchange", "lookup"]

[[rule]]
name = "web-reads-club"
users = ["33"]
apps = ["club"]
grants = ["access-token"]

[[rule]]
name = "web-proxies-club"
users = ["33"]
apps = ["club"]
grants = ["proxy"]
paths = ["/v1/human/profile"]

[[rule]]
name = "group-alone"
groups = ["64099"]
apps = ["shop"]
grants = ["access-token"]

[[rule]]
name = "worker"
users = ["64002"]
apps = ["shop"]
grants = ["access-token"]
`

// Who is calling decides, and each decision stands in the audit log.
func TestCallers(t *testing.T) {
	w := newWorld(t, options{rules: lendingRules})
	human := w.sim.NewHumanID()
	user := "/v1/users/" + human + "?clientId=" + shop
	access := "/v1/users/" + human + "/access-token?clientId=" + shop

	w.web("public").do("POST", tokens, w.finishEvent(human, "c@example.test").json(), "-H", jsonType).want(t, 200, "")
	w.web("public").do("GET", user, "").want(t, 200, "")
	// By grant: the private socket would allow it, no rule of the web user does.
	w.web("private").do("GET", access, "").want(t, 403, "not_granted")
	// By the socket's ceiling: the worker's rule would allow it.
	w.worker("public").do("GET", access, "").want(t, 403, "not_granted")
	token, _ := w.sim.Current(shop, human)
	if got := w.worker("private").do("GET", access, "").want(t, 200, "").field(t, "accessToken"); got != token {
		t.Error("the worker got another access token")
	}
	t.Run("rules do not lend", func(t *testing.T) {
		w.web("private").do("GET", access, "").want(t, 403, "not_granted")                                                                    // grant of one rule, app of another
		w.web("private").do("GET", "/v1/users/"+human+"?clientId="+club, "").want(t, 403, "not_granted")                                      // app of one, grant of another
		w.worker("private").do("POST", tokens, w.finishEvent(human, "c@example.test").json(), "-H", jsonType).want(t, 403, "not_granted")     // another caller's grant
		w.worker("private").do("GET", user, "").want(t, 403, "not_granted")                                                                   // access-token does not imply lookup
		w.web("private").do("GET", "/v1/users/"+human+"?clientId=no-such-app-anywhere", "").want(t, 403, "not_granted")                       // the same 403
		w.web("private").do("GET", "/v1/human/profile", "", "-H", "X-Human-Id: "+human, "-H", "X-Client-Id: "+club).want(t, 404, "not_found") // the proxy is not built yet
	})
	t.Run("an unknown uid", func(t *testing.T) {
		for _, listener := range []string{"public", "private", "admin"} {
			c := w.stranger(listener)
			for _, path := range []string{user, access, tokens, "/", "/nowhere", "/v1/admin/status", "/metrics"} {
				for _, method := range []string{"GET", "POST", "PUT"} {
					c.do(method, path, "").want(t, 403, "unknown_caller")
				}
			}
			if c.do("GET", "/v1/health", "").status != 200 {
				t.Error("health is for everyone")
			}
			var who struct {
				UID    uint32   `json:"uid"`
				Groups []uint32 `json:"groups"`
				Rights []any    `json:"rights"`
			}
			must(t, json.Unmarshal([]byte(c.do("GET", "/v1/whoami", "").want(t, 200, "").body), &who))
			if who.UID != strangerUID || !slices.Equal(who.Groups, []uint32{publicGID, privateGID, adminGID}) || len(who.Rights) != 0 {
				t.Errorf("whoami says %+v", who)
			}
		}
	})
	t.Run("the socket's mode", func(t *testing.T) {
		outsider := curl{w, strangerUID, nil, w.socket("admin")}
		if outsider.connects() {
			t.Error("a user without the group can connect")
		}
	})
	w.stop()
	checkAudit(t, w, human)
}

// checkAudit looks for each decision above in the log, and breaks it.
func checkAudit(t *testing.T, w *world, human string) {
	log, err := os.ReadFile(w.path("log/audit.log"))
	must(t, err)
	for _, want := range [][]string{
		{`"outcome"`, `"uid":33`, `"rule":"web-exchanges-for-shop"`, `"grant":"exchange"`, `"status":200`},
		{`"uid":33`, `"grant":"access-token"`, `"status":403`, `"error":"not_granted"`, `"listener":"private"`},
		{`"uid":64002`, `"grant":"access-token"`, `"status":403`, `"error":"not_granted"`, `"listener":"public"`},
		{`"uid":64002`, `"rule":"worker"`, `"grant":"access-token"`, `"status":200`},
		{`"uid":64003`, `"status":403`, `"error":"unknown_caller"`, `"listener":"admin"`},
		{`"uid":64003`, `"status":200`, `whoami`},
	} {
		if !hasLine(log, want) {
			t.Errorf("the audit log has no line with all of %v", want)
		}
	}
	if bytes.Contains(log, []byte(human)) {
		t.Error("the audit log has a humanId in clear")
	}
	w.must("", "audit", "verify")
	breakAudit(t, w, log)
}

func hasLine(log []byte, parts []string) bool {
	for line := range bytes.Lines(log) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !bytes.Contains(line, []byte(p)) }) {
			return true
		}
	}
	return false
}

// breakAudit changes bytes and removes lines, spread over the log (each single
// one is tried in crypto/audit); the CLI must find every one, with exit 5.
func breakAudit(t *testing.T, w *world, log []byte) {
	last := bytes.LastIndex(log, []byte(`"checkpoint"`))
	if last < 0 {
		t.Fatal("there is no checkpoint")
	}
	tried, found := 0, 0
	verify := func(what string, content []byte) {
		tried++
		must(t, os.WriteFile(w.path("log/audit.log"), content, 0o600))
		if out := w.cli("", "audit", "verify"); out.code == 5 {
			found++
		} else {
			t.Errorf("%s: audit verify exits %d", what, out.code)
		}
	}
	for i := 0; i < last; i += last/40 + 1 {
		changed := bytes.Clone(log)
		changed[i] ^= 1
		verify("a changed byte", changed)
	}
	lines := bytes.SplitAfter(log[:last], []byte("\n"))
	for i := 0; i < len(lines)-1; i += len(lines)/20 + 1 {
		without := append(slices.Concat(slices.Concat(lines[:i]...), slices.Concat(lines[i+1:]...)), log[last:]...)
		verify("a removed line", without)
	}
	must(t, os.WriteFile(w.path("log/audit.log"), log, 0o600))
	w.must("", "audit", "verify")
	t.Logf("figure: %d of %d changes to the audit log found by audit verify", found, tried)
}

func contains(s, part string) bool { return part != "" && strings.Contains(s, part) }
