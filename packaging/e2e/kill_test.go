package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

const (
	killCallers = 64
	killRounds  = 150 // of which each has a kill, and each third a second one
	longWorlds  = 10  // an audit log and a store that grow for ever make checking them slow
	longRounds  = 150
	// hotUsers get half of all finish events, so that several of one user are
	// under way at a time.
	hotUsers = 24
	// repeatKnown is how many answered finish events come once more after a kill.
	repeatKnown = 8
)

// kill -9 at random moments under load: what was answered is there, what took
// effect at Human API is there or reported, and nobody's tokens are another's.
func TestKill(t *testing.T) {
	if rounds, err := strconv.Atoi(os.Getenv(mutantRounds)); err == nil {
		killInRounds(t, rounds)
		return
	}
	if os.Getenv("TOKENVAULT_TEST_LONG") == "" {
		killInRounds(t, killRounds)
		return
	}
	for n := range longWorlds {
		t.Run(fmt.Sprint(n+1), func(t *testing.T) { killInRounds(t, longRounds) })
	}
}

func killInRounds(t *testing.T, rounds int) {
	k := newKilling(t)
	for n := range rounds {
		if k.round(n); t.Failed() {
			t.Fatalf("round %d of %d, %s\n%s", n+1, rounds, k.mode, k.w.logTail())
		}
	}
	k.finish(rounds)
}

// finish looks at everything once more, and says what was seen.
func (k *killing) finish(rounds int) {
	t := k.t
	k.w.stop()
	k.checkOffline()
	if k.checkRecords(); t.Failed() {
		return
	}
	f := &k.figures
	t.Logf("figure: %d kill -9 under %d callers in %d rounds: %d exchanges answered, %d callers cut off, %d intents resumed, %d posted to Human API again",
		f.kills, killCallers, rounds, f.answered, f.cut, k.resumed(), k.up.again())
	t.Logf("figure: after them: %d users, %d in doubt at some time and %d at the end, all listed; repeats answered %d, told of the doubt %d; answers about somebody else %d, all rejected; lost 0, doubled 0, mixed up 0",
		len(k.users), f.doubted, len(k.doubt), f.repeated, f.told, f.rejected)
}

// killing is the state of TestKill.
type killing struct {
	t      *testing.T
	w      *world
	up     *upstream
	mode   humanapitest.Mode
	users  []*owner
	key    string // the audit log's public key
	doubt  map[string]bool
	client rootCaller

	mu      sync.Mutex // of what callers change
	known   []event    // answered last, repeated after the kill
	ids     map[string]bool
	figures struct{ kills, answered, cut, repeated, told, doubted, rejected int }
}

// owner is a user of one app. The same humanId exists in both apps.
type owner struct {
	clientID, human, clientUser string
	first                       string // publicToken before any exchange

	mu    sync.Mutex
	acked int  // the latest issue whose publicToken an answer has shown
	own   int  // the latest issue of a finish event that was itself answered
	cut   bool // in this round a caller of this user got no answer
}

func (o *owner) key() string { return o.clientID + " " + o.human }

func newKilling(t *testing.T) *killing {
	k := &killing{t: t, w: prepareWorld(t, options{}), doubt: map[string]bool{}, ids: map[string]bool{}}
	k.up = startUpstream(t, k.w.sim)
	config, err := os.ReadFile(k.w.config)
	must(t, err)
	config = bytes.ReplaceAll(config, []byte(k.w.sim.URL), []byte(k.up.url))
	must(t, os.WriteFile(k.w.config, config, 0o644))
	k.w.setUpVault()
	k.restart()
	k.addUsers(hotUsers / 2)
	var status struct {
		Audit struct{ PublicKey string }
	}
	must(t, json.Unmarshal([]byte(k.w.root("admin").do("GET", "/v1/admin/status", "").body), &status))
	k.key = status.Audit.PublicKey
	return k
}

// addUsers adds that many people, each with both apps.
func (k *killing) addUsers(n int) {
	for range n {
		human := k.w.sim.NewHumanID()
		for _, clientID := range []string{shop, club} {
			o := &owner{clientID: clientID, human: human, clientUser: fmt.Sprintf("%d@example.test", len(k.users))}
			k.w.sim.NewSession(clientID, human, o.clientUser) // from here on the user exists
			_, o.first = k.w.sim.Current(clientID, human)
			k.users = append(k.users, o)
		}
	}
}

