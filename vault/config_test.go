package vault

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNewRefuses(t *testing.T) {
	good := Config{Address: "https://vault.test:8200", Auth: AuthConfig{RoleIDFile: "/a", SecretIDFile: "/b"}}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Config){
		"must be https":         func(c *Config) { c.Address = "" },
		"must begin with":       func(c *Config) { c.Address = "unix://host/run/vault.sock" },
		"carry neither":         func(c *Config) { c.Address = "https://marker-client-secret@vault.test" },
		"neither credentials":   func(c *Config) { c.Address = "https://vault.test/?a=b" },
		"shows the secrets":     func(c *Config) { c.Address = "http://127.0.0.1:8200" },
		"loopback":              func(c *Config) { c.Address, c.UnsafePlainHTTP = "http://192.0.2.1:8200", true },
		"only for a loopback":   func(c *Config) { c.Address, c.UnsafePlainHTTP = "http://127.0.0.1.vault.test", true },
		"printable":             func(c *Config) { c.Namespace = "a\r\nX-Vault-Token: b" },
		"negative":              func(c *Config) { c.Timeout = -time.Second },
		"kv_mount":              func(c *Config) { c.KVMount = "../sys" },
		"apps_path":             func(c *Config) { c.AppsPath = "a/*" },
		"transit_key":           func(c *Config) { c.TransitKey = "a/b" },
		"secret_id_file":        func(c *Config) { c.Auth.SecretIDFile = "" },
		"token_file":            func(c *Config) { c.Auth = AuthConfig{Method: "token"} },
		"auth mount":            func(c *Config) { c.Auth.Mount = "a b" },
		"kubernetes needs role": func(c *Config) { c.Auth.Method = "kubernetes" },
		"jwt needs jwt_file":    func(c *Config) { c.Auth = AuthConfig{Method: "jwt", Role: "a"} },
		"cert needs key_file":   func(c *Config) { c.Auth = AuthConfig{Method: "cert", CertFile: "/a"} },
		"needs an https": func(c *Config) {
			c.Address, c.UnsafePlainHTTP, c.Auth = "http://127.0.0.1:8200", true, AuthConfig{Method: "cert", CertFile: "/a", KeyFile: "/b"}
		},
		"wrapped is about":     func(c *Config) { c.Auth = AuthConfig{Method: "token", TokenFile: "/a", Wrapped: true} },
		"there is no method":   func(c *Config) { c.Auth.Method = "AppRole" },
		"vault ca_file: open ": func(c *Config) { c.CAFile = "/nonexistent/ca.pem" },
	} {
		c := good
		change(&c)
		_, err := New(c)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		} else {
			noLeak(t, err.Error())
		}
	}
}

