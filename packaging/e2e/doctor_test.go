package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// doctorWorld is an installation as an administrator wants it: Vault over TLS, a
// credential that is bound to an address, every exchange says whose it is, and there
// is a backup.
type doctorWorld struct {
	*world
	front *vaultFront
	right vaulttest.TLS
	other vaulttest.TLS // signed by somebody else
}

// ofThisMachine are the lines that may end otherwise in a container of tests.
var ofThisMachine = map[string]map[string]string{
	"clock":  {"warn": "nothing keeps this machine's clock right"},
	"unit":   {"not checked": "systemd has no unit tokenvault.service"},
	"kernel": {"warn": "memfd_secret"},
}

func newDoctorWorld(t *testing.T) *doctorWorld {
	w := prepareWorld(t, options{storage: true})
	w.edit(`\n\[humanapi\]`, "\n[humanapi]\nauth_url = \""+w.sim.URL+"\"\ndata_url = \""+w.sim.URL+"\"")
	w.edit(`name = "shop"\n`, "name = \"shop\"\nrequire_client_user_id = true\n")
	w.edit(`name = "club"\n`, "name = \"club\"\nrequire_client_user_id = true\n")
	authority := vaulttest.NewAuthority(t)
	d := &doctorWorld{world: w, right: authority.Server("vault.test"), other: vaulttest.NewAuthority(t).Server("vault.test")}
	d.front = newFront(w, &d.right)
	w.setUpVault()
	w.vault.Must("POST", daemonRole, map[string]any{"token_bound_cidrs": []string{"127.0.0.1/32"}})
	w.start()
	w.awaitReady()
	d.exchange(200)
	must(t, os.Mkdir(w.path("backups"), 0o700))
	w.must("", "store", "backup", "--output", w.path("backups/tokenvault-1.backup"))
	return d
}

func (d *doctorWorld) exchange(status int) {
	d.t.Helper()
	human := d.sim.NewHumanID()
	root := d.root("public")
	defer root.http.CloseIdleConnections()
	if got := root.do("POST", tokens, d.finishEvent(human, human+"@example.test").json(), "X-Client-User-Id: "+human+"@example.test"); got.status != status {
		d.t.Fatalf("an exchange: %d, want %d", got.status, status)
	}
}

type examined struct {
	Check, State, Finding string
	Cures                 []string
}

// doctor examines, and returns the lines and the exit code.
func (d *doctorWorld) doctor() (map[string]examined, int) {
	d.t.Helper()
	out := d.cli("", "doctor", "--json", "--backups", d.path("backups"))
	var report struct {
		OK     bool
		Checks []examined
	}
	if err := json.Unmarshal([]byte(out.stdout), &report); err != nil || len(report.Checks) < 20 || report.OK == (out.code == 5) {
		d.t.Fatalf("doctor: exit %d, %v\n%s%s", out.code, err, out.stdout, out.stderr)
	}
	lines := map[string]examined{}
	for _, c := range report.Checks {
		lines[c.Check] = c
	}
	for _, marker := range []string{shopSecret, clubSecret, d.vault.RootToken, "secret_id\""} {
		if strings.Contains(out.stdout+out.stderr, marker) {
			d.t.Error("doctor prints a secret")
		}
	}
	return lines, out.code
}

// well: the line is ok, or ends as it does on this machine.
func well(c examined, also map[string]string) bool {
	return c.State == "ok" || also[c.Check] == c.State || ofThisMachine[c.Check][c.State] != "" && strings.Contains(c.Finding, ofThisMachine[c.Check][c.State])
}

// healthy holds every line to be well.
func (d *doctorWorld) healthy(t *testing.T, also map[string]string) {
	t.Helper()
	lines, code := d.doctor()
	for name, c := range lines {
		if !well(c, also) {
			t.Errorf("%s: %s: %s", name, c.State, c.Finding)
		} else if c.State != "ok" {
			t.Logf("figure: of this machine: %s: %s: %s", name, c.State, c.Finding)
		}
	}
	if code != 0 {
		t.Errorf("exit %d", code)
	}
}

// doctorRow is one fault: plant brings it about, and returns what ends it (nil: the
// next row goes on from there).
type doctorRow struct {
	name               string
	plant              func(d *doctorWorld) (mend func())
	check, state, cure string
}

