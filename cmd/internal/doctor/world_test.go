package doctor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
)

// world is an installation whose daemon does not run and whose Vault and Human API
// are away: what the other lines say is of this machine alone.
type world struct {
	t      testing.TB
	dir    string
	kernel kernel
	limit  time.Duration
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "doctor") // short: it holds sockets
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	w := &world{t: t, dir: dir, kernel: kernel{
		pidfd: well, peerPidfd: well, secretmem: well,
		sandbox: func() []sandbox.Part {
			return []sandbox.Part{{Name: sandbox.LandlockFiles, On: true}, {Name: sandbox.LandlockTCP, On: true}, {Name: sandbox.Seccomp, On: true}}
		},
		synced: func() (bool, error) { return true, nil },
		free:   func(string) (uint64, [2]int32, error) { return 1 << 40, [2]int32{}, nil },
	}}
	for _, d := range []string{"etc", "units", "state", "log", "run/public", "run/admin"} {
		must(t, os.MkdirAll(w.at(d), 0o700))
	}
	w.write("etc/role-id", "marker-role-id", 0o600)
	w.write("etc/secret-id", "marker-secret-id", 0o600)
	w.write("etc/passwd", fmt.Sprintf("root:x:0:0::/:/bin/sh\ntokenvault:x:%d:%d::/:/bin/false\nshop:x:5001:5001::/:/bin/sh\n", os.Getuid(), os.Getgid()), 0o600)
	w.write("etc/group", fmt.Sprintf("own:x:%d:\ntokenvault-public:x:5010:shop\nshop:x:5001:\n", os.Getgid()), 0o600)
	w.write("etc/tokenvault.toml", w.toml(), 0o600)
	packaged, err := os.ReadFile("../../../packaging/systemd/" + unitName)
	must(t, err)
	w.write("units/"+unitName, string(packaged), 0o600)
	return w
}

func well() error { return nil }

func ill() error { return errors.New("no such system call") }

func (w *world) toml() string {
	return fmt.Sprintf(`
[[app]]
name = "shop"
client_id = "client-id-of-the-shop"
require_client_user_id = true
[[listener]]
name = "public"
path = %q
ceiling = ["exchange", "public-token"]
[[listener]]
name = "admin"
path = %q
group = ""
ceiling = ["admin-read", "admin"]
[[rule]]
name = "shop-web"
users = ["shop"]
apps = ["shop"]
grants = ["exchange"]
[vault]
address = "http://127.0.0.1:1"
unsafe_plain_http = true
[vault.auth]
role_id_file = %q
secret_id_file = %q
[humanapi]
user_url = "http://127.0.0.1:1"
auth_url = "http://127.0.0.1:1"
data_url = "http://127.0.0.1:1"
unsafe_plain_http = true
[store]
path = %q
[audit]
path = %q
`, w.at("run/public/s"), w.at("run/admin/s"), w.at("etc/role-id"), w.at("etc/secret-id"), w.at("state/store.db"), w.at("log/audit.log"))
}

func (w *world) at(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, content string, mode os.FileMode) {
	w.t.Helper()
	must(w.t, os.WriteFile(w.at(name), []byte(content), mode))
}

func (w *world) chmod(name string, mode os.FileMode) {
	w.t.Helper()
	must(w.t, os.Chmod(w.at(name), mode))
}

// edit replaces a part of a file that must be there.
func (w *world) edit(name, from, to string) {
	w.t.Helper()
	b, err := os.ReadFile(w.at(name))
	must(w.t, err)
	if !strings.Contains(string(b), from) {
		w.t.Fatalf("%s has no %q", name, from)
	}
	w.write(name, strings.Replace(string(b), from, to, 1), 0o600)
}

func (w *world) dropIn(lines string) {
	w.t.Helper()
	must(w.t, os.MkdirAll(w.at("units/"+unitName+".d"), 0o700))
	w.write("units/"+unitName+".d/override.conf", "[Service]\n"+lines+"\n", 0o600)
}

// rest leaves a socket behind at which nobody listens.
func (w *world) rest(name string, mode os.FileMode) {
	w.t.Helper()
	l, err := net.Listen("unix", w.at(name))
	must(w.t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	must(w.t, l.Close())
	w.chmod(name, mode)
}

func (w *world) examine() map[string]Finding {
	w.t.Helper()
	r := Examine(w.t.Context(), Config{
		Load:     config.LoadOptions{Path: w.at("etc/tokenvault.toml"), Env: func(string) string { return "" }, Passwd: w.at("etc/passwd"), Group: w.at("etc/group")},
		UnitDirs: []string{w.at("units")}, Backups: w.at("backups"), kernel: &w.kernel, Limit: w.limit,
	})
	seen := map[string]Finding{}
	for _, c := range r.Checks {
		seen[c.Check] = c.Finding
	}
	return seen
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
