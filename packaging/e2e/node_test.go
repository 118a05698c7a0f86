package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// sample is the server sample of npm react-native-human-api@0.1.4, as it stands
// in that package's README, after the edit that an app's developer makes: the
// uri: line is changed, the line that sets clientSecret is deleted.
type sample struct {
	dir string // has node_modules
	t   testing.TB
	w   *world
}

func newSample(t testing.TB, w *world) sample {
	t.Helper()
	modules := os.Getenv("TOKENVAULT_TEST_NODE")
	if modules == "" {
		t.Fatal("TOKENVAULT_TEST_NODE names no directory with npm request@2: run packaging/test.sh --install")
	}
	s := sample{dir: w.path("node"), t: t, w: w}
	must(t, os.MkdirAll(filepath.Join(s.dir, "node_modules"), 0o755))
	must(t, os.CopyFS(filepath.Join(s.dir, "node_modules"), os.DirFS(filepath.Join(modules, "node_modules"))))
	driver, err := os.ReadFile("testdata/driver.js")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.dir, "driver.js"), driver, 0o644))
	return s
}

// edit is what is changed in the published sample.
type edit struct {
	socket, path string
	forever      bool
	keepSecret   bool // the developer forgot to delete the line
}

// published returns the code block of the README.
func (s sample) published() string {
	s.t.Helper()
	readme, err := os.ReadFile(filepath.Join(s.dir, "node_modules/react-native-human-api/README.md"))
	must(s.t, err)
	_, after, _ := strings.Cut(string(readme), "## Backend server")
	_, after, ok := strings.Cut(after, "```javascript\n")
	code, _, ok2 := strings.Cut(after, "```")
	if !ok || !ok2 || !strings.Contains(code, "connect/tokens") {
		s.t.Fatal("the published README has no server sample")
	}
	return code
}

func (s sample) file(e edit) string {
	s.t.Helper()
	lines, uris, secrets := []string{}, 0, 0
	for _, line := range strings.Split(s.published(), "\n") {
		switch {
		case strings.Contains(line, "uri:"):
			uris++
			line = fmt.Sprintf("uri: 'http://unix:%s:%s',", e.socket, e.path)
			if e.forever {
				line += " forever: true,"
			}
		case strings.Contains(line, "clientSecret"):
			if secrets++; !e.keepSecret {
				continue
			}
		}
		lines = append(lines, line)
	}
	if uris != 1 || secrets != 1 {
		s.t.Fatalf("the sample has %d uri: lines and %d that set clientSecret", uris, secrets)
	}
	f, err := os.CreateTemp(s.dir, "sample-*.js")
	must(s.t, err)
	_, err = f.WriteString(strings.Join(lines, "\n"))
	must(s.t, err)
	must(s.t, f.Chmod(0o644))
	must(s.t, f.Close())
	return f.Name()
}

// result is what the sample's HTTP library called back with.
type result struct {
	Error  string `json:"error"`
	Status int    `json:"status"`
	Object bool   `json:"object"`
	Body   string `json:"body"`
}

// run posts these bodies one after the other, as that user. The sample must call
// its own callback each time: it crashes on a body that is no object.
func (s sample) run(uid uint32, e edit, bodies ...any) []result {
	s.t.Helper()
	input, err := json.Marshal(bodies)
	must(s.t, err)
	cmd := exec.Command("node", "driver.js", s.file(e))
	cmd.Dir, cmd.Env = s.dir, []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = asUser(uid, publicGID, privateGID)
	out := runCommand(s.t, cmd, string(input))
	if out.code != 0 || strings.Count(out.stdout, "CALLBACK ") != len(bodies) {
		s.t.Fatalf("the sample crashed, exit %d, %s", out.code, out.stderr)
	}
	var results []result
	for _, line := range strings.Split(out.stdout, "\n") {
		if text, ok := strings.CutPrefix(line, "RESULT "); ok {
			var r result
			must(s.t, json.Unmarshal([]byte(text), &r))
			results = append(results, r)
		}
	}
	return results
}

func (s sto) object() map[string]any {
	return map[string]any{"humanId": s.humanID, "clientId": s.clientID, "sessionToken": s.sessionToken}
}

