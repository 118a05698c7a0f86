package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// Bad input gets a clear error, and nothing else happens: Human API is not
// asked, and no user is stored.
func TestBadInputDoesNothing(t *testing.T) {
	w := newWorld(t, options{rules: `
[[rule]]
name = "web"
users = ["0"]
apps = ["shop"]
grants = ["exchange", "public-token", "lookup"]
`})
	root, s := w.root("public"), w.finishEvent(w.sim.NewHumanID(), "bad@example.test")
	good := s.json()
	for name, c := range map[string]struct {
		path, body, header string
		status             int
		code               string
	}{
		"not JSON":                   {tokens, "{humanId", jsonType, 400, "bad_request"},
		"an array":                   {tokens, "[" + good + "]", jsonType, 400, "bad_request"},
		"empty":                      {tokens, "", jsonType, 400, "bad_request"},
		"something after the end":    {tokens, good + "{}", jsonType, 400, "bad_request"},
		"not UTF-8":                  {tokens, strings.Replace(good, shop, "\xff\xfe", 1), jsonType, 400, "bad_request"},
		"2 MiB":                      {tokens, strings.Replace(good, "{", `{"x":"`+strings.Repeat("x", 2<<20)+`",`, 1), jsonType, 413, "too_large"},
		"duplicate keys":             {tokens, strings.Replace(good, "{", `{"humanId":"other",`, 1), jsonType, 400, "bad_request"},
		"duplicates in another case": {tokens, strings.Replace(good, "{", `{"HumanID":"other",`, 1), jsonType, 400, "bad_request"},
		"at the top and nested":      {tokens, `{"humanId":"x","sessionTokenObject":` + good + `}`, jsonType, 400, "bad_request"},
		"too deep":                   {tokens, strings.Replace(good, "{", `{"a":[[[[[]]]]],`, 1), jsonType, 400, "bad_request"},
		"a clientSecret":             {tokens, strings.Replace(good, "{", `{"clientSecret":"x",`, 1), jsonType, 400, "secret_not_accepted"},
		"a CLIENT_SECRET, nested":    {tokens, strings.Replace(good, "{", `{"a":{"CLIENT_SECRET":"x"},`, 1), jsonType, 400, "secret_not_accepted"},
		"a refresh_token in a form":  {tokens, s.form() + "&refresh_token=x", formType, 400, "secret_not_accepted"},
		"an access_token in a query": {tokens + "?access_token=x", good, jsonType, 400, "secret_not_accepted"},
		"a form type over JSON":      {tokens, good, formType, 415, "unsupported_media_type"},
		"another type":               {tokens, good, "Content-Type: text/xml", 415, "unsupported_media_type"},
		"an app that is not granted": {tokens, strings.Replace(good, shop, club, 1), jsonType, 403, "not_granted"},
		"an app that does not exist": {tokens, strings.Replace(good, shop, "no-such-app", 1), jsonType, 403, "not_granted"},
		"a path with a dot segment":  {"/v1/./connect/tokens", good, jsonType, 404, "not_found"},
		"a path with two slashes":    {"/v1//connect/tokens", good, jsonType, 404, "not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			a := root.do("POST", c.path, c.body, c.header).want(t, c.status, c.code)
			if a.field(t, "message") == "" || a.field(t, "requestId") == "" || a.header.Get("Cache-Control") != "no-store" {
				t.Error("no message, no requestId, or it may be cached")
			}
		})
	}
	if n := len(w.sim.Requests()); n != 0 {
		t.Errorf("Human API was asked %d times", n)
	}
	if got := w.lookup("bad@example.test").publicTokens(t); len(got) != 0 {
		t.Error("a user was stored")
	}
	root.do("POST", tokens, good, jsonType).want(t, 200, "") // and nothing was spent
}

// A claimed humanId that is not the answer's stores nothing, for nobody.
func TestAnswerForAnotherUserStoresNothing(t *testing.T) {
	w := newWorld(t, options{})
	root, human := w.root("public"), w.sim.NewHumanID()
	w.sim.Misbehave(humanapitest.Fault{Kind: humanapitest.WrongUser})
	root.do("POST", tokens, w.finishEvent(human, "w@example.test").json()).want(t, 409, "user_mismatch")
	root.do("GET", "/v1/users/"+human+"?clientId="+shop, "").want(t, 404, "unknown_user")
	if got := w.lookup("w@example.test").publicTokens(t); len(got) != 0 {
		t.Error("a user was stored")
	}
	if out := w.must("", "store", "check", "--json"); !strings.Contains(out, `"users": 0`) && !strings.Contains(out, `"users":0`) {
		t.Errorf("the store has users: %s", out)
	}
}