func (d *doctorWorld) row(t *testing.T, r doctorRow, also map[string]string) {
	group := d.t
	d.t, d.life = t, group
	defer func() { d.t = group }()
	if mend := r.plant(d); mend != nil {
		defer mend()
	}
	lines, code := d.doctor()
	if got := lines[r.check]; got.State != r.state || !strings.Contains(strings.Join(got.Cures, "\n"), r.cure) {
		t.Errorf("%s: %s, %s, cures %q; want %s and %q", r.check, got.State, got.Finding, got.Cures, r.state, r.cure)
	}
	if want := map[string]int{"fail": 5, "warn": 0}[r.state]; code != want {
		t.Errorf("exit %d, want %d", code, want)
	}
	for name, c := range lines {
		if name != r.check && c.State != "not checked" && !well(c, also) {
			t.Errorf("%s changed, too: %s: %s", name, c.State, c.Finding)
		}
	}
	t.Logf("figure: | %s | %s | %s | %s |", r.name, r.check, lines[r.check].Finding, strings.Join(lines[r.check].Cures, "; "))
}

// TestDoctor plants faults one by one beside a daemon that runs.
func TestDoctor(t *testing.T) {
	d := newDoctorWorld(t)
	t.Run("healthy", func(t *testing.T) { d.healthy(t, nil) })
	for _, r := range runningFaults {
		t.Run(r.name, func(t *testing.T) { d.row(t, r, nil) })
	}
	t.Run("healthy again", func(t *testing.T) { d.healthy(t, nil) })
	t.Run("somebody else", d.bySomebody)
	t.Run("hung", func(t *testing.T) {
		d.row(t, doctorRow{"a daemon that hangs", hang, "daemon", "fail", "systemctl restart tokenvault"}, nil)
	})
}

// bySomebody: who may read little is told so, and learns nothing else.
func (d *doctorWorld) bySomebody(t *testing.T) {
	cmd := exec.Command(binary, "--config", d.config, "doctor", "--backups", d.path("backups"))
	cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH")}, "/"
	cmd.SysProcAttr = asUser(strangerUID)
	out := runCommand(t, cmd, "")
	for _, want := range []string{"ok           configuration", "not checked  files and modes", "be root", "not checked  store"} {
		if !strings.Contains(out.stdout, want) {
			t.Errorf("it does not say %q:\n%s%s", want, out.stdout, out.stderr)
		}
	}
	if strings.Contains(out.stdout, "\x1b") || out.stderr != "" {
		t.Errorf("stderr %q, or colours in a pipe:\n%s", out.stderr, out.stdout)
	}
}

func hang(d *doctorWorld) func() {
	must(d.t, d.daemon.cmd.Process.Signal(syscall.SIGSTOP))
	return func() { must(d.t, d.daemon.cmd.Process.Signal(syscall.SIGCONT)) }
}

var runningFaults = []doctorRow{
	{"Vault is sealed", sealed, "Vault address", "fail", "vault status -address="},
	{"something else is at Vault's address", frontedBy(200, "<!DOCTYPE html>"), "Vault address", "fail", "vault status -address="},
	{"nothing is at Vault's address", edited(`address = "https://[^"]*"`, `address = "https://127.0.0.1:1"`), "Vault address", "fail", "vault status -address="},
	{"another authority's certificate", shown, "Vault TLS", "fail", "openssl s_client"},
	{"a certificate for another name", edited(`tls_server_name = "vault.test"`, `tls_server_name = "other.test"`), "Vault TLS", "fail", "openssl s_client"},
	{"Vault's clock an hour ahead", clockAhead, "clock", "fail", "timedatectl set-ntp true"},
	{"a secret id that is none", wrongSecretID, "Vault login", "fail", "vault write -f -field=secret_id auth/approle/role/tokenvault/secret-id"},
	{"a secret id of another user", owned("secret-id", strangerUID), "files and modes", "fail", "chown 64000"},
	{"a store of another user", owned("state/store.db", 0), "files and modes", "fail", "chown 64000"},
	{"an audit log that all may read", moded("log/audit.log", 0o644, 0o640), "files and modes", "fail", "chmod go-rwx"},
	{"a policy without Transit's decrypt", lesserPolicy, "Vault rights", "fail", "tokenvault vault policy | vault policy write tokenvault -"},
	{"the policy default, too", defaultPolicy, "Vault rights", "warn", "tokenvault vault setup --apply"},
	{"a credential that works anywhere", unbound, "credential", "warn", "systemd-creds encrypt"},
	{"an entry without clientSecret", emptyEntry, "clientSecrets", "fail", "tokenvault secret put shop"},
	{"no entry for an app", noEntry, "clientSecrets", "fail", "tokenvault secret put club"},
	{"a clientSecret that Human API refuses", wrongSecret, "clientSecrets", "fail", "tokenvault secret put shop"},
	{"an origin that is away", edited(`data_url = "[^"]*"`, `data_url = "http://127.0.0.1:1"`), "origins", "fail", "curl -sSv -o /dev/null http://127.0.0.1:1"},
	{"an app whose users need no name", edited(`name = "club"\nrequire_client_user_id = true`, "name = \"club\"\nrequire_client_user_id = false"), "clientUserId", "warn", "require_client_user_id = true"},
	{"no backup", func(d *doctorWorld) func() {
		return d.moved("backups/tokenvault-1.backup", "backups/elsewhere")
	}, "backup", "warn", "tokenvault store backup --output"},
	{"a damaged backup", damaged("backups/tokenvault-1.backup"), "backup", "fail", "tokenvault store verify"},
	{"a socket that is gone", func(d *doctorWorld) func() {
		return d.moved("run/private/api.sock", "run/private/elsewhere")
	}, "sockets", "fail", "systemctl restart tokenvault"},
	{"a socket of another group", func(d *doctorWorld) func() {
		must(d.t, os.Chown(d.socket("public"), daemonUID, strangerUID))
		return func() { must(d.t, os.Chown(d.socket("public"), daemonUID, publicGID)) }
	}, "sockets", "fail", "chgrp 64010"},
	{"rules that were not loaded", notLoaded, "daemon", "fail", "systemctl restart tokenvault"},
	{"a byte of the audit log changed", damaged("log/audit.log"), "audit log", "fail", "tokenvault audit verify --anchor"},
}

