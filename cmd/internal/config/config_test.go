package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	passwd = "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n"
	group  = "root:x:0:\ntokenvault-public:x:901:\ntokenvault-private:x:902:\ntokenvault-admin:x:903:\nworkers:x:904:a,b\n"
)

const minimal = `
[[app]]
name = "shop"
client_id = "2e9574ecd415c99346879d07689ec1c732c11036"
[[listener]]
name = "public"
[vault]
address = "https://vault.internal:8200"
`

// load writes the files into a directory and loads tokenvault.toml there.
func load(t testing.TB, files map[string]string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	files["passwd"], files["group"] = passwd, group
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := Load(LoadOptions{
		Path: filepath.Join(dir, "tokenvault.toml"), Env: func(string) string { return "" },
		Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group"),
	})
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), dir+"/", ""))
	}
	return cfg, err
}

func loadOne(t testing.TB, text string) (*Config, error) {
	return load(t, map[string]string{"tokenvault.toml": text})
}

func TestDefaults(t *testing.T) {
	cfg, err := loadOne(t, minimal)
	if err != nil {
		t.Fatal(err)
	}
	l := cfg.Listeners[0]
	if l.Path != "/run/tokenvault/public/api.sock" || l.Mode != 0o660 || l.GID() != 901 || len(l.Ceiling) != 6 {
		t.Errorf("the public listener's defaults: %+v", l)
	}
	if cfg.DrainTimeout.Std() != 20*time.Second || cfg.Limits.Body != 64*KiB || cfg.Exchange.ReplayWindow.Std() != 168*time.Hour {
		t.Errorf("defaults: %+v", cfg)
	}
	if got := cfg.Vault.Auth.SecretIDFile; got != "/run/credentials/tokenvault.service/vault-secret-id" {
		t.Errorf("secret_id_file is %s", got)
	}
}

// The reference configuration: every key of it, at its documented default, must
// load and mean the same as leaving it out.
func TestReference(t *testing.T) {
	doc, err := os.ReadFile("testdata/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	full, err := loadOne(t, string(doc))
	if err != nil {
		t.Fatal(err)
	}
	bare, err := loadOne(t, minimal)
	if err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[Config]().NumField() {
		f := reflect.TypeFor[Config]().Field(i)
		if slices.Contains([]string{"Apps", "Listeners", "Rules", "where"}, f.Name) {
			continue
		}
		a, b := reflect.ValueOf(*full).Field(i).Interface(), reflect.ValueOf(*bare).Field(i).Interface()
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: the reference says %+v, the default is %+v", f.Name, a, b)
		}
	}
	entries, err := Describe()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		key := e.Key[strings.LastIndexByte(e.Key, '.')+1:]
		if e.Type != "table" && e.Type != "tables" && !strings.Contains(string(doc), key) {
			t.Errorf("%s is not in the reference configuration", e.Key)
		}
	}
}

func TestReferencePolicy(t *testing.T) {
	doc, err := os.ReadFile("testdata/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := loadOne(t, string(doc))
	if err != nil {
		t.Fatal(err)
	}
	if r := cfg.Rules[0]; len(r.uids) != 1 || r.uids[0] != 33 || r.Rate.Burst != 400 {
		t.Errorf("rule: %+v", r)
	}
	if _, err := cfg.Policy(nil); err != nil {
		t.Error(err)
	}
}

func TestDropIns(t *testing.T) {
	cfg, err := load(t, map[string]string{
		"tokenvault.toml":     minimal,
		"conf.d/20-b.toml":    "[[rule]]\nname='b'\nusers=[33]\napps=['more']\ngrants=['lookup']\n",
		"conf.d/10-a.toml":    "[[app]]\nname='more'\nclient_id='marker'\n[[rule]]\nname='a'\ngroups=['workers', '905']\napps=['shop']\ngrants=['exchange']\nrate={per_second=1.5}\n",
		"conf.d/.hidden.toml": "nonsense",
		"conf.d/README":       "nonsense",
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Apps) != 2 || len(cfg.Rules) != 2 || cfg.Rules[0].Name != "a" || cfg.Rules[1].Name != "b" {
		t.Fatalf("merged to %+v", cfg.Rules)
	}
	if !reflect.DeepEqual(cfg.Rules[0].gids, []uint32{904, 905}) || cfg.Rules[0].Rate.Burst != 2 || cfg.Rules[1].uids[0] != 33 {
		t.Errorf("resolved to %+v", cfg.Rules)
	}
}

func TestListsReplaceDefaults(t *testing.T) {
	cfg, err := loadOne(t, minimal+"[audit]\ndurable = ['exchange']\n")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(cfg.Audit.Durable, []string{"exchange"}) {
		t.Errorf("durable is %q", cfg.Audit.Durable)
	}
	if cfg, err = loadOne(t, minimal+"[audit]\ndurable = []\n"); err != nil || len(cfg.Audit.Durable) != 0 {
		t.Errorf("durable is %q, %v", cfg.Audit.Durable, err)
	}
}

// TestErrors holds every message to testdata/errors/*.toml and its golden file
// beside it.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.toml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			set := map[string]string{"tokenvault.toml": string(text)}
			if body, dropIn, both := strings.Cut(string(text), "### conf.d/a.toml\n"); both {
				set["tokenvault.toml"], set["conf.d/a.toml"] = body, dropIn
			}
			_, err = load(t, set)
			if err == nil {
				t.Fatal("was accepted")
			}
			golden(t, strings.TrimSuffix(file, ".toml")+".golden", err.Error()+"\n")
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestDescribe(t *testing.T) {
	entries, err := Describe()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) < 70 {
		t.Errorf("only %d keys", len(entries))
	}
	for _, e := range entries {
		if e.Text == "" {
			t.Errorf("%s has no comment", e.Key)
		}
	}
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Key == "audit.rotate_size" })
	if i < 0 || entries[i].Default != `"256MiB"` || entries[i].Unit == "" {
		t.Errorf("audit.rotate_size is described as %+v", entries[i])
	}
}

