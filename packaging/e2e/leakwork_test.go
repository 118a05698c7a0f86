package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// specialSecret is written otherwise by every encoding that there is.
const specialSecret = `marker"client\secret"of<the-shop>&+%/;`

// hunting is a world of which everything that anybody gets to see is kept.
type hunting struct {
	*world
	t       *testing.T
	front   *vaultFront
	markers map[string]string
	answers []said
}

// said is an answer, or what a command printed. may is what it may carry: "", "ids"
// or "access token".
type said struct{ what, text, may string }

// newHunting has a clientSecret that every encoding changes, and a home for temporary
// files, which stays empty.
func newHunting(t *testing.T) *hunting {
	h := &hunting{world: prepareWorld(t, options{level: "debug", mode: humanapitest.Repeatable, settings: "[sandbox]\nmode = \"require\""}), t: t}
	h.setUpVault()
	h.sim.RotateSecret(shop, specialSecret)
	h.putSecret(specialSecret)
	h.front = newFront(h.world, nil)
	at, err := switched()
	must(t, err)
	must(t, os.Mkdir(h.path("tmp"), 0o700))
	must(t, os.Chown(h.path("tmp"), daemonUID, daemonUID))
	h.binary = at
	h.markers = map[string]string{"clientSecret": specialSecret, "the other clientSecret": clubSecret, "secret id": strings.TrimSpace(h.read("secret-id"))}
	h.life1("debug")
	n := needles{}
	h.dataKeys(t, n)
	for i, key := range n["data keys"] {
		h.markers[fmt.Sprintf("data key %d", i)] = string(key)
		h.markers[fmt.Sprintf("data key %d, as it is used", i)] = string(n["data keys as they are used"][i])
	}
	return h
}

// life1 starts the daemon with that level of its log, and these variables.
func (h *hunting) life1(level string, env ...string) {
	h.t.Helper()
	h.edit(`\[log\]\nlevel = "\w+"`, "[log]\nlevel = \""+level+"\"")
	h.env = append([]string{"TMPDIR=" + h.path("tmp"), "HOME=" + h.path("tmp")}, env...)
	h.start()
	h.awaitReady()
	for i, token := range h.front.tokens(h.t) {
		h.markers[fmt.Sprintf("Vault token %d", i)] = token
	}
}

// ask is a request of root's.
func (h *hunting) ask(may, listener, method, path, body string, headers ...string) answer {
	h.t.Helper()
	root := h.root(listener)
	defer root.http.CloseIdleConnections()
	a := root.do(method, path, body, headers...)
	if a.status != 200 {
		may = ""
	}
	h.answers = append(h.answers, said{method + " " + strings.SplitN(path, "?", 2)[0], fmt.Sprint(a.header, a.body), may})
	return a
}

func (h *hunting) curl(c curl, method, path, body string) answer {
	a := c.do(method, path, body)
	h.answers = append(h.answers, said{"curl: " + path, a.body, ""})
	return a
}

// run is the command line; its exit status is not looked at.
func (h *hunting) run(may, stdin string, args ...string) output {
	h.t.Helper()
	out := h.cli(stdin, args...)
	h.answers = append(h.answers, said{strings.Join(args[:min(2, len(args))], " "), out.stdout + out.stderr, may})
	return out
}

// work causes successes, every kind of failure that reaches the log, and asks all
// that can be asked.
func (h *hunting) work(round string) {
	h.t.Helper()
	h.exchanges(round)
	h.faults(round)
	h.denials()
	h.administer(round)
}

func (h *hunting) exchanges(round string) {
	for i := range 4 {
		human, cuid := h.sim.NewHumanID(), fmt.Sprintf("marker-user-%s-%d@example.test", round, i)
		s := h.finishEvent(human, cuid)
		h.ask("ids", "private", "POST", tokens, s.json()).want(h.t, 200, "")
		access, public := h.sim.Current(shop, human)
		h.ask("access token", "private", "GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").want(h.t, 200, "")
		h.ask("ids", "private", "GET", "/v1/users/"+human+"?clientId="+shop, "").want(h.t, 200, "")
		h.ask("ids", "private", "POST", "/v1/connect/publictokens", fmt.Sprintf(`{"humanId":%q,"clientId":%q}`, human, shop)).want(h.t, 200, "")
		h.run("ids", "", "users", "show", "--json", "--client-id", shop, human)
		h.run("", "", "audit", "find", "--app", "shop", "--human-id", human)
		h.run("", "", "audit", "find", "--json", "--app", "shop", "--client-user-id", cuid)
		for name, value := range map[string]string{"humanId": human, "clientUserId": cuid, "sessionToken": s.sessionToken, "accessToken": access, "publicToken": public} {
			h.markers[fmt.Sprintf("%s %s %d", name, round, i)] = value
		}
	}
}