// The published sample completes, with and without forever: true.
func TestPublishedNodeSample(t *testing.T) {
	w := newWorld(t, options{})
	s := newSample(t, w)
	for _, forever := range []bool{false, true} {
		t.Run(fmt.Sprintf("forever %v", forever), func(t *testing.T) {
			var bodies []any
			var humans []string
			for i := range 6 {
				human := w.sim.NewHumanID()
				humans, bodies = append(humans, human), append(bodies, w.finishEvent(human, fmt.Sprintf("node-%v-%d@example.test", forever, i)).object())
			}
			for i, r := range s.run(webUID, edit{socket: w.socket("public"), path: tokens, forever: forever}, bodies...) {
				_, public := w.sim.Current(shop, humans[i])
				a := answer{status: r.Status, body: r.Body}
				if !r.Object || a.want(t, 200, "").field(t, "publicToken") != public || strings.Contains(r.Body, "accessToken") {
					t.Errorf("call %d: status %d, no object with the publicToken alone", i, r.Status)
				}
			}
			t.Logf("figure: npm request@2, forever %v: %d of %d served", forever, len(bodies), len(bodies))
		})
	}
}

// nodeErrors are the rules and the configuration that the errors need.
const nodeErrors = `
[[rule]]
name = "two-apps"
users = ["33"]
apps = ["shop", "club"]
grants = ["exchange"]
[[rule]]
name = "one-app"
users = ["64002"]
apps = ["club"]
grants = ["exchange"]
[[rule]]
name = "slow"
users = ["64004"]
apps = ["shop"]
grants = ["exchange"]
rate = { per_second = 0.01, burst = 1 }
`

// Every error of the closed list that the sample can cause is a JSON object:
// with an empty body it would crash.
func TestPublishedNodeSampleGetsEveryError(t *testing.T) {
	w := newWorld(t, options{rules: nodeErrors, settings: "[exchange]\ndeadline = \"2s\"\n", storage: true})
	s := newSample(t, w)
	seen := map[string]bool{}
	fresh := func() map[string]any { return w.finishEvent(w.sim.NewHumanID(), "e@example.test").object() }
	here := edit{socket: w.socket("public"), path: tokens}
	check := func(status int, code string, r []result) {
		t.Helper()
		last := r[len(r)-1]
		a := answer{status: last.Status, body: last.Body}
		if last.Error != "" || !last.Object {
			t.Errorf("%s: error %q, object %v", code, last.Error, last.Object)
			return
		}
		a.want(t, status, code)
		if a.field(t, "message") == "" || a.field(t, "requestId") == "" {
			t.Errorf("%s: no message or no requestId", code)
		}
		seen[code] = true
	}
	without := func(field string) map[string]any { o := fresh(); delete(o, field); return o }
	fault := func(f humanapitest.Fault) map[string]any { o := fresh(); f.Path = tokens; w.sim.Misbehave(f); return o }

	check(400, "bad_request", s.run(webUID, here, without("humanId")))
	check(400, "client_id_required", s.run(webUID, here, without("clientId")))
	kept := here
	kept.keepSecret = true
	check(400, "secret_not_accepted", s.run(webUID, kept, fresh()))
	check(403, "unknown_caller", s.run(strangerUID, here, fresh()))
	check(403, "not_granted", s.run(workerUID, here, fresh()))
	check(404, "not_found", s.run(webUID, edit{socket: w.socket("public"), path: "/v1/connect/token5"}, fresh()))
	check(405, "method_not_allowed", s.run(webUID, edit{socket: w.socket("public"), path: "/v1/whoami"}, fresh()))
	check(409, "user_mismatch", s.run(webUID, here, fault(humanapitest.Fault{Kind: humanapitest.WrongUser})))
	first, stolen := fresh(), map[string]any{}
	for k, v := range first {
		stolen[k] = v
	}
	stolen["humanId"] = w.sim.NewHumanID()
	check(409, "session_conflict", s.run(webUID, here, first, stolen))
	check(409, "indeterminate", s.run(webUID, here, fault(humanapitest.Fault{Kind: humanapitest.HTML})))
	large := fresh()
	large["padding"] = strings.Repeat("x", 2<<20)
	check(413, "too_large", s.run(webUID, here, large))
	check(422, "session_refused", s.run(webUID, here, fault(humanapitest.Fault{Status: 400})))
	check(429, "rate_limited", s.run(64004, here, fresh(), fresh()))
	check(502, "upstream_invalid", s.run(webUID, here, fault(humanapitest.Fault{Kind: humanapitest.MissingField, Field: "accessToken"})))
	hold := make(chan struct{})
	check(504, "exchange_pending", s.run(webUID, here, fault(humanapitest.Fault{HoldAnswer: hold})))
	close(hold)
	last := fresh()
	w.sim.Close()
	check(503, "upstream_unavailable", s.run(webUID, here, last))
	w.stop()
	w.vault.Stop()
	w.start()
	w.awaitHealth(func(status int, _ health) bool { return status == 503 })
	check(503, "starting", s.run(webUID, here, last))
	t.Logf("figure: the sample got a JSON object for each of %d errors", len(seen))
	if len(seen) != 17 {
		t.Errorf("%d errors, want 17", len(seen))
	}
}
