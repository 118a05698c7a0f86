package cli_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
)

// up runs the daemon until stop.
func (s *site) up() (stop func() error) {
	s.t.Helper()
	m := newManager(s)
	end := s.daemon(s.command("serve"), m)
	m.await("READY=1")
	return func() error {
		defer func() { _ = os.Remove(m.path) }()
		return errors.Join(end(), m.conn.Close())
	}
}

func (s *site) at(name string) string { return filepath.Join(s.dir, name) }

func (s *site) rename(from, to string) {
	s.t.Helper()
	if err := os.Rename(s.at(from), s.at(to)); err != nil {
		s.t.Fatal(err)
	}
}

type verifyOutput struct {
	OK                                  bool
	Counts, States                      map[string]int
	Incarnation                         uint64
	WrappedUnder, Ambiguous             int
	MinDecryptionVersion, LatestVersion int
}

// A backup is verified, brought back where there is no store, and served; the log
// is held against what Vault remembers.
func TestRestore(t *testing.T) {
	s := newSite(t)
	s.prepare()
	stop := s.up()
	s.exchanges()
	s.run(0, "", "store", "backup", "--output", s.at("b"))
	var v verifyOutput
	if err := json.Unmarshal([]byte(s.run(0, "", "store", "verify", "--json", s.at("b"))), &v); err != nil {
		t.Error(err)
	}
	if !v.OK || v.Counts["users"] != 1 || v.States["active"] != 1 || v.Incarnation != 1 || v.WrappedUnder != 1 || v.LatestVersion != 1 {
		t.Errorf("%+v", v)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	s.run(1, "", "store", "restore", "--yes", s.at("b"))
	s.onStderr("never overwritten", "hint: tokenvault store check")

	s.rename("store.db", "store.lost")
	s.run(1, "no\n", "store", "restore", s.at("b"))
	s.onStderr("incarnation 2 begins", "written", "not confirmed: nothing was changed", "0 exchanges that the backup had")
	if _, err := os.Lstat(s.at("store.db")); err == nil {
		t.Error("a store was made that nobody wanted")
	}
	out := s.run(0, "yes\n", "store", "restore", "--token-file", s.at(".vault-token"), s.at("b"))
	if !strings.Contains(out, "restored with 1 user, as incarnation 2") || strings.Contains(s.stderr, "alice") {
		t.Errorf("%q %q", out, s.stderr)
	}
	s.onStderr("hint: start the daemon", "must stay stopped")
	s.run(1, "", "audit", "verify", "--anchor")
	s.onStderr("names no line of an audit log", "hint: a store that was restored")
	stop = s.up()
	if users := decode[api.Users](s, 0, "", "users", "show", "--client-user-id", "alice"); len(users.Users) != 1 {
		t.Errorf("%+v", users)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	s.anchoredLog()
}

// anchoredLog: a log that lacks what Vault remembers is not complete.
func (s *site) anchoredLog() {
	s.t.Helper()
	out := s.run(0, "", "audit", "verify", "--anchor")
	for _, word := range []string{"consistent: ", "\nauthentic to line ", "\ncomplete to line "} {
		if !strings.Contains(out, word) {
			s.t.Errorf("%q is not in %q", word, out)
		}
	}
	a := decode[struct {
		Complete  bool
		PublicKey string
	}](s, 0, "", "audit", "verify", "--anchor", "--token-file", s.at(".vault-token"))
	if !a.Complete {
		s.t.Errorf("%+v", a)
	}
	s.run(0, "", "audit", "verify", "--anchor", "--key", a.PublicKey)
	s.run(5, "", "audit", "verify", "--anchor", "--key", strings.Repeat("00", 32))
	s.run(2, "", "audit", "verify", "--token-file", s.at(".vault-token"))
	log, err := os.ReadFile(s.at("audit.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	lines := strings.SplitAfter(string(log), "\n")
	if err := os.WriteFile(s.at("audit.log"), []byte(strings.Join(lines[:len(lines)-3], "")), 0o640); err != nil {
		s.t.Fatal(err)
	}
	s.run(0, "", "audit", "verify", "--key", a.PublicKey)
	if out := s.run(5, "", "audit", "verify", "--anchor"); !strings.Contains(out, "NOT complete") {
		s.t.Errorf("cut off: %q", out)
	}
}

// What is wrong with a backup, or was done to Vault's key, is exit 5.
func TestVerify(t *testing.T) {
	s := newSite(t)
	s.prepare()
	stop := s.up()
	s.exchanges()
	s.run(0, "", "store", "backup", "--output", s.at("b"))
	if err := stop(); err != nil {
		t.Error(err)
	}
	whole, err := os.ReadFile(s.at("b"))
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(s.at("store.db"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cut": string(whole[:len(whole)-1]), "bent": string(whole[:300]) + "x" + string(whole[301:]), "none": "none"} {
		s.run(5, text, "store", "verify", "-")
		if !strings.Contains(s.stderr, "not a whole and unaltered backup") {
			t.Errorf("%s: %q", name, s.stderr)
		}
	}
	s.env = []string{"TMPDIR=" + s.at("tmp")}
	if err := os.Mkdir(s.at("tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out := s.run(0, string(whole), "store", "verify", "-"); !strings.HasSuffix(out, "ok: it is whole, and everything in it opens\n") || s.stderr != "" {
		t.Errorf("%q %q", out, s.stderr)
	}
	if left, err := os.ReadDir(s.at("tmp")); err != nil || len(left) > 0 {
		t.Errorf("%v left, %v", left, err)
	}
	s.run(2, string(whole), "store", "restore", "-")
	s.run(1, "", "store", "verify", s.at("no-such-file"))
	s.run(3, "", "store", "verify", "--token-file", s.wrongToken(), s.at("b"))

	s.vault.Must("POST", "transit/keys/tokenvault/rotate", nil)
	s.run(0, "", "store", "verify", s.at("b"))
	s.onStderr("warning: the next raise of min_decryption_version kills this backup", "version 1 ", "newest is 2")
	s.vault.Must("POST", "transit/keys/tokenvault/config", map[string]any{"min_decryption_version": 2})
	s.run(5, "", "store", "verify", s.at("b"))
	s.onStderr("opens no longer", "hint: lower min_decryption_version")
	if after, err := os.ReadFile(s.at("store.db")); err != nil || string(after) != string(before) {
		t.Error("the live store was touched")
	}
}

func (s *site) wrongToken() string {
	s.t.Helper()
	if err := os.WriteFile(s.at("wrong-token"), []byte("marker-wrong-token"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.at("wrong-token")
}

// With a wrapped secret id the wrapping token is the daemon's alone.
func TestSetupWrap(t *testing.T) {
	s := newSite(t)
	for _, ttl := range []string{"soon", "1ms", "-5m"} {
		s.run(2, "", "vault", "setup", "--wrap", ttl)
	}
	out := s.run(0, "", "vault", "setup", "--apply", "--wrap", "10m")
	s.onStderr("set wrapped = true", "within 10m")
	s.run(0, "marker-client-secret\n", "secret", "put", "shop")
	token, err := os.ReadFile(s.at("secret-id"))
	if err != nil || strings.Contains(out+s.stderr, string(token)) {
		t.Fatalf("%v, or it is shown", err)
	}
	s.rewrite("tokenvault.toml", "[vault.auth]\n", "[vault.auth]\nwrapped = true\n")
	s.run(1, "", "store", "import", "--app", "shop")
	s.onStderr("would take it", "--token-file")
	if !s.vault.Unwraps(string(token)) {
		t.Fatal("the wrapping token was used up by a command")
	}
}

// Other methods than AppRole have no credentials to write.
func TestSetupOtherMethod(t *testing.T) {
	s := newSite(t)
	s.rewrite("tokenvault.toml", "role_id_file = \""+s.dir+"/role-id\"\nsecret_id_file = \""+s.dir+"/secret-id\"", "method = \"token\"\ntoken_file = \""+s.dir+"/token\"")
	out := s.run(0, "", "vault", "setup", "--apply")
	if strings.Contains(out, "written") || strings.Contains(out, "AppRole") {
		t.Errorf("%q", out)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 2 { // the configuration, and the operator's token
		t.Errorf("%v %v", entries, err)
	}
	s.run(2, "", "vault", "setup", "--wrap", "10m")
}

type importOutput struct {
	Lines, Imported, Known int
	Conflicts              []int
	Bad                    []struct {
		Line int
		Why  string
	}
}

func importLine(n int, access string) string {
	return fmt.Sprintf("{\"humanId\":\"marker-human-%d\",\"clientUserId\":\"marker-user-%d\",\"publicToken\":\"marker-public-%d\",\"accessToken\":%q}\n", n, n, n, access)
}

func TestImport(t *testing.T) {
	s := newSite(t)
	s.prepare()
	var in string
	for n := range 30 {
		in += importLine(n, fmt.Sprint("marker-access-", n))
	}
	imported := func(status int, in string, args ...string) importOutput {
		t.Helper()
		v := decode[importOutput](s, status, in, append([]string{"store", "import", "--app", "shop"}, args...)...)
		if strings.Contains(s.stderr, "marker-access") || strings.Contains(s.stderr, "marker-human") {
			t.Error("it shows what is imported")
		}
		return v
	}
	bad := in + "{\"humanId\":\"marker-human-x\"}\n" + importLine(1, "marker-access-other") + "marker-access-x\n"
	if v := imported(5, bad, "--dry-run"); v.Imported != 31 || len(v.Bad) != 2 || v.Bad[0].Line != 31 || v.Bad[0].Why != "accessToken is missing" || v.Bad[1].Line != 33 {
		t.Errorf("%+v", v)
	}
	if _, err := os.Lstat(s.at("store.db")); err == nil {
		t.Error("a dry run made a store")
	}
	if v := imported(1, bad); v.Imported != 30 || v.Known != 0 {
		t.Errorf("%+v", v)
	}
	s.onStderr("line 31: accessToken is missing", "hint: nothing from this line on is imported")
	other := in + importLine(30, "marker-access-30") + "\n" + importLine(1, "marker-access-other")
	for _, more := range [][]string{{"--dry-run"}, {"--token-file", s.at(".vault-token")}} {
		if v := imported(5, other, more...); v.Imported != 1 || v.Known != 30 || len(v.Conflicts) != 1 || v.Conflicts[0] != 33 {
			t.Errorf("%+v", v)
		}
	}
	s.run(2, in, "store", "import")
	s.run(2, in, "store", "import", "--app", "shed")

	stop := s.up()
	s.run(1, in, "store", "import", "--app", "shop")
	s.onStderr("another daemon runs on the store", "hint: systemctl stop tokenvault")
	users := decode[api.Users](s, 0, "", "users", "show", "--client-user-id", "marker-user-7")
	if len(users.Users) != 1 || users.Users[0].PublicToken != "marker-public-7" {
		t.Errorf("%+v", users)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	s.run(0, "", "audit", "verify", "--anchor")
	log, err := os.ReadFile(s.at("audit.log"))
	if err != nil || strings.Count(string(log), `"outcome":"importing"`) != 2 || !strings.Contains(string(log), `"app":"shop","outcome":"imported","count":30`) || strings.Contains(string(log), "marker-human") {
		t.Errorf("%v, %s", err, log)
	}
}

// An import does not hide that the store was put back.
func TestImportIntoOlderStore(t *testing.T) {
	s := newSite(t)
	s.prepare()
	s.run(0, importLine(1, "marker-access-1"), "store", "import", "--app", "shop")
	old, err := os.ReadFile(s.at("store.db"))
	if err != nil {
		t.Fatal(err)
	}
	s.run(0, importLine(2, "marker-access-2"), "store", "import", "--app", "shop")
	if err := os.WriteFile(s.at("store.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(1, importLine(3, "marker-access-3"), "store", "import", "--app", "shop")
	s.onStderr("the store is not what Vault remembers", "hint: start the daemon: tokenvault status")
}
