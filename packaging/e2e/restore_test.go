package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// The population of the drill.
const (
	drillUsers   = 300 // acknowledged before the backup
	drillDoubted = 6   // indeterminate before the backup
	drillHeld    = 12  // under way at Human API while the backup is made
	drillCallers = 64  // exchange meanwhile
)

// drill is an installation before it is lost, and what was promised to whom.
type drill struct {
	*world
	t       *testing.T
	stored  []event // acknowledged, each user's only one
	doubted []event
	held    []event
	backup  string
}

// TestRestoreDrill loses a machine: its store is brought back on another one, from
// a backup that was made under load, with another Vault token. Nobody who was
// acknowledged before is lost, and nothing that was under way is sent.
func TestRestoreDrill(t *testing.T) {
	d := &drill{world: newWorld(t, options{}), t: t}
	d.populate()
	d.backUpUnderLoad()

	second := d.secondMachine()
	var verified struct{ Counts map[string]int }
	must(t, json.Unmarshal([]byte(second.must("", "store", "verify", "--json", "--token-file", second.path("vault-token"), d.backup)), &verified))
	if n := verified.Counts["intents"]; n < drillHeld || verified.Counts["users"] < drillUsers {
		t.Errorf("the backup has %v", verified.Counts)
	}
	out := second.cli("yes\n", "store", "restore", "--token-file", second.path("vault-token"), d.backup)
	if out.code != 0 || !strings.Contains(out.stderr, "incarnation 2 begins") || !strings.Contains(out.stderr, fmt.Sprintf("%d exchanges that the backup had", verified.Counts["intents"])) {
		t.Fatalf("restore: exit %d, %s%s", out.code, out.stdout, out.stderr)
	}
	second.ownedByDaemon()
	posts := d.sim.Count(tokens)
	second.start()
	second.awaitReady()
	second.awaitNothingUnderWay()
	d.checkOn(second)
	if now := d.sim.Count(tokens); now != posts {
		t.Errorf("the restored store sent %d session tokens to Human API", now-posts)
	}
	root := second.root("public")
	root.do("POST", tokens, second.finishEvent(d.held[0].humanID, d.held[0].of.clientUser).json()).want(t, 200, "")
	if state := root.do("GET", "/v1/users/"+d.held[0].humanID+"?clientId="+shop, "").field(t, "state"); state != "active" {
		t.Errorf("the next finish event of a user in doubt: %q", state)
	}
	second.must("", "store", "check")
	second.must("", "audit", "verify")
	d.firstMachineNotices()
}

func (d *drill) newEvent(name string) event {
	o := &owner{clientID: shop, human: d.sim.NewHumanID(), clientUser: name + "@example.test"}
	return event{o, d.finishEvent(o.human, o.clientUser)}
}

// populate exchanges until there is one of everything.
func (d *drill) populate() {
	root := d.root("public")
	var all sync.WaitGroup
	slots := make(chan struct{}, 16)
	d.stored = make([]event, drillUsers)
	for i := range d.stored {
		d.stored[i] = d.newEvent(fmt.Sprint("user-", i))
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			root.do("POST", tokens, d.stored[i].json()).want(d.t, 200, "")
		})
	}
	all.Wait()
	for i := range drillDoubted {
		e := d.newEvent(fmt.Sprint("doubted-", i))
		d.sim.Misbehave(humanapitest.Fault{HumanID: e.humanID, Kind: humanapitest.DropAfter})
		root.do("POST", tokens, e.json()).want(d.t, 409, "indeterminate")
		d.doubted = append(d.doubted, e)
	}
	for range 2 {
		e := d.newEvent("shared")
		root.do("POST", tokens, e.json()).want(d.t, 200, "")
		d.stored = append(d.stored, e)
	}
}

// backUpUnderLoad makes the backup while Human API holds some answers, and others
// exchange.
func (d *drill) backUpUnderLoad() {
	release := make(chan struct{})
	var held sync.WaitGroup
	root := d.root("public")
	for i := range drillHeld {
		e := d.newEvent(fmt.Sprint("held-", i))
		d.held = append(d.held, e)
		d.sim.Misbehave(humanapitest.Fault{HumanID: e.humanID, HoldAnswer: release})
	}
	arrived := d.sim.Count(tokens)
	for _, e := range d.held {
		held.Go(func() { root.do("POST", tokens, e.json()).want(d.t, 200, "") })
	}
	must(d.t, d.sim.Await(d.t.Context(), tokens, arrived+drillHeld))

	l := d.startLoad(root)
	l.reach(500)
	quiet := l.slowest.Swap(0)
	d.backup = filepath.Join(d.dir, "drill.backup")
	at, before := time.Now(), l.count.Load()
	d.must("", "store", "backup", "--output", d.backup)
	took, during := time.Since(at), l.count.Load()-before
	busy := l.slowest.Load()
	l.stop()
	close(release)
	held.Wait()
	info, err := os.Stat(d.backup)
	must(d.t, err)
	d.t.Logf("figure: a backup of %d KiB under %d callers took %v, %d exchanges ended meanwhile; the slowest exchange was %v, before it %v",
		info.Size()>>10, drillCallers, took.Round(time.Millisecond), during, time.Duration(busy).Round(time.Millisecond), time.Duration(quiet).Round(time.Millisecond))
	if time.Duration(busy) > 5*time.Second {
		d.t.Errorf("a backup held an exchange up for %v", time.Duration(busy))
	}
}

// load are callers who exchange, each time for a new user.
type load struct {
	count, slowest atomic.Int64
	end            chan struct{}
	news           chan struct{}
	callers        sync.WaitGroup
}