func (h *hunting) faults(round string) {
	for i, f := range []humanapitest.Fault{
		{Status: 400}, {Status: 401}, {Kind: humanapitest.WrongUser}, {Kind: humanapitest.HTML}, {Kind: humanapitest.Empty}, {Kind: humanapitest.Surplus},
		{Kind: humanapitest.MissingField, Field: "publicToken"}, {Status: 503}, {Kind: humanapitest.DropAfter},
	} {
		human, cuid := h.sim.NewHumanID(), fmt.Sprintf("marker-faulty-%s-%d@example.test", round, i)
		s := h.finishEvent(human, cuid)
		f.Path, f.Message, f.HumanID = tokens, "marker-upstream-text with "+s.sessionToken, human
		h.sim.Misbehave(f)
		h.ask("ids", "private", "POST", tokens, s.json())
		for name, value := range map[string]string{"sessionToken": s.sessionToken, "humanId": human, "clientUserId": cuid} {
			h.markers[fmt.Sprintf("%s of fault %s %d", name, round, i)] = value
		}
	}
	h.markers["upstream's text"] = "marker-upstream-text"
	h.sim.ClearFaults()
}

// denials: each is answered, and says nothing about others.
func (h *hunting) denials() {
	h.markers["secret in a body"], h.markers["secret in a query"] = "marker-secret-in-a-body", "marker-secret-in-a-query"
	h.ask("", "private", "POST", tokens, `{"clientSecret":"marker-secret-in-a-body"}`).want(h.t, 400, "secret_not_accepted")
	h.ask("", "private", "GET", "/v1/users?client_secret=marker-secret-in-a-query", "").want(h.t, 400, "secret_not_accepted")
	human := h.markers["humanId 1 0"]
	for _, c := range []curl{h.stranger("public"), h.stranger("private"), h.worker("public"), h.web("public")} {
		h.curl(c, "GET", "/v1/users/"+human+"/access-token?clientId="+shop, "")
		h.curl(c, "GET", "/v1/whoami", "")
		h.curl(c, "GET", "/v1/health", "")
	}
	a := h.curl(h.stranger("private"), "GET", "/v1/users/"+human+"?clientId="+shop, "")
	h.run("", "", "policy", "suggest", a.field(h.t, "requestId"))
	h.ask("", "private", "GET", "/v1/users/"+human+"%2f..?clientId="+shop, "")
	h.ask("", "private", "POST", tokens, `{"humanId":"`+human+`","sessionToken":"`+h.markers["sessionToken 1 0"]+`"`)
}

func (h *hunting) administer(round string) {
	backup := h.path("hunted-" + round + ".backup")
	for _, args := range [][]string{
		{"policy", "explain", "--user", "33", "--listener", "public", "--app", "shop", "--grant", "access-token"},
		{"policy", "who-can", "access-token"}, {"whoami", "--json", "--socket", h.socket("private")}, {"status", "--json"}, {"status"},
		{"secret", "check", "--json"}, {"store", "check", "--json"}, {"store", "backup", "--output", backup}, {"reload"}, {"audit", "verify"}, {"config", "check"},
	} {
		if out := h.run("", "", args...); out.code != 0 && out.code != 3 { // 3: explain says no
			h.t.Errorf("%s: exit %d: %s", strings.Join(args, " "), out.code, out.stderr)
		}
	}
	h.run("ids", "", "users", "list", "--app", "shop", "--state", "indeterminate")
	h.ask("", "admin", "GET", "/v1/admin/status", "").want(h.t, 200, "")
}