func TestFileItself(t *testing.T) {
	dir := operatorDir(t)
	path := filepath.Join(dir, "c.toml")
	_, err := Load(LoadOptions{Path: path})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	env := func(key string) string { return map[string]string{"TOKENVAULT_CONFIG": dir}[key] }
	if _, err = Load(LoadOptions{Env: env}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory from the environment: %v", err)
	}
}

func TestCredentialsDirectory(t *testing.T) {
	env := func(string) string { return "/run/credentials/x.service" }
	for in, want := range map[string]string{
		"$CREDENTIALS_DIRECTORY/a": "/run/credentials/x.service/a",
		"/etc/a":                   "/etc/a",
		"$HOME/a":                  "$HOME/a", // refused by the check
	} {
		if got := expandCredentials(in, env); got != want {
			t.Errorf("%s became %s", in, got)
		}
	}
}

func TestFromSystemd(t *testing.T) {
	text := minimal + "[vault.auth]\nrole_id_file = '/srv/creds/role-id'\nsecret_id_file = '$CREDENTIALS_DIRECTORY/vault-secret-id'\n"
	cfg := defaults()
	cfg.where = places{file: "/etc/x/tokenvault.toml", at: map[string]place{}}
	if err := decode(cfg, cfg.where.file, []byte(text), false); err != nil {
		t.Fatal(err)
	}
	cfg.finish(LoadOptions{Env: func(string) string { return "/srv/creds" }})
	for file, want := range map[string]bool{
		cfg.Vault.Auth.RoleIDFile: false, cfg.Vault.Auth.SecretIDFile: true, "/run/credentials/x.service/a": true, "/run/credentialsx/a": false,
	} {
		if got := cfg.FromSystemd(file); got != want {
			t.Errorf("%s: %v", file, got)
		}
	}
	if cfg.Dir() != "/etc/x" {
		t.Errorf("the directory is %s", cfg.Dir())
	}
}

// A rate that limits nothing is a mistake; a burst is documented to be a second's
// worth, rounded up.
func TestRate(t *testing.T) {
	rule := "[[rule]]\nname='a'\nusers=[33]\napps=['shop']\ngrants=['lookup']\n"
	for rate, want := range map[string]string{
		"rate = { per_second = 0 }":             "rule[0].rate.per_second: wants a number above 0",
		"rate = {}":                             "rule[0].rate.per_second: wants a number above 0",
		"[rule.rate]":                           "rule[0].rate.per_second: wants a number above 0",
		"rate = { burst = 5 }":                  "rule[0].rate.per_second: wants a number above 0",
		"rate = { per_second = nan }":           "rule[0].rate.per_second: wants a number above 0",
		"rate = { per_second = 1000001 }":       "rule[0].rate.per_second: wants a number above 0",
		"rate = { per_second = 5, burst = 0 }":  "rule[0].rate.burst: wants a number from 1",
		"rate = { per_second = 5, burst = -1 }": "rule[0].rate.burst: wants a number from 1",
	} {
		if _, err := loadOne(t, minimal+rule+rate+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rate, err)
		}
	}
	for rate, burst := range map[string]int{"": 0, "rate = { per_second = 0.01 }": 1, "rate = { per_second = 1.5 }": 2, "rate = { per_second = 200 }": 200} {
		cfg, err := loadOne(t, minimal+rule+rate+"\n")
		if err != nil || cfg.Rules[0].Rate.Burst != burst {
			t.Errorf("%s: burst %d, %v", rate, cfg.Rules[0].Rate.Burst, err)
		}
	}
}

// What a message advises is accepted.
func TestAdvisedPath(t *testing.T) {
	rule := "[[rule]]\nname='a'\nusers=[33]\napps=['shop']\ngrants=['proxy']\n"
	_, err := loadOne(t, minimal+rule)
	if err == nil || !strings.Contains(err.Error(), `"/**" is everything`) {
		t.Fatal(err)
	}
	if _, err := loadOne(t, minimal+rule+"paths=['/**']\n"); err != nil {
		t.Error(err)
	}
	if _, err := loadOne(t, minimal+rule+"paths=['**']\n"); err == nil || !strings.Contains(err.Error(), "rule[0].paths: ") {
		t.Errorf("a path that does not begin with /: %v", err)
	}
}
