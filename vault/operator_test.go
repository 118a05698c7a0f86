package vault

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

func newOperator(t testing.TB, c Config, token string) *Operator {
	t.Helper()
	o, err := NewOperator(OperatorConfig{Config: c, Token: text(token)})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// testSetup sets an empty Vault up, and then does with what Setup gave all that
// the daemon does.
func testSetup(t *testing.T, server *vaulttest.Server) {
	config := Config{Address: server.Addr, UnsafePlainHTTP: true}
	o := newOperator(t, config, server.RootToken)
	before := snapshot(server)
	plan := setup(t, o, false, 6)
	if plan.RoleID != "" || !plan.SecretID.IsZero() {
		t.Error("a plan has made a role")
	}
	if snapshot(server) != before {
		t.Error("a plan has changed something")
	}
	done := setup(t, o, true, 6)
	for _, s := range done.Steps {
		if !s.Done {
			t.Errorf("%s is not done", s.What)
		}
	}
	setup(t, o, false, 0)
	again := setup(t, o, true, 0)
	if again.RoleID != done.RoleID || again.SecretID.IsZero() || again.SecretID.Equal(done.SecretID) {
		t.Error("a second Setup changed the role, or made no secret id")
	}
	server.Must("PUT", "sys/policies/acl/tokenvault", map[string]any{"policy": `path "*" { capabilities = ["sudo"] }`})
	server.Must("POST", "auth/approle/role/tokenvault", map[string]any{"token_no_default_policy": false})
	setup(t, o, true, 2)

	if _, err := o.PutSecret(t.Context(), app, text(markerSecret)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config.Auth = AuthConfig{RoleIDFile: filepath.Join(dir, "role-id"), SecretIDFile: filepath.Join(dir, "secret-id")}
	writeFile(t, config.Auth.RoleIDFile, done.RoleID)
	writeFile(t, config.Auth.SecretIDFile, string(done.SecretID.Reveal()))
	(&place{config: config, paths: Paths{}.withDefaults(), server: server, name: "tokenvault"}).everyday(t)
}

func setup(t *testing.T, o *Operator, apply bool, needed int) SetupResult {
	t.Helper()
	result, err := o.Setup(t.Context(), SetupConfig{Apply: apply})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range result.Steps {
		if s.Needed {
			n++
		}
	}
	if n != needed || len(result.Steps) != 6 {
		t.Fatalf("%d of %d steps needed, want %d of 6: %+v", n, len(result.Steps), needed, result.Steps)
	}
	return result
}

func snapshot(server *vaulttest.Server) string {
	var b strings.Builder
	for _, path := range []string{"sys/mounts", "sys/auth", "sys/policies/acl?list=true"} {
		fields := server.Must("GET", path, nil)
		fmt.Fprintln(&b, slices.Sorted(mapKeys(fields)), fields["keys"])
	}
	return b.String()
}

func mapKeys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// everyday is what a daemon does on a day.
func (p *place) everyday(t *testing.T) {
	t.Helper()
	c := p.loggedIn(t)
	if missing, err := c.Missing(t.Context(), nil); err != nil || missing != nil {
		t.Errorf("missing %v, %v", missing, err)
	}
	if got, err := c.ReadApp(t.Context(), app); err != nil || !got.ClientSecret.Equal(text(markerSecret)) {
		t.Error(err)
	}
	wrapped, err := c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	if key, err := c.Unwrap(t.Context(), wrapped, []byte("here")); err != nil || !key.Equal(text("marker-key")) {
		t.Error(err)
	}
}

// testSetupKinds: what somebody else made otherwise is never changed.
func testSetupKinds(t *testing.T, server *vaulttest.Server) {
	server.Must("POST", "sys/mounts/one", map[string]any{"type": "kv"})
	server.Must("POST", "sys/mounts/keys", map[string]any{"type": "transit"})
	server.Must("POST", "transit/keys/plain", map[string]any{"type": keyType})
	server.Must("POST", "sys/auth/other", map[string]any{"type": "cert"})
	for what, change := range map[string]func(*Config){
		"KV version 2 at one":              func(c *Config) { c.KVMount = "one" },
		"KV version 2 at keys":             func(c *Config) { c.KVMount = "keys" },
		"Transit at secret":                func(c *Config) { c.TransitMount = "secret" },
		"Transit key transit/keys/plain":   func(c *Config) { c.TransitKey = "plain" },
		"AppRole at auth/other: something": func(c *Config) { c.Auth.Mount = "other" },
	} {
		config := Config{Address: server.Addr, UnsafePlainHTTP: true}
		change(&config)
		result, err := newOperator(t, config, server.RootToken).Setup(t.Context(), SetupConfig{Apply: true})
		if err == nil || !strings.Contains(err.Error(), what) || len(result.Steps) == 0 || result.Steps[len(result.Steps)-1].Done {
			t.Errorf("%s: %v, %+v", what, err, result.Steps)
		}
	}
	_, err := newOperator(t, Config{Address: server.Addr, UnsafePlainHTTP: true}, "marker-wrong-token").Setup(t.Context(), SetupConfig{})
	want(t, err, ErrDenied, "operator's token")
}

func testPutSecret(t *testing.T, p *place) {
	o := newOperator(t, p.config, p.server.RootToken)
	put := func(s string, version int) {
		t.Helper()
		if v, err := o.PutSecret(t.Context(), app, text(s)); err != nil || v != version {
			t.Fatalf("version %d, want %d, %v", v, version, err)
		}
	}
	path := p.paths.app("data", app)
	p.putApp(map[string]any{fieldClientSecret: "old", fieldAppKey: "marker-app-key", "number": json.Number("12345678901234567890"), "list": []any{"a"}})
	number := regexp.MustCompile(`"number":[^,}]*`)
	_, before := p.server.Do("GET", path, nil)
	put("marker-client-secret \"<é>\"", 3)
	data := p.server.Must("GET", path, nil)["data"].(map[string]any)
	if data[fieldClientSecret] != "marker-client-secret \"<é>\"" || data[fieldAppKey] != "marker-app-key" || len(data) != 4 {
		t.Error("the entry is not what it should be")
	}
	if _, after := p.server.Do("GET", path, nil); number.FindString(string(after)) != number.FindString(string(before)) {
		t.Error("a number was changed")
	}
	p.server.Must("DELETE", path, nil)
	put("marker-client-secret", 4)
	p.server.Must("DELETE", p.paths.app("metadata", app), nil)
	put("marker-client-secret", 1)
	for _, bad := range []string{"", "\xff", "a\xffb"} {
		if _, err := o.PutSecret(t.Context(), app, text(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	_, err := newOperator(t, p.config, "marker-wrong-token").PutSecret(t.Context(), app, text(markerSecret))
	want(t, err, ErrDenied, path)
}

// testPutSecretTogether: of those who change an entry at the same time nobody
// loses what another wrote.
func testPutSecretTogether(t *testing.T, p *place) {
	o := newOperator(t, p.config, p.server.RootToken)
	var turns sync.WaitGroup
	var mu sync.Mutex
	versions := map[int]bool{}
	for i := range 8 {
		turns.Go(func() {
			v, err := o.PutSecret(context.Background(), app, secret.FromString(fmt.Sprint("marker-", i)))
			mu.Lock()
			defer mu.Unlock()
			if err == nil && versions[v] {
				t.Errorf("version %d was written twice", v)
			}
			if err != nil && !strings.Contains(err.Error(), "somebody else changed") {
				t.Error(err)
			}
			versions[v] = err == nil
		})
	}
	turns.Wait()
	version := p.server.Must("GET", p.paths.app("data", app), nil)["metadata"].(map[string]any)["version"].(float64)
	if !versions[int(version)] || int(version) < 2 {
		t.Errorf("the current version %v was acknowledged to nobody", version)
	}
}

// testPutSecretBetween: what somebody else writes between the read and the write
// is not lost.
func testPutSecretBetween(t *testing.T, p *place) {
	p.link.before = func(r *http.Request) {
		if r.Method == http.MethodPut {
			p.putApp(map[string]any{fieldClientSecret: "older", fieldAppKey: "marker-app-key"})
		}
	}
	o := newOperator(t, p.config, p.server.RootToken)
	_, err := o.PutSecret(t.Context(), app, text(markerSecret))
	if err == nil || !strings.Contains(err.Error(), "somebody else changed") {
		t.Error(err)
	}
	if data := p.server.Must("GET", p.paths.app("data", app), nil)["data"].(map[string]any); data[fieldAppKey] != "marker-app-key" || data[fieldClientSecret] != "older" {
		t.Error("the other's write is lost")
	}
}

var update = flag.Bool("update", false, "write the golden files")

func TestPolicyGolden(t *testing.T) {
	for _, format := range []string{"hcl", "sh", "terraform"} {
		got, err := Policy(Paths{}, format)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", "policy."+format)
		if *update {
			writeFile(t, file, got)
		}
		golden, err := os.ReadFile(file)
		if err != nil || string(golden) != got {
			t.Errorf("%s differs from its golden file (go test -update writes it): %v", format, err)
		}
	}
	if _, err := Policy(Paths{}, "json"); err == nil {
		t.Error("an unknown format was taken")
	}
	for _, bad := range []Paths{{KVMount: "a\"b"}, {AppsPath: "*"}, {StatePath: "a/+/b"}, {TransitMount: "/a"}, {TransitKey: "a/b"}, {AppsPath: "a/../b"}, {KVMount: "a\nb"}} {
		if _, err := Policy(bad, "hcl"); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