// elsewhere restores the last backup on another machine, imports, and runs there.
func (h *hunting) elsewhere(backup string) *world {
	second := (&drill{world: h.world, t: h.t}).secondMachine()
	if out := second.cli("", "store", "restore", "--yes", "--token-file", second.path("vault-token"), backup); out.code != 0 {
		h.t.Fatalf("restore: exit %d: %s", out.code, out.stderr)
	}
	line := `{"humanId":"marker-imported-human","clientUserId":"marker-imported@example.test","publicToken":"marker-imported-public","accessToken":"marker-imported-access"}` + "\n"
	for name, value := range map[string]string{"humanId": "human", "clientUserId": "@example.test", "publicToken": "public", "accessToken": "access"} {
		h.markers[name+" imported"] = "marker-imported-" + strings.TrimPrefix(value, "@")
		if name == "clientUserId" {
			h.markers[name+" imported"] = "marker-imported@example.test"
		}
	}
	out := second.cli(line, "store", "import", "--app", "shop", "--json", "--token-file", second.path("operator-token"))
	h.answers = append(h.answers, said{"store import", out.stdout + out.stderr, ""})
	if out.code != 0 {
		h.t.Fatalf("import: exit %d: %s", out.code, out.stderr)
	}
	second.ownedByDaemon()
	second.start()
	second.awaitReady()
	second.root("private").do("GET", "/v1/users/marker-imported-human/access-token?clientId="+shop, "").want(h.t, 200, "")
	second.stop()
	return second
}

// underWay leaves an exchange at Human API, and returns once it is there.
func (h *hunting) underWay(name string) {
	h.t.Helper()
	s := h.finishEvent(h.sim.NewHumanID(), "marker-held@example.test")
	h.markers["sessionToken of "+name], h.markers["humanId of "+name] = s.sessionToken, s.humanID
	release := make(chan struct{})
	h.t.Cleanup(func() { close(release) })
	h.sim.Misbehave(humanapitest.Fault{HumanID: s.humanID, HoldAnswer: release})
	arrived := h.sim.Count(tokens)
	root := h.root("private")
	go func() { _, _ = root.try("POST", tokens, s.json()) }() // nobody answers it
	must(h.t, h.sim.Await(h.t.Context(), tokens, arrived+1))
}

// nothingElsewhere looks for files of the daemon's user outside of its own folders.
func (h *hunting) nothingElsewhere() {
	h.t.Helper()
	out, err := exec.Command("find", "/tmp", "/var", "/run", "/dev/shm", "/etc", "/home", "/root", "-xdev", "-path", "/tmp/tv*", "-prune", "-o",
		"-path", "/proc", "-prune", "-o", "-type", "f", "-uid", fmt.Sprint(daemonUID), "-newer", h.config, "-print").Output()
	if err != nil && len(out) == 0 {
		h.t.Logf("find: %v", err) // a folder of somebody else's test has gone meanwhile
	}
	if len(out) > 0 {
		h.t.Errorf("the daemon wrote elsewhere:\n%s", out)
	}
}

// ends waits for the daemon to end by itself, and wants its last words to have these.
func (h *hunting) ends(how string, words ...string) syscall.WaitStatus {
	h.t.Helper()
	select {
	case <-h.daemon.done:
	case <-time.After(20 * time.Second):
		h.t.Fatalf("%s: the daemon does not end", how)
	}
	log := h.read("daemon.log")
	for _, word := range words {
		if !strings.Contains(log, word) {
			h.t.Errorf("%s: its words have no %q", how, word)
		}
	}
	status, ok := h.daemon.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.CoreDump() {
		h.t.Errorf("%s: there is a core dump", how)
	}
	return status
}

// huntAnswers looks through all that was said.
func (h *hunting) huntAnswers() {
	h.t.Helper()
	allowed := map[string][]string{"": nil, "ids": {"humanId", "clientUserId", "publicToken"}, "access token": {"humanId", "clientUserId", "publicToken", "accessToken"}}
	carried := map[string]int{}
	for _, a := range h.answers {
		for _, name := range leaks([]byte(a.text), h.markers) {
			kind, _, _ := strings.Cut(name, " ")
			carried[a.may]++
			if !slices.Contains(allowed[a.may], kind) {
				h.t.Errorf("the answer to %q has in clear: %s", a.what, name)
			}
		}
	}
	if carried["access token"] == 0 || carried["ids"] == 0 {
		h.t.Error("not even the answers that carry markers have any: the hunt looks in the wrong place")
	}
	text, err := json.Marshal(carried)
	must(h.t, err)
	h.t.Logf("figure: %d answers and outputs searched; markers in those that may carry them: %s", len(h.answers), text)
}