// TestPlainHTTPDialsLoopbackOnly: a name that is allowed by its looks is judged
// again by what it resolves to.
func TestPlainHTTPDialsLoopbackOnly(t *testing.T) {
	for address, ok := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "127.9.9.9:1": true, "192.0.2.1:1": false, "[::ffff:192.0.2.1]:1": false, "0.0.0.0:1": false, "[::]:1": false, "host:1": false, "": false} {
		if err := loopbackOnly("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestReadSecretFile(t *testing.T) {
	dir := t.TempDir()
	n := 0
	file := func(content string, change func(path string) error) string {
		n++
		path := filepath.Join(dir, string(rune('a'+n)))
		writeFile(t, path, content)
		if change != nil {
			if err := change(path); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	mode := func(m os.FileMode) func(string) error { return func(p string) error { return os.Chmod(p, m) } }
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file("linked", nil), link); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		file("marker", nil):                          "marker",
		file("marker\n", mode(0o400)):                "marker",
		file("marker\r\n", nil):                      "marker",
		file("marker\n\n", nil):                      "marker\n",
		file(" marker ", mode(0o640)):                " marker ",
		file(strings.Repeat("a", 64<<10), nil):       strings.Repeat("a", 64<<10),
		link:                                         "linked",
		file("ours", mode(0o600|os.ModeSticky)):      "ours",
		file("group is ours too", mode(0o660)):       "group is ours too",
		file("executable says nothing", mode(0o700)): "executable says nothing",
	} {
		got, err := ReadSecretFile(path)
		if err != nil || !got.Equal(text(content)) {
			t.Errorf("%d bytes: %v", len(content), err)
		}
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, why := range map[string]string{
		filepath.Join(dir, "missing"):            "no such file",
		dir:                                      "not a regular file",
		fifo:                                     "not a regular file",
		"/dev/null":                              "not a regular file",
		file("", nil):                            "is empty",
		file("\n", nil):                          "is empty",
		file(strings.Repeat("a", 64<<10+1), nil): "larger than 64 KiB",
		file("marker", mode(0o604)):              "every user",
		file("marker", mode(0o602)):              "every user",
	} {
		if _, err := ReadSecretFile(path); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
}

// TestSecretFileOwners judges owners that only root could make.
func TestSecretFileOwners(t *testing.T) {
	us, group := uint32(os.Geteuid()), uint32(os.Getegid())
	for _, c := range []struct {
		uid, gid   uint32
		mode       os.FileMode
		credential bool
		ok         bool
	}{
		{us, group, 0o600, false, true},
		{0, group, 0o400, false, true},
		{us + 1, group, 0o600, false, us+1 == 0},
		{0, group + 1, 0o640, false, false},
		{0, group + 1, 0o620, false, false},
		{0, group + 1, 0o600, false, true},
		{0, group + 1, 0o440, true, true},
		{0, group, 0o444, true, false},
		{us + 1, group, 0o440, true, false},
		{us, group, 0o600 | os.ModeDevice, false, false},
	} {
		err := judge(fileInfo{mode: c.mode, stat: syscall.Stat_t{Uid: c.uid, Gid: c.gid}}, c.credential, nil)
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Root reads in the place of one user, and of nobody else; what is open to all is
// open in any case.
func TestJudgeForReader(t *testing.T) {
	reader := &Reader{UID: 64000, GID: 64001}
	for _, c := range []struct {
		uid, gid uint32
		mode     os.FileMode
		ok       bool
	}{
		{64000, 64001, 0o640, true}, {64000, 9, 0o600, true}, {64000, 64009, 0o640, false},
		{64002, 64001, 0o600, false}, {64000, 64001, 0o644, false}, {0, 64001, 0o640, true},
	} {
		err := judge(fileInfo{mode: c.mode, stat: syscall.Stat_t{Uid: c.uid, Gid: c.gid}}, false, reader)
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

type fileInfo struct {
	os.FileInfo
	mode os.FileMode
	stat syscall.Stat_t
}

func (f fileInfo) Mode() os.FileMode { return f.mode }
func (f fileInfo) Size() int64       { return 1 }
func (f fileInfo) Sys() any          { return &f.stat }

func TestIsCredential(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	writeFile(t, path, "marker")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if isCredential(path) {
		t.Error("a directory that systemd did not make counts")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/nonexistent.service")
	if isCredential(path) || isCredential("/run/credentials/nonexistent.service/../../../etc/passwd") {
		t.Error("a file elsewhere counts")
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	for i := range 100 {
		high := min(defaultPace.last, time.Second<<min(i, 10))
		if d := b.next(defaultPace); d < high/2 || d > high {
			t.Fatalf("failure %d: %v, want between %v and %v", i, d, high/2, high)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"data":{"clientSecret":"a","appKey":"b"},"metadata":{"version":1}}}`,
		`{"data":{"data":null,"metadata":{"version":2,"destroyed":true}}}`,
		`{"errors":["check-and-set"]}`, `{"data":{"data":{"clientSecret":null},"metadata":{"version":1}}}`, `{}`, `[]`, `{"data":[]}`, ``,
	} {
		f.Add(200, []byte(seed))
		f.Add(404, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if notVaultsOwn(status, body) != "" {
			return
		}
		a := answer{status: status, body: body}
		a.says("a")
		if got, err := parseApp(a); err == nil && (!a.ok() || got.Version < 1 || got.ClientSecret.IsZero()) {
			t.Errorf("status %d made version %d", status, got.Version)
		}
	})
}
