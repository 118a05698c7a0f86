package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const rolledBackHealth = "not ready: the store is not at or ahead of its rollback anchor"

// rollbackRow is one way in which what is here is not what Vault remembers. It
// starts with a daemon that has stopped cleanly, and one user who is there in any
// case.
type rollbackRow struct {
	name   string
	reason string // that the status gives
	begin  func(w *world)
	empty  bool // nobody is left
}

// A store, keyring or log that is older than the anchor in Vault, or not the one
// that it names, is found at the start: nothing is served but the admin socket,
// until an administrator has seen both sides and accepted.
func TestRollbackIsFound(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.start()
	w.awaitReady()
	kept := w.connected()
	w.stop()
	for _, r := range []rollbackRow{
		{name: "the store replaced by an older copy", reason: "the store stands at change", begin: olderStore},
		{name: "a keyring from before a change of keys", reason: "the keyring is of generation", begin: olderKeyring},
		{name: "the audit log cut at a checkpoint", reason: "the audit log lacks line", begin: cutLog},
		{name: "the whole audit log gone", reason: "the audit log lacks line", begin: func(w *world) { w.aside("log") }},
		{name: "the anchor deleted in Vault, with all versions", reason: "Vault has no anchor for it", begin: func(w *world) { w.vault.Must("DELETE", "secret/metadata/"+anchorPath, nil) }},
		{name: "the anchor's version deleted in Vault", reason: "Vault has no anchor for it", begin: func(w *world) { w.vault.Must("DELETE", "secret/data/"+anchorPath, nil) }},
		{name: "another store", reason: "the store here is another one than the anchor names", begin: otherStore},
		{name: "no store", reason: "there is no store here", begin: func(w *world) { w.aside("state"); w.aside("log") }, empty: true},
	} {
		t.Run(r.name, func(t *testing.T) { w.rollbackRow(t, r, kept) })
	}
}

const anchorPath = "tokenvault/state/main"

func (w *world) rollbackRow(t *testing.T, r rollbackRow, kept sto) {
	group := w.t
	w.t, w.life = t, group
	defer func() { w.t = group }()
	before := w.storeStatus().Incarnation
	r.begin(w)
	w.start()
	w.awaitWords(rolledBackHealth)
	w.onlyAdmin(t, kept)
	status := w.must("", "status")
	for _, word := range []string{"VAULT REMEMBERS", "HERE", r.reason} {
		if !strings.Contains(status, word) {
			t.Errorf("the status does not say %q:\n%s", word, status)
		}
	}
	if out := w.cli("", "store", "accept"); out.code == 0 {
		t.Error("it is accepted without a question")
	}
	w.onlyAdmin(t, kept)
	w.must("", "store", "accept", "--yes")
	w.awaitReady()
	after := w.storeStatus().Incarnation
	if after <= before && !r.empty || after == 0 {
		t.Errorf("incarnation %d, before %d", after, before)
	}
	root := w.root("private")
	defer root.http.CloseIdleConnections()
	want := 200
	if r.empty {
		want = 404
	}
	if got := root.do("GET", "/v1/users/"+kept.humanID+"?clientId="+shop, "").status; got != want {
		t.Errorf("the lookup of the user who was there: %d, want %d", got, want)
	}
	w.connected()
	w.stop()
	w.checksOffline(t)
	w.start() // and a normal start is one again
	w.awaitReady()
	w.stop()
	t.Logf("figure: | Rollback: %s | 503 starting | none | unchanged | %s | store accept: incarnation %d, and serves |", r.name, rolledBackHealth, after)
}

// onlyAdmin: every other socket answers that it is not ready.
func (w *world) onlyAdmin(t *testing.T, kept sto) {
	t.Helper()
	for _, listener := range []string{"public", "private"} {
		root := w.root(listener)
		defer root.http.CloseIdleConnections()
		root.do("POST", tokens, kept.json()).want(t, 503, "starting")
		root.do("GET", "/v1/users/"+kept.humanID+"?clientId="+shop, "").want(t, 503, "starting")
	}
}