// What is wrong with the configuration is said with file, line and key, before
// anything is done.
func TestConfigurationErrors(t *testing.T) {
	w := prepareWorld(t, options{})
	toml, err := os.ReadFile(w.config)
	must(t, err)
	for name, c := range map[string]struct {
		old, new string
		line     int // 0: none is said
		key      string
	}{
		"an unknown key":  {"[store]\n", "[store]\nfsync = false\n", lineOf(string(toml), "[store]") + 1, "fsync"},
		"a mis-cased key": {"unsafe_plain_http", "Unsafe_plain_http", lineOf(string(toml), "unsafe_plain_http"), "Unsafe_plain_http"},
		"a wrong type":    {`level = "info"`, `level = 3`, lineOf(string(toml), "level ="), "level"},
		"an unknown app":  {`apps = ["shop"]`, `apps = ["ship"]`, 0, "ship"},
		"no unit's name":  {`users = ["33"]`, `units = ["shop"]`, 0, "shop.service"},
		"an unknown user": {`users = ["33"]`, `users = ["nobody-of-that-name"]`, 0, "nobody-of-that-name"},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(w.config, []byte(strings.Replace(string(toml), c.old, c.new, 1)), 0o644))
			for _, command := range [][]string{{"config", "check"}, {"serve"}} {
				out := w.cli("", command...)
				if out.code == 0 || out.stdout != "" || !strings.Contains(out.stderr, c.key) || !strings.Contains(out.stderr, filepath.Base(w.config)) ||
					c.line != 0 && !strings.Contains(out.stderr, fmt.Sprintf(":%d", c.line)) {
					t.Errorf("%v: exit %d, want file, line %d and %q:\n%s%s", command, out.code, c.line, c.key, out.stdout, out.stderr)
				}
			}
		})
	}
	for _, d := range []string{"state", "log", "run"} {
		entries, err := os.ReadDir(w.path(d))
		if must(t, err); len(entries) != 0 {
			t.Errorf("%s is not empty: serve did something", d)
		}
	}
}

// A secret file that others can read is refused, by name and with the mode.
func TestSecretFileThatOthersCanRead(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	must(t, os.Chmod(w.path("secret-id"), 0o644))
	w.start()
	select {
	case <-w.daemon.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon runs with a world-readable secret file")
	}
	log := w.logTail()
	if w.daemon.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(log, w.path("secret-id")) || !strings.Contains(log, "chmod") {
		t.Errorf("exit %d, want the file and what to do:\n%s", w.daemon.cmd.ProcessState.ExitCode(), log)
	}
}

// A Vault policy that lacks a line: the daemon says which path lacks which
// capability, and goes on by itself once the line is there.
func TestVaultPolicyLacksALine(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	policy := w.must("", "vault", "policy", "--format", "hcl")
	lines := strings.Split(policy, "\n")
	for i, line := range lines {
		if strings.Contains(line, "transit/decrypt/tokenvault") {
			lines[i] = strings.Replace(line, "transit/decrypt", "transit/no-such-thing", 1)
		}
	}
	lacking := strings.Join(lines, "\n")
	if lacking == policy {
		t.Fatal("the policy has no line for transit/decrypt")
	}
	w.vault.Must("PUT", "sys/policies/acl/tokenvault", map[string]any{"policy": lacking})
	w.start()
	h := w.awaitHealth(func(status int, h health) bool { return status == 503 && strings.Contains(h.text(), "denies") })
	if strings.Contains(h.text(), "transit") {
		t.Errorf("health tells everybody a path in Vault: %s", h.text())
	}
	said := w.must("", "status")
	if !strings.Contains(said, "lacks update on transit/decrypt/tokenvault") {
		t.Errorf("status does not say which path lacks which capability:\n%s", said)
	}
	t.Logf("figure: a policy that lacks a line: health says %q, and status which path lacks what", h.text())
	w.vault.Must("PUT", "sys/policies/acl/tokenvault", map[string]any{"policy": policy})
	w.awaitReady()
}

func lineOf(text, part string) int {
	before, _, _ := strings.Cut(text, part)
	return strings.Count(before, "\n") + 1
}