func (k *killing) restart() {
	k.w.start()
	k.w.awaitReady()
	k.client = k.w.root("public")
}

// kill ends the daemon and waits until Human API is done with what it sent.
func (k *killing) kill() {
	k.w.kill()
	k.client.http.CloseIdleConnections()
	k.up.settle()
	k.figures.kills++
}

// begin sets the mode of a round.
func (k *killing) begin(mode humanapitest.Mode) {
	k.mode = mode
	k.w.sim.SetMode(mode)
	k.addUsers(1)
	for _, o := range k.users {
		o.cut = false
		k.up.note(o.key(), "", fmt.Sprintf("is the mark of round %s", mode))
	}
}

func (k *killing) round(n int) {
	k.begin(humanapitest.Modes[n%len(humanapitest.Modes)])
	left := k.load(k.killSoon)
	if n%5 == 4 {
		k.checkOffline()
	}
	if n%3 == n/3%3 { // killed again on the way back, in each mode
		k.w.start()
		time.Sleep(rand.N(150 * time.Millisecond)) // a random moment is the point
		k.kill()
	}
	k.recover(left)
}

// recover starts the daemon again, and checks what it has.
func (k *killing) recover(left []event) {
	k.restart()
	k.repeat(left)
	k.awaitResumed()
	k.checkUsers()
}

// killSoon kills at a random moment after enough answers.
func (k *killing) killSoon(enough <-chan struct{}) {
	<-enough
	time.Sleep(rand.N(8 * time.Millisecond)) // a random moment is the point
	k.kill()
}

// event is a finish event of a user.
type event struct {
	of *owner
	sto
}

func (k *killing) newEvent() event {
	users := k.users
	if rand.N(2) == 0 {
		users = users[:hotUsers]
	}
	o := users[rand.N(len(users))]
	return event{o, sto{o.clientID, o.human, k.w.sim.NewSession(o.clientID, o.human, o.clientUser)}}
}

// load lets callers exchange until end has killed the daemon, and returns the
// events that had no answer then.
func (k *killing) load(end func(enough <-chan struct{})) (left []event) {
	var callers sync.WaitGroup
	enough := make(chan struct{})
	answers, limit := 0, rand.N(250)
	for range killCallers {
		callers.Go(func() {
			for {
				e := k.newEvent()
				a, err := k.client.try("POST", tokens, e.json(), jsonType)
				k.mu.Lock()
				if err != nil {
					left = append(left, e)
					e.of.cut = true
					k.mu.Unlock()
					return
				}
				if answers++; answers == limit+1 {
					close(enough)
				}
				k.mu.Unlock()
				k.judge(e, a, false)
			}
		})
	}
	end(enough)
	callers.Wait()
	k.figures.cut += len(left)
	return left
}

// judge looks at an answer.
func (k *killing) judge(e event, a answer, repeat bool) {
	if a.status != 200 {
		k.judgeRefusal(e, a, repeat)
		return
	}
	p := k.public(a)
	k.up.note(e.of.key(), e.sessionToken, fmt.Sprintf("answered (repeat: %v)", repeat))
	issue, ok := k.up.issue(p.PublicToken)
	own, posted := k.up.lastOf(e.sessionToken)
	switch {
	case !ok || issue.owner != e.of.key() || p.HumanID != e.of.human || p.ClientID != e.of.clientID || p.ClientUserID != e.of.clientUser:
		k.t.Error("mixed up: an answer is not about its user")
	case !posted || issue.order < own.order && !repeat:
		k.t.Error("mixed up: an answer is older than its finish event")
	}
	k.up.acknowledged(e.sessionToken)
	e.of.mu.Lock()
	e.of.acked, e.of.own = max(e.of.acked, issue.order), max(e.of.own, own.order)
	e.of.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ids[a.header.Get("X-Request-Id")] = true
	if k.figures.answered++; repeat {
		k.figures.repeated++
		return
	}
	k.known = append(k.known[max(0, len(k.known)-repeatKnown+1):], e)
}