func sealed(d *doctorWorld) func() {
	d.vault.Seal()
	return func() {
		d.vault.Unseal()
		d.awaitWords(soundHealth)
	}
}

func frontedBy(status int, page string) func(*doctorWorld) func() {
	return func(d *doctorWorld) func() {
		d.front.answer(frontSays(status, "text/html", page))
		return func() { d.front.answer(nil); ask(nil, d.world); d.awaitWords(soundHealth) }
	}
}

// edited changes the file that doctor reads; the daemon goes on with what it read.
func edited(pattern, by string) func(*doctorWorld) func() {
	return func(d *doctorWorld) func() {
		before, err := os.ReadFile(d.config)
		must(d.t, err)
		d.edit(pattern, by)
		return func() { must(d.t, os.WriteFile(d.config, before, 0o644)) }
	}
}

func shown(d *doctorWorld) func() {
	d.front.present(d.t, d.other)
	return func() { d.front.present(d.t, d.right); ask(nil, d.world); d.awaitWords(soundHealth) }
}

// clockAhead alters the one answer that tells Vault's time.
func clockAhead(d *doctorWorld) func() {
	d.front.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/sys/health" {
			d.front.pass.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"initialized": true, "sealed": false, "standby": false, "server_time_utc": time.Now().Add(time.Hour).Unix()})
	})
	return func() { d.front.answer(nil) }
}

func wrongSecretID(d *doctorWorld) func() {
	before, err := os.ReadFile(d.path("secret-id"))
	must(d.t, err)
	d.credential("secret-id", "marker-no-secret-id")
	return func() { d.credential("secret-id", string(before)) }
}

func owned(name string, uid int) func(*doctorWorld) func() {
	return func(d *doctorWorld) func() {
		must(d.t, os.Chown(d.path(name), uid, -1))
		return func() { must(d.t, os.Chown(d.path(name), daemonUID, -1)) }
	}
}

func moded(name string, mode, back os.FileMode) func(*doctorWorld) func() {
	return func(d *doctorWorld) func() {
		must(d.t, os.Chmod(d.path(name), mode))
		return func() { must(d.t, os.Chmod(d.path(name), back)) }
	}
}

func (d *doctorWorld) moved(from, to string) func() {
	must(d.t, os.Rename(d.path(from), d.path(to)))
	return func() { must(d.t, os.Rename(d.path(to), d.path(from))) }
}

// damaged flips a bit in the middle of a file.
func damaged(name string) func(*doctorWorld) func() {
	return func(d *doctorWorld) func() {
		before, err := os.Stat(d.path(name))
		must(d.t, err)
		at := before.Size() / 2 // a log grows meanwhile
		d.flipAt(name, at)
		return func() { d.flipAt(name, at) }
	}
}

func (d *doctorWorld) flipAt(name string, at int64) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR, 0)
	must(d.t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	must(d.t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, at)
	must(d.t, err)
}
