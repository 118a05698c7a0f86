package doctor

import (
	"os"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
)

// healthy is how every line ends in a world with nothing planted: all that is of
// this machine is ok, and what is away in it is named here.
var healthy = map[string]State{
	"sockets": Unknown, "Vault address": Fail, "Vault TLS": Unknown, "Vault login": Unknown, "Vault rights": Unknown,
	"credential": Unknown, "clientSecrets": Unknown, "Transit": Unknown, "backup": Unknown, "store": OK, "audit log": OK,
	"origins": Fail, "daemon": Warn,
}

// planted is one fault: exactly one line changes, and names the cure.
type planted struct {
	name  string
	plant func(w *world)
	check string
	state State
	cure  string
}

var faults = []planted{
	{"an unknown key", func(w *world) { w.edit("etc/tokenvault.toml", "[[app]]", "colour = 1\n[[app]]") }, "configuration", Fail, "tokenvault config check"},
	{"broken TOML", func(w *world) { w.edit("etc/tokenvault.toml", "[[app]]", "[[app]") }, "configuration", Fail, "tokenvault config check"},
	{"a rule for no app", func(w *world) { w.edit("etc/tokenvault.toml", `apps = ["shop"]`, `apps = ["club"]`) }, "configuration", Fail, "tokenvault config check"},
	{"no file", func(w *world) { must(w.t, os.Remove(w.at("etc/tokenvault.toml"))) }, "configuration", Fail, "install -D"},
	{"http without a word", func(w *world) { w.edit("etc/tokenvault.toml", "unsafe_plain_http = true\n", "") }, "configuration", Fail, "tokenvault config check"},

	{"a configuration that all may write", func(w *world) { w.chmod("etc/tokenvault.toml", 0o666) }, "files and modes", Fail, "chmod go-w"},
	{"its directory, too", func(w *world) { w.chmod("etc", 0o777) }, "files and modes", Fail, "chmod go-w"},
	{"no role id", func(w *world) { must(w.t, os.Remove(w.at("etc/role-id"))) }, "files and modes", Fail, "tokenvault vault setup --apply"},
	{"a secret id that all may read", func(w *world) { w.chmod("etc/secret-id", 0o644) }, "files and modes", Fail, "chmod 0600"},
	{"an empty secret id", func(w *world) { w.write("etc/secret-id", "", 0o600) }, "files and modes", Fail, "tokenvault vault setup --apply"},
	{"an open directory of the store", func(w *world) { w.chmod("state", 0o755) }, "files and modes", Fail, "chmod go-rwx"},
	{"no directory of the audit log", func(w *world) { must(w.t, os.Remove(w.at("log"))) }, "files and modes", Fail, "install -d -m 0700 -o tokenvault"},

	{"no file that systemd could hand over", func(w *world) { w.bySystemd("LoadCredential"); must(w.t, os.Remove(w.at("etc/secret-id"))) }, "files and modes", Fail, "tokenvault vault setup --apply"},
	{"one that all may read", func(w *world) { w.bySystemd("LoadCredential"); w.chmod("etc/secret-id", 0o644) }, "files and modes", Fail, "chmod 0600"},

	{"a group that is missing", func(w *world) { w.edit("etc/group", "tokenvault-public:x:5010:shop\n", "") }, "users and groups", Fail, "groupadd --system tokenvault-public"},
	{"a user that is missing", func(w *world) { w.edit("etc/passwd", "shop:x:", "shop2:x:") }, "users and groups", Fail, "useradd --system shop"},
	{"an app that may open no socket", func(w *world) { w.edit("etc/group", "5010:shop", "5010:") }, "users and groups", Fail, "usermod -aG tokenvault-public shop"},
	{"no user for the daemon", func(w *world) { w.edit("etc/passwd", "tokenvault:x:", "other:x:") }, "users and groups", Fail, "useradd --system --user-group"},

	{"a file where a socket belongs", func(w *world) { w.write("run/public/s", "", 0o600) }, "sockets", Fail, "rm "},
	{"a directory where others may put a socket", func(w *world) { w.chmod("run/public", 0o777) }, "sockets", Fail, "chmod go-w"},
	{"a socket of another mode", func(w *world) { w.rest("run/admin/s", 0o666) }, "sockets", Fail, "chmod 0660"},

	{"no pidfd", func(w *world) { w.kernel.pidfd = ill }, "kernel", Fail, "boot a newer kernel"},
	{"no memfd_secret", func(w *world) { w.kernel.secretmem = ill }, "kernel", Warn, "secretmem.enable=1"},
	{"no Landlock", func(w *world) { w.kernel.sandbox = noLandlock }, "kernel", Warn, "boot a newer kernel"},
	{"no Landlock, and it is required", func(w *world) { w.kernel.sandbox = noLandlock; w.append("[sandbox]\nmode = \"require\"") }, "kernel", Fail, "boot a newer kernel"},
	{"the sandbox is off", func(w *world) { w.append("[sandbox]\nmode = \"off\"") }, "kernel", Warn, `sandbox.mode = "auto"`},
	{"a clock that nothing keeps", func(w *world) { w.kernel.synced = func() (bool, error) { return false, nil } }, "clock", Warn, "timedatectl"},
	{"a full disk", func(w *world) { w.kernel.free = disk(1 << 20) }, "space", Fail, "df -h"},
	{"a disk that is nearly full", func(w *world) { w.kernel.free = disk(200 << 20) }, "space", Warn, "df -h"},

	{"an app whose users need no name", func(w *world) { w.edit("etc/tokenvault.toml", "require_client_user_id = true\n", "") }, "clientUserId", Warn, "require_client_user_id = true"},

	{"new privileges", func(w *world) { w.dropIn("NoNewPrivileges=no") }, "unit", Fail, "systemctl edit tokenvault"},
	{"a capability", func(w *world) { w.dropIn("CapabilityBoundingSet=CAP_DAC_OVERRIDE") }, "unit", Fail, "systemctl edit tokenvault"},
	{"all system calls", func(w *world) { w.dropIn("SystemCallFilter=") }, "unit", Fail, "systemctl edit tokenvault"},
	{"more system calls", func(w *world) { w.dropIn("SystemCallFilter=@debug") }, "unit", Fail, "systemctl edit tokenvault"},
	{"another address family", func(w *world) { w.dropIn("RestrictAddressFamilies=AF_PACKET") }, "unit", Fail, "systemctl edit tokenvault"},
	{"a place to write", func(w *world) { w.dropIn("ReadWritePaths=/etc") }, "unit", Fail, "systemctl edit tokenvault"},
	{"core dumps", func(w *world) { w.dropIn("LimitCORE=infinity") }, "unit", Fail, "systemctl edit tokenvault"},
	{"a line that is gone", func(w *world) { w.edit("units/"+unitName, "ProtectSystem=strict\n", "") }, "unit", Fail, "systemctl edit tokenvault"},
}