// judgeRefusal: the user's line may be full, and who repeats what was cut off
// may be told that nobody knows.
func (k *killing) judgeRefusal(e event, a answer, repeat bool) {
	code := a.field(k.t, "error")
	k.up.note(e.of.key(), e.sessionToken, fmt.Sprintf("answered %s (repeat: %v)", code, repeat))
	switch {
	case code == "rate_limited" && !repeat:
		if k.up.posts(e.sessionToken) != 0 {
			k.t.Error("a finish event was refused as too many, but sent to Human API")
		}
	case code == "rate_limited":
	case code == "user_mismatch" && k.up.wronged(e.sessionToken):
		k.mu.Lock()
		defer k.mu.Unlock()
		k.figures.rejected++
	case code == "indeterminate" && repeat && (k.mode == humanapitest.OneTime || k.up.wronged(e.sessionToken)):
		k.mu.Lock()
		defer k.mu.Unlock()
		k.figures.told++
	default:
		what := "an exchange"
		if _, effect := k.up.lastOf(e.sessionToken); effect {
			what = "lost: an exchange that took effect"
		}
		k.t.Errorf("%s (repeated: %v) is answered %d %s", what, repeat, a.status, code)
	}
}

// repeat sends half of what was cut off again, as a patient caller does, and
// some of what was answered, as a forgetful one does.
func (k *killing) repeat(left []event) {
	var callers sync.WaitGroup
	again := k.known
	k.known = nil
	for i, e := range left {
		if i%2 == 1 {
			again = append(again, e)
		}
	}
	for _, e := range again {
		callers.Go(func() {
			a, err := k.client.try("POST", tokens, e.json(), jsonType)
			if err != nil {
				k.t.Errorf("repeating an exchange: %v", err)
				return
			}
			k.judge(e, a, true)
		})
	}
	callers.Wait()
}

// awaitResumed waits until no intent is left.
func (k *killing) awaitResumed() {
	admin := k.w.root("admin")
	defer admin.http.CloseIdleConnections()
	for limit := time.Now().Add(30 * time.Second); ; {
		var check struct {
			OK       bool
			Counts   map[string]int
			Problems []string
		}
		must(k.t, json.Unmarshal([]byte(admin.do("POST", "/v1/admin/store/check", "").body), &check))
		if !check.OK {
			k.t.Fatalf("the store has problems: %q", check.Problems)
		}
		if check.Counts["intents"] == 0 {
			return
		}
		if time.Now().After(limit) {
			k.t.Fatalf("%d intents are neither resumed nor ended", check.Counts["intents"])
		}
		time.Sleep(5 * time.Millisecond) // nobody tells when the last intent is gone
	}
}

// checkUsers holds the store against what Human API issued; nothing is under way.
func (k *killing) checkUsers() {
	private := k.w.root("private")
	defer private.http.CloseIdleConnections()
	was := k.doubt
	k.doubt = k.listed()
	var all sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, o := range k.users {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			k.checkUser(o, private)
		})
	}
	all.Wait()
	for _, o := range k.users {
		if !k.doubt[o.key()] || was[o.key()] {
			continue
		}
		k.figures.doubted++
		if !o.cut || k.mode != humanapitest.OneTime && !k.up.wronged(o.key()) {
			k.t.Errorf("a user is in doubt without a reason (cut off: %v)", o.cut)
		}
	}
}

// listed are the users in state indeterminate.
func (k *killing) listed() map[string]bool {
	out := map[string]bool{}
	for _, clientID := range []string{shop, club} {
		var list struct{ Users []userBody }
		a := k.client.do("GET", "/v1/users?state=indeterminate&clientId="+clientID, "").want(k.t, 200, "")
		must(k.t, json.Unmarshal([]byte(a.body), &list))
		for _, u := range list.Users {
			out[u.ClientID+" "+u.HumanID] = true
		}
	}
	return out
}

type userBody struct{ HumanID, PublicToken, ClientID, ClientUserID, State string }

func (k *killing) public(a answer) (u userBody) {
	if err := json.Unmarshal([]byte(a.body), &u); err != nil {
		k.t.Errorf("status %d: the answer is no JSON object", a.status)
	}
	return u
}