type storeStatus struct {
	Incarnation uint64
}

// storeStatus is of the store on disk when no daemon runs, else of the running one.
func (w *world) storeStatus() storeStatus {
	w.t.Helper()
	running := true
	select {
	case <-w.daemon.done:
		running = false
	default:
	}
	if !running {
		w.start()
		w.awaitReady()
		defer w.stop()
	}
	var status struct{ Store storeStatus }
	admin := w.root("admin")
	defer admin.http.CloseIdleConnections()
	must(w.t, json.Unmarshal([]byte(admin.do("GET", "/v1/admin/status", "").body), &status))
	return status.Store
}

// checksOffline proves store and log while no daemon runs.
func (w *world) checksOffline(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"store", "check"}, {"audit", "verify"}} {
		cmd := exec.Command(binary, append([]string{"--config", w.config}, args...)...)
		cmd.Env, cmd.Dir = []string{"HOME=" + w.dir}, "/"
		cmd.SysProcAttr = asUser(daemonUID)
		if out := runCommand(t, cmd, ""); out.code != 0 {
			t.Errorf("tokenvault %s: exit %d\n%s%s", strings.Join(args, " "), out.code, out.stdout, out.stderr)
		}
	}
}

// ---- what is done to the files, while no daemon runs ----

// aside moves all of a directory's files away, and returns where they are.
func (w *world) aside(dir string) (at string) {
	w.t.Helper()
	at, err := os.MkdirTemp(w.dir, "aside")
	must(w.t, err)
	w.moveAll(w.path(dir), at)
	return at
}

func (w *world) moveAll(from, to string) {
	w.t.Helper()
	files, err := os.ReadDir(from)
	must(w.t, err)
	for _, f := range files {
		must(w.t, os.Rename(filepath.Join(from, f.Name()), filepath.Join(to, f.Name())))
	}
}

func (w *world) copyFile(from, to string) {
	w.t.Helper()
	w.write(to, w.read(from), daemonUID, 0o600)
}

// while runs the daemon for something, and stops it cleanly.
func (w *world) while(do func()) {
	w.t.Helper()
	w.start()
	w.awaitReady()
	do()
	w.stop()
}

func olderStore(w *world) {
	w.copyFile("state/store.db", "older.db")
	w.while(func() { w.connected() })
	w.copyFile("older.db", "state/store.db")
}

func olderKeyring(w *world) {
	w.copyFile("state/store.db", "older.db")
	lowest := func(version int) {
		w.vault.Must("POST", transitKey+"/config", map[string]any{"min_decryption_version": version})
	}
	w.while(func() {
		w.vault.Must("POST", transitKey+"/rotate", nil)
		lowest(2)
		w.awaitLog("keys that Vault opens no longer were wrapped anew", 1)
	})
	lowest(1)
	w.copyFile("older.db", "state/store.db")
}

// cutLog cuts what a day's end would leave: whole lines, the last one signed.
func cutLog(w *world) {
	log := w.read("log/audit.log")
	w.while(func() { w.connected() })
	lines := slices.Collect(strings.Lines(log))
	end := len(lines)
	for !bytes.Contains([]byte(lines[end-1]), []byte(`"kind":"checkpoint"`)) {
		end--
	}
	must(w.t, os.Truncate(w.path("log/audit.log"), int64(len(strings.Join(lines[:end], "")))))
}

// otherStore: the anchor is of a store that was made meanwhile.
func otherStore(w *world) {
	state, log := w.aside("state"), w.aside("log")
	w.vault.Must("DELETE", "secret/metadata/"+anchorPath, nil)
	w.while(func() { w.connected() })
	w.aside("state")
	w.aside("log")
	w.moveAll(state, w.path("state"))
	w.moveAll(log, w.path("log"))
}