func noLandlock() []sandbox.Part {
	return []sandbox.Part{{Name: sandbox.LandlockFiles, Why: "the kernel has none"}, {Name: sandbox.Seccomp, On: true}}
}

func disk(bytes uint64) func(string) (uint64, [2]int32, error) {
	return func(string) (uint64, [2]int32, error) { return bytes, [2]int32{}, nil }
}

func (w *world) append(lines string) {
	w.edit("etc/tokenvault.toml", "[store]", lines+"\n[store]")
}

// bySystemd makes systemd hand the credentials over.
func (w *world) bySystemd(how string) {
	for _, name := range []string{"role-id", "secret-id"} {
		w.edit("etc/tokenvault.toml", w.at("etc/"+name), "$CREDENTIALS_DIRECTORY/"+name)
		w.dropIn(w.credentials(how))
	}
}

func (w *world) credentials(how string) string {
	return how + "=role-id:" + w.at("etc/role-id") + "\n" + how + "=secret-id:" + w.at("etc/secret-id")
}

// What systemd hands over is judged where systemd reads it; what it decrypts is bound
// to the machine.
func TestCredentialsOfSystemd(t *testing.T) {
	for how, want := range map[string]State{"LoadCredential": Unknown, "LoadCredentialEncrypted": OK} {
		w := newWorld(t)
		w.bySystemd(how)
		for name, f := range w.examine() {
			if name == "credential" && f.State != want || name != "credential" && f.State != stateOf(name) {
				t.Errorf("%s: %s: %s: %s", how, name, f.State, f.Text)
			}
		}
	}
}

func stateOf(check string) State {
	if s, ok := healthy[check]; ok {
		return s
	}
	return OK
}

func TestHealthy(t *testing.T) {
	seen := newWorld(t).examine()
	if len(seen) != len(Names()) {
		t.Errorf("%d lines of %d", len(seen), len(Names()))
	}
	for name, f := range seen {
		if f.State != stateOf(name) {
			t.Errorf("%s: %s: %s", name, f.State, f.Text)
		}
		if (f.State == Fail || f.State == Warn) && len(f.Cures) == 0 {
			t.Errorf("%s: no cure for %s", name, f.Text)
		}
	}
}

// TestFaults plants each fault alone: one line changes, and beside it at most those
// that cannot be looked at without it.
func TestFaults(t *testing.T) {
	for _, p := range faults {
		t.Run(p.name, func(t *testing.T) {
			w := newWorld(t)
			p.plant(w)
			seen := w.examine()
			got := seen[p.check]
			if got.State != p.state || !strings.Contains(strings.Join(got.Cures, "\n"), p.cure) {
				t.Errorf("%s: %s, %s, cures %q; want %s and %q", p.check, got.State, got.Text, got.Cures, p.state, p.cure)
			}
			for name, f := range seen {
				if name != p.check && f.State != stateOf(name) && f.State != Unknown {
					t.Errorf("%s changed, too: %s: %s", name, f.State, f.Text)
				}
				if strings.Contains(f.Text, "marker") {
					t.Errorf("%s quotes a credential", name)
				}
			}
		})
	}
	t.Logf("figure: %d faults of this machine were planted", len(faults))
}

// The table of what is as strong as packaged is the packaged unit.
func TestHardeningIsThePackagedUnit(t *testing.T) {
	u := readUnit([]string{"../../../packaging/systemd"})
	for key, strong := range hardening {
		if got := u.last("Service", key); got != strong[0] {
			t.Errorf("%s: packaged %q, here %q", key, got, strong[0])
		}
	}
	if weak := u.weak(); len(weak) > 0 {
		t.Errorf("%q", weak)
	}
}
