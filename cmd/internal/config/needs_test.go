package config

import (
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