func (k *killing) checkUser(o *owner, private rootCaller) {
	last, issued := k.up.lastOf(o.key())
	path := "/v1/users/" + o.human
	a, err := k.client.try("GET", path+"?clientId="+o.clientID, "")
	if err != nil {
		k.t.Errorf("reading a user: %v", err)
		return
	}
	if a.status == 404 {
		if issued {
			k.t.Errorf("lost: Human API issued tokens, the store has no such user (acknowledged: %v)", o.acked > 0)
		}
		return
	}
	u := k.public(a)
	issue, known := k.up.issue(u.PublicToken)
	switch doubt := k.doubt[o.key()]; {
	case a.status != 200 || u.HumanID != o.human || u.ClientID != o.clientID:
		k.t.Errorf("mixed up: status %d, or another user's row", a.status)
	case known && issue.owner != o.key() || !known && (u.PublicToken != o.first && u.PublicToken != "" || !doubt):
		k.t.Error("mixed up: the stored publicToken was never this user's")
	case issue.order < o.acked:
		k.t.Errorf("lost: issue %d was acknowledged, %d is stored, in doubt: %v; what happened: %s", o.acked, issue.order, doubt, k.up.tale(o.key()))
	case doubt != (u.State == "indeterminate"):
		k.t.Errorf("the list of users in doubt and the state %q disagree", u.State)
	case !doubt && issue.order != last.order:
		k.t.Errorf("lost: issue %d took effect, %d is stored, and nobody is told; what happened: %s", last.order, issue.order, k.up.tale(o.key()))
	}
	k.checkAccess(o, private, u.State, issue)
}

// checkAccess: the private part is of the same issue as the public one. Of a
// user in doubt it may be older, as the publicToken alone is fetched anew, but
// not older than what was exchanged and answered; there may be none.
func (k *killing) checkAccess(o *owner, private rootCaller, state string, public issue) {
	a, err := private.try("GET", "/v1/users/"+o.human+"/access-token?clientId="+o.clientID, "")
	if err != nil {
		k.t.Errorf("reading an access token: %v", err)
		return
	}
	var body struct{ AccessToken string }
	if json.Unmarshal([]byte(a.body), &body) != nil {
		k.t.Errorf("status %d: the answer is no JSON object", a.status)
	}
	issue, known := k.up.issue(body.AccessToken)
	switch doubt := state == "indeterminate"; {
	case doubt && a.status == 409 && o.own == 0:
	case a.status != 200 || !known || issue.owner != o.key():
		k.t.Errorf("mixed up: the access token (status %d) is not this user's", a.status)
	case issue.order < o.own:
		k.t.Errorf("lost: issue %d was acknowledged, the access token is of %d, in doubt: %v", o.own, issue.order, doubt)
	case !doubt && issue.order != public.order:
		k.t.Error("mixed up: access token and publicToken are of different issues")
	}
}

// checkOffline proves store and audit log with the command line, while no daemon runs.
func (k *killing) checkOffline() {
	for _, args := range [][]string{{"store", "check"}, {"audit", "verify", "--key", k.key}} {
		cmd := exec.Command(binary, append([]string{"--config", k.w.config}, args...)...)
		cmd.Env, cmd.Dir = []string{"HOME=" + k.w.dir}, "/"
		cmd.SysProcAttr = asUser(daemonUID)
		if out := runCommand(k.t, cmd, ""); out.code != 0 {
			k.t.Errorf("tokenvault %s: exit %d\n%s%s", strings.Join(args, " "), out.code, out.stdout, out.stderr)
		}
	}
}

// checkRecords: every answer stands in the audit log.
func (k *killing) checkRecords() {
	log, err := os.ReadFile(k.w.path("log/audit.log"))
	must(k.t, err)
	missing := len(k.ids)
	for line := range bytes.Lines(log) {
		var e struct {
			Kind, RequestID string
			Status          int
		}
		must(k.t, json.Unmarshal(line, &e))
		if e.Kind == "outcome" && e.Status == 200 && k.ids[e.RequestID] {
			delete(k.ids, e.RequestID)
			missing--
		}
	}
	if missing != 0 {
		k.t.Errorf("%d exchanges were answered and are not in the audit log", missing)
	}
}

// resumed counts, by the daemon's own log.
func (k *killing) resumed() (n int) {
	log, err := os.ReadFile(k.w.path("daemon.log"))
	must(k.t, err)
	for line := range bytes.Lines(log) {
		var entry struct {
			Msg   string
			Count int
		}
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "exchanges of an earlier start are resumed" {
			n += entry.Count
		}
	}
	return n
}