func (d *drill) startLoad(root rootCaller) *load {
	l := &load{end: make(chan struct{}), news: make(chan struct{}, 1)}
	for c := range drillCallers {
		l.callers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.end:
					return
				default:
				}
				e := d.newEvent(fmt.Sprintf("load-%d-%d", c, n))
				at := time.Now()
				root.do("POST", tokens, e.json()).want(d.t, 200, "")
				l.took(time.Since(at))
			}
		})
	}
	return l
}

func (l *load) took(t time.Duration) {
	for was := l.slowest.Load(); int64(t) > was && !l.slowest.CompareAndSwap(was, int64(t)); was = l.slowest.Load() {
	}
	l.count.Add(1)
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// reach waits for so many exchanges.
func (l *load) reach(n int64) {
	for l.count.Load() < n {
		<-l.news
	}
}

func (l *load) stop() {
	close(l.end)
	l.callers.Wait()
}

// secondMachine has other paths, credentials of its own, and a Vault token that
// has just the daemon's policy.
func (d *drill) secondMachine() *world {
	w := &world{t: d.t, vault: d.vault, sim: d.sim}
	w.place(options{})
	made := d.vault.Must("POST", "auth/token/create", map[string]any{"policies": []string{"tokenvault"}, "no_default_policy": true, "ttl": "1h"})
	token, ok := made["client_token"].(string)
	if !ok {
		d.t.Fatal("Vault made no token")
	}
	w.write("vault-token", token, 0, 0o600)
	w.must("", "vault", "setup", "--apply", "--token-file", w.path("operator-token"))
	for _, f := range []string{"role-id", "secret-id"} {
		must(d.t, os.Chown(w.path(f), daemonUID, daemonUID))
	}
	return w
}

// awaitNothingUnderWay waits until every intent that came along has ended.
func (w *world) awaitNothingUnderWay() {
	w.t.Helper()
	admin := w.root("admin")
	defer admin.http.CloseIdleConnections()
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) { // nobody tells
		var check struct {
			OK     bool
			Counts map[string]int
		}
		must(w.t, json.Unmarshal([]byte(admin.do("POST", "/v1/admin/store/check", "").body), &check))
		if check.OK && check.Counts["intents"] == 0 {
			return
		}
		if time.Now().After(limit) {
			w.t.Fatalf("%d intents are left, ok: %v", check.Counts["intents"], check.OK)
		}
	}
}

// checkOn looks for every user of before on the second machine.
func (d *drill) checkOn(w *world) {
	public, private := w.root("public"), w.root("private")
	for _, e := range d.stored {
		access, publicToken := d.sim.Current(shop, e.humanID)
		a := public.do("GET", "/v1/users/"+e.humanID+"?clientId="+shop, "").want(d.t, 200, "")
		if a.field(d.t, "publicToken") != publicToken || a.field(d.t, "state") != "active" || a.field(d.t, "clientUserId") != e.of.clientUser {
			d.t.Error("a user came back otherwise")
		}
		a = private.do("GET", "/v1/users/"+e.humanID+"/access-token?clientId="+shop, "").want(d.t, 200, "")
		if a.field(d.t, "accessToken") != access {
			d.t.Error("a user came back with another access token")
		}
		a = public.do("POST", tokens, e.json()).want(d.t, 200, "") // a repeat
		if a.field(d.t, "publicToken") != publicToken {
			d.t.Error("a repeat is answered with something else")
		}
	}
	for i, e := range append(append([]event{}, d.doubted...), d.held...) {
		a := public.do("GET", "/v1/users/"+e.humanID+"?clientId="+shop, "").want(d.t, 200, "")
		if state := a.field(d.t, "state"); state != "indeterminate" {
			d.t.Errorf("user %d in doubt: state %q", i, state)
		}
		public.do("POST", tokens, e.json()).want(d.t, 409, "indeterminate")
	}
	public.do("GET", "/v1/users?clientId="+shop, "", "X-Client-User-Id: shared%40example.test").want(d.t, 409, "ambiguous_user")
}

// firstMachineNotices: the daemon of before still runs. It finds out that its
// store is not the one any more, and does not serve it after a restart.
func (d *drill) firstMachineNotices() {
	root := d.root("public")
	root.do("POST", tokens, d.newEvent("late").json()).want(d.t, 200, "")
	at := time.Now()
	for limit := at.Add(90 * time.Second); !strings.Contains(d.healthText(), "degraded"); time.Sleep(200 * time.Millisecond) { // nobody tells
		if time.Now().After(limit) {
			d.t.Fatalf("the daemon of before notices nothing: %s", d.healthText())
		}
	}
	if status := d.must("", "status"); !strings.Contains(status, "somebody else") {
		d.t.Errorf("its status does not say why: %s", status)
	}
	d.t.Logf("figure: the daemon of before noticed %v after its next change that the store was restored elsewhere", time.Since(at).Round(time.Second))
	d.stop()
	d.start()
	d.awaitHealth(func(status int, h health) bool { return status == 503 && strings.Contains(h.text(), "rollback") })
}

// ownedByDaemon: what root made belongs to whom it is for.
func (w *world) ownedByDaemon() {
	w.t.Helper()
	for _, dir := range []string{"state", "log"} {
		must(w.t, filepath.Walk(w.path(dir), func(path string, info os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			if uid := info.Sys().(*syscall.Stat_t).Uid; uid != daemonUID {
				w.t.Errorf("%s belongs to uid %d", filepath.Base(path), uid)
			}
			return nil
		}))
	}
}
