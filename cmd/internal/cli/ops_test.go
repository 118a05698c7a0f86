package cli

import (
	"encoding/json"
	goflag "flag"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
)

var update = goflag.Bool("update", false, "write the golden files")

// golden compares with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != got {
		t.Errorf("%s: %v, or it differs (-update writes it); got\n%s", file, err, got)
	}
}

// daemonWith answers on a socket as a daemon does, and remembers what was posted.
type daemonWith struct {
	socket string
	posted chan string
}

// answering runs handlers by path; others are answered as JSON.
func answering(t *testing.T, answers map[string]any) *daemonWith {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tvo-") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &daemonWith{socket: filepath.Join(dir, "s"), posted: make(chan string, 10)}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(r.Body)
			d.posted <- r.URL.Path + " " + string(body)
		}
		switch a := answers[r.URL.Path].(type) {
		case http.HandlerFunc:
			a(w, r)
		case nil:
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"statusCode":403,"error":"not_granted","message":"no","requestId":"r"}`)
		default:
			_ = json.NewEncoder(w).Encode(a)
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return d
}

// run runs a command line, whose socket is the daemon's, and checks its status.
func (d *daemonWith) run(t *testing.T, want int, stdin string, args ...string) result {
	t.Helper()
	r := invoke(t, map[string]string{"TZ": "UTC"}, stdin, append(args, "--socket", d.socket)...)
	if r.status != want {
		t.Errorf("%q: exit %d, want %d; stdout %q, stderr %q", args, r.status, want, r.stdout, r.stderr)
	}
	return r
}

// nothingPosted: nobody was asked to do anything.
func (d *daemonWith) nothingPosted(t *testing.T) {
	t.Helper()
	select {
	case p := <-d.posted:
		t.Errorf("posted: %s", p)
	default:
	}
}

func TestReload(t *testing.T) {
	d := answering(t, map[string]any{"/v1/admin/reload": api.Verdict{OK: true, Refused: []string{}}})
	if r := d.run(t, exitOK, "", "reload"); r.stdout != "reloaded\n" || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	if r := d.run(t, exitOK, "", "reload", "--json"); r.stdout != "{\n  \"ok\": true,\n  \"refused\": []\n}\n" {
		t.Errorf("%+v", r)
	}
	d = answering(t, map[string]any{"/v1/admin/reload": api.Verdict{Refused: []string{"store.path needs a restart", "listener \x1b[2J needs one"}}})
	r := d.run(t, exitFailed, "", "reload")
	if r.stdout != "" || r.stderr != "tokenvault: reload the configuration: refused, and nothing was changed:\n  store.path needs a restart\n  listener \uFFFD[2J needs one\n" {
		t.Errorf("%+v", r)
	}
	r = d.run(t, exitFailed, "", "reload", "--json")
	var v api.Verdict
	if json.Unmarshal([]byte(r.stdout), &v) != nil || v.OK || len(v.Refused) != 2 || !strings.Contains(r.stderr, "refused, and nothing") {
		t.Errorf("%+v", r)
	}
	if r := answering(t, nil).run(t, exitDenied, "", "reload"); !strings.Contains(r.stderr, "for what checks or changes something: admin") {
		t.Errorf("%+v", r)
	}
}

// busyStatus has something to show everywhere.
func busyStatus() api.Status {
	return api.Status{
		Version: "1.2.3", Instance: "main",
		Health: api.Health{Ready: true, Degraded: true, Reasons: []string{"the disk of the store is nearly full"}},
		Vault:  api.VaultStatus{Address: "https://vault.internal:8200", Reason: "it is sealed"},
		Secrets: []api.SecretStatus{
			{App: "shop", ClientID: "id-of-shop", Version: 3},
			{App: "gym", ClientID: "id-of-gym", Version: 2, Refused: true, Reason: "Human API refuses version 2"},
			{App: "spa", ClientID: "id-of-spa", Version: 1, Refused: true},
		},
		Store:     api.StoreStatus{ID: "00ff", Backend: "bolt", Incarnation: 2, Bytes: 65536},
		Exchanges: api.ExchangeStatus{InFlight: 7, Waiting: 3, Uncertain: 2, Resuming: 1, Damaged: 4, Outcomes: map[string]uint64{"stored": 12, "indeterminate": 1}, Indeterminate: 1},
		Audit:     api.AuditStatus{Path: "/var/log/tokenvault/audit.log", Sequence: 99, PublicKey: "abcd"},
		Listeners: []api.Listener{{Name: "admin", Path: "/run/tokenvault/admin/api.sock", Ceiling: []api.Grant{api.GrantAdminRead, api.GrantAdmin}}},
		Disk:      []string{"store: 3 MiB are left of its reserve", "audit: no space"},
		Memory:    "kept", Breaker: "half-open",
	}
}

func TestStatusIsShown(t *testing.T) {
	busy, quiet, rolled := busyStatus(), api.Status{}, api.Status{Rollback: someRollback()}
	for name, s := range map[string]api.Status{"busy": busy, "quiet": quiet, "rolledback": rolled} {
		d := answering(t, map[string]any{"/v1/admin/status": s})
		golden(t, "status-"+name+".golden", d.run(t, exitOK, "", "status").stdout)
	}
}

func someRollback() *api.Rollback {
	return &api.Rollback{
		Reasons: []string{"the store stands at 41, Vault remembers 57"}, Seen: "marker-seen",
		Anchor: map[string]string{"store id": "00ff", "store position": "57", "host": "db1"},
		Store:  map[string]string{"store id": "00ff", "store position": "41", "file": "/var/lib/\x1b/store.db"},
	}
}

// TestAccept: both sides are shown before anybody is asked, and what was shown is
// what is accepted.
func TestAccept(t *testing.T) {
	d := answering(t, map[string]any{"/v1/admin/status": api.Status{}})
	if r := d.run(t, exitFailed, "yes\n", "store", "accept"); !strings.Contains(r.stderr, "nothing is to be accepted") {
		t.Errorf("%+v", r)
	}
	d.nothingPosted(t)
	d = answering(t, map[string]any{
		"/v1/admin/status": api.Status{Rollback: someRollback()}, "/v1/admin/store/accept": api.Verdict{OK: true, Refused: []string{}},
	})
	for _, stdin := range []string{"", "\n", "no\n", "y\n", "yes please\n"} {
		r := d.run(t, exitFailed, stdin, "store", "accept")
		if r.stdout != "" || !strings.Contains(r.stderr, "not confirmed: nothing was changed") {
			t.Errorf("%q: %+v", stdin, r)
		}
		d.nothingPosted(t)
	}
	r := d.run(t, exitOK, "yes\n", "store", "accept")
	if golden(t, "accept.golden", r.stderr); r.stdout != "accepted\n" || <-d.posted != `/v1/admin/store/accept {"seen":"marker-seen"}` {
		t.Errorf("%+v", r)
	}
	if r := d.run(t, exitOK, "", "store", "accept", "--yes", "--json"); !strings.Contains(r.stdout, `"ok": true`) || strings.Contains(r.stderr, "[yes/no]") {
		t.Errorf("%+v", r)
	}
	d = answering(t, map[string]any{
		"/v1/admin/status": api.Status{Rollback: someRollback()}, "/v1/admin/store/accept": api.Verdict{Refused: []string{"it is not what you were shown"}},
	})
	if r := d.run(t, exitFailed, "yes\n", "store", "accept"); r.stdout != "" || !strings.Contains(r.stderr, "refused, and nothing was changed:\n  it is not what you were shown") {
		t.Errorf("%+v", r)
	}
}
