package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestNeeds(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tokenvault.toml")
	text := `[[app]]
name = "shop"
client_id = "marker"
[[listener]]
name = "public"
path = "/run/a/api.sock"
group = ""
[[listener]]
name = "private"
path = "/run/b/api.sock"
group = ""
[vault]
address = "https://vault.internal:8200"
ca_file = "/etc/ca/vault.pem"
[vault.auth]
role_id_file = "/etc/roles/id"
secret_id_file = "$CREDENTIALS_DIRECTORY/vault-secret-id"
token_file = ""
[humanapi]
proxy_url = ""
auth_url = "https://auth.humanapi.co:8443"
[store]
path = "/var/lib/x/store.db"
[audit]
path = "/var/log/x/audit.log"
`
	load := func(more string) Needs {
		t.Helper()
		if err := os.WriteFile(file, []byte(text+more), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(LoadOptions{Path: file, Env: func(name string) string {
			return map[string]string{"CREDENTIALS_DIRECTORY": "/run/credentials/x"}[name]
		}})
		if err != nil {
			t.Fatal(err)
		}
		return c.Needs()
	}
	n := load("")
	for _, want := range [][2][]string{
		{n.Read, {"/etc/ca", "/etc/roles", "/run/credentials/x", dir}},
		{n.Write, {"/var/lib/x", "/var/log/x"}},
		{n.Sockets, {"/run/a", "/run/b"}},
	} {
		if !slices.Equal(want[0], want[1]) {
			t.Errorf("got %q, want %q", want[0], want[1])
		}
	}
	if !slices.Equal(n.Connect, []uint16{443, 8200, 8443}) {
		t.Errorf("got ports %d", n.Connect)
	}
}

// TestNeedsOfLinks: links to secret files, to authorities, to the file itself and to
// what stands in conf.d are followed, so where they lead to is needed, too.
func TestNeedsOfLinks(t *testing.T) {
	dir := t.TempDir()
	at := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	for _, sub := range []string{"etc", "etc/conf.d", "real", "drop", "agent", "ca"} {
		if err := os.Mkdir(at(sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf(`[[app]]
name = "shop"
client_id = "marker"
[[listener]]
name = "public"
path = "/run/a/api.sock"
group = ""
[vault]
address = "https://vault.internal:8200"
ca_file = %q
[vault.auth]
role_id_file = %q
secret_id_file = %q
`, at("etc", "vault.pem"), at("etc", "id"), at("etc", "secret-id"))
	for file, text := range map[string]string{"real/tokenvault.toml": config, "drop/a.toml": "", "agent/id": "x", "agent/secret-id": "x", "ca/vault.pem": "x"} {
		if err := os.WriteFile(at(file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"etc/tokenvault.toml": "real/tokenvault.toml", "etc/conf.d/a.toml": "drop/a.toml", "etc/id": "agent/id",
		"etc/secret-id": "agent/secret-id", "etc/vault.pem": "ca/vault.pem",
	} {
		if err := os.Symlink(at(target), at(link)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(LoadOptions{Path: at("etc", "tokenvault.toml"), Env: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	read := c.Needs().Read
	for _, want := range []string{"etc", "real", "drop", "agent", "ca"} {
		if !slices.Contains(read, at(want)) {
			t.Errorf("%s is not among %q", want, read)
		}
	}
}
