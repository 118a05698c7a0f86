package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// replayer is a caller of its own: uid, groups, in a container or not.
type replayer struct {
	uid, gid  uint32
	groups    []uint32
	contained bool
}

// replayers can all reach the sockets. None of them is in a unit here.
var replayers = []replayer{
	{uid: 33}, {uid: 33, groups: []uint32{64099}}, {uid: 33, contained: true}, {uid: 64002}, {uid: 64002, groups: []uint32{64098}},
	{uid: 64004, gid: 64099}, {uid: 64004, gid: 64099, contained: true}, {uid: 64005, groups: []uint32{64098, 64099}}, {uid: 64003},
}

// replayAsk is one request, and what came of it under the old and the new rules.
type replayAsk struct {
	listener, method, path, body, grant string
	unread                              bool // the app stands in a body, which is not read where no app would do
	free                                bool // no rule decides on it
	answers                             [2]string
}

const oneEach = 16 // requests of a caller in a round: three callers share a uid, which has 50 lines for refusals

func someOf(r *rand.Rand, from ...string) (out []string) {
	for _, v := range from {
		if r.IntN(3) == 0 {
			out = append(out, strconv.Quote(v))
		}
	}
	return out
}

// randomRules: the last two rules of the old set stay in the new one half the time,
// so that not everything changes.
func randomRules(r *rand.Rand, from int) (rules []string) {
	for i := range 2 + r.IntN(4) {
		users, groups := someOf(r, "33", "64002", "64004", "64005"), someOf(r, "64099", "64098")
		if len(users)+len(groups) == 0 {
			users = []string{`"33"`, `"64002"`}
		}
		apps := append(someOf(r, "shop"), `"club"`)
		if r.IntN(2) == 0 {
			apps = []string{`"shop"`}
		}
		grants := append(someOf(r, "exchange", "public-token", "admin", "access-token"), `"lookup"`)
		if r.IntN(3) == 0 {
			grants = append(grants, `"admin-read"`)
		}
		rules = append(rules, fmt.Sprintf("[[rule]]\nname = \"rule-%d\"\nusers = [%s]\ngroups = [%s]\ncontained = %t\napps = [%s]\ngrants = [%s]\n",
			from+i, strings.Join(users, ","), strings.Join(groups, ","), r.IntN(3) == 0, strings.Join(apps, ","), strings.Join(grants, ",")))
	}
	return rules
}

func randomAsk(r *rand.Rand, n int) *replayAsk {
	app := []string{shop, shop, club, "", "client-id-of-nobody"}[r.IntN(5)]
	query, field := "", ""
	if app != "" {
		query, field = "clientId="+app, fmt.Sprintf(`,"clientId":%q`, app)
	}
	client := []string{"public", "private", "private"}[r.IntN(3)]
	all := []*replayAsk{
		{listener: client, method: "GET", path: "/v1/users/nobody?" + query, grant: "lookup"},
		{listener: client, method: "GET", path: "/v1/users?state=indeterminate&" + query, grant: "lookup"},
		{listener: client, method: "GET", path: "/v1/users/nobody/access-token?" + query, grant: "access-token"},
		{listener: client, method: "POST", path: "/v1/connect/publictokens", body: `{"humanId":"nobody"` + field + `}`, grant: "public-token", unread: true},
		{listener: client, method: "POST", path: tokens, body: fmt.Sprintf(`{"humanId":"nobody","sessionToken":"marker-%d"%s}`, n, field), grant: "exchange", unread: true},
		{listener: "admin", method: "GET", path: "/v1/admin/status", grant: "admin-read"},
		{listener: "admin", method: "GET", path: "/v1/admin/users?clientUserId=x&" + query, grant: "admin-read"},
		{listener: "admin", method: "GET", path: "/v1/admin/policy/who-can?grant=lookup", grant: "admin-read"},
		{listener: "admin", method: "POST", path: "/v1/admin/users/prefer", body: `{"humanId":"nobody","clientUserId":"x"` + field + `}`, grant: "admin", unread: true},
		{listener: client, method: "GET", path: "/v1/whoami", free: true},
		{listener: client, method: "GET", path: "/v1/nowhere", free: true},
		{listener: client, method: "GET", path: "/v1/users/nobody?clientId=", free: true},
	}
	return all[r.IntN(len(all))]
}

// send is one process that sends all of it, and returns the error codes, "" for a
// success, and the status where there is no code.
func (c replayer) send(w *world, asks []*replayAsk) (codes []string) {
	w.t.Helper()
	var config strings.Builder
	for i, a := range asks {
		if i > 0 {
			config.WriteString("next\n")
		}
		fmt.Fprintf(&config, "silent\nshow-error\nmax-time = 40\nunix-socket = %q\nrequest = %q\nurl = %q\nwrite-out = \"~~\"\n", w.socket(a.listener), a.method, "http://localhost"+a.path)
		if a.body != "" {
			fmt.Fprintf(&config, "header = %q\ndata-binary = %q\n", jsonType, a.body)
		}
	}
	cmd := exec.Command("curl", "-K", "-")
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	cmd.SysProcAttr = asUser(c.uid, append([]uint32{publicGID, privateGID, adminGID}, c.groups...)...)
	if c.gid != 0 {
		cmd.SysProcAttr.Credential.Gid = c.gid
	}
	if c.contained {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	out := runCommand(w.t, cmd, config.String())
	bodies := strings.Split(out.stdout, "~~")
	if out.code != 0 || len(bodies) != len(asks)+1 {
		w.t.Fatalf("curl as uid %d: exit %d, %d answers of %d: %s", c.uid, out.code, len(bodies)-1, len(asks), out.stderr)
	}
	for _, b := range bodies[:len(asks)] {
		codes = append(codes, answer{body: b}.field(w.t, "error"))
	}
	return codes
}

// replayKey is what requests are counted by.
type replayKey struct {
	Listener  string
	UID       uint32
	Contained bool
	Grant     string
	Allowed   bool // then
}

// replayTally is how many answers changed, and what policy diff makes of it.
type replayTally struct {
	asked, decided, changed, foretold, untold, open int
}

// policyDiffAnswer is the JSON of policy diff.
type policyDiffAnswer struct {
	Requests, Unjudged        int
	Changes, Undecided, Moved []struct {
		Requests                   int
		Listener, Grant, Now, Then string
		UID                        uint32
		Contained                  bool
	}
	Counted []struct {
		Requests int
		UID      *uint32
		Error    string
	}
}

func refusedByRules(code string) bool {
	return code == "unknown_caller" || code == "not_granted" || code == "client_id_required"
}

// TestPolicyDiff: policy diff says of a log which answers change, and a second
// daemon with the new rules, or the same one reloaded, gives those answers to the
// same processes.
func TestPolicyDiff(t *testing.T) {
	w := newWorld(t, options{})
	text, err := os.ReadFile(w.config)
	must(t, err)
	settings := strings.Replace(string(text), defaultRules, "", 1)
	r := rand.New(rand.NewPCG(20, 26))
	var sum replayTally
	const rounds = 14
	for round := range rounds {
		old := randomRules(r, 0)
		next := append(randomRules(r, len(old)), old[len(old)-1-r.IntN(2):]...)
		r.Shuffle(len(next), func(i, j int) { next[i], next[j] = next[j], next[i] })
		after := settings + strings.Join(next, "")
		if round%2 == 1 { // what takes another daemon
			after = strings.NewReplacer(`"club"`, `"klub"`, `"lookup", "access-token"]`, `"lookup"]`).Replace(after)
		}
		must(t, os.WriteFile(w.config, []byte(settings+strings.Join(old, "")), 0o644))
		w.kill()
		w.start() // whose refusals have lines again
		w.awaitReady()
		sum.round(t, w, r, after, round%2 == 1)
	}
	if sum.changed < 100 || sum.foretold < sum.changed/3 {
		t.Errorf("the test is weak: %+v", sum)
	}
	t.Logf("figure: policy diff against a replay through two servers, %d pairs of random policies, %d processes in each: %d requests, %d that rules decided; %d answers really changed: %d of them named by policy diff, none that did not; %d among the %d that it says may change, because the log does not have what was asked for",
		rounds, 2*len(replayers), sum.asked, sum.decided, sum.changed, sum.foretold, sum.untold, sum.open)
	storm(t, w)
}

// round asks twice, and what policy diff says in between.
func (s *replayTally) round(t *testing.T, w *world, r *rand.Rand, after string, restart bool) {
	t.Helper()
	since := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	asks := make([][]*replayAsk, len(replayers))
	for i := range replayers {
		for n := range oneEach {
			asks[i] = append(asks[i], randomAsk(r, s.asked+n))
		}
		s.asked += oneEach
	}
	send := func(which int) {
		for i, c := range replayers {
			for n, code := range c.send(w, asks[i]) {
				asks[i][n].answers[which] = code
			}
		}
	}
	send(0)
	must(t, os.WriteFile(w.path("next.toml"), []byte(after), 0o644))
	d := diff(t, w, since)
	must(t, os.Rename(w.path("next.toml"), w.config))
	if restart {
		w.kill()
		w.start()
		w.awaitReady()
	} else {
		w.must("", "reload")
	}
	send(1)
	s.compare(t, asks, d)
}

func diff(t *testing.T, w *world, since string) (d policyDiffAnswer) {
	t.Helper()
	out := w.cli("", "policy", "diff", "--json", "--since", since, w.path("next.toml"))
	must(t, json.Unmarshal([]byte(out.stdout), &d))
	want := 0
	if len(d.Changes)+len(d.Undecided) > 0 {
		want = 5
	}
	if out.code != want || out.stderr != "" {
		t.Fatalf("policy diff: exit %d, want %d: %s", out.code, want, out.stderr)
	}
	return d
}

// compare holds what was foretold to what happened.
func (s *replayTally) compare(t *testing.T, asks [][]*replayAsk, d policyDiffAnswer) {
	t.Helper()
	// unread are those of which only the log knows whether their bodies were read.
	foretold, happened, unread := map[replayKey]int{}, map[replayKey]int{}, map[replayKey]int{}
	decided, untold, open, could := 0, 0, 0, 0
	for i, c := range replayers {
		for _, a := range asks[i] {
			was, is := refusedByRules(a.answers[0]), refusedByRules(a.answers[1])
			if !was && (a.free || a.answers[0] == "bad_request") { // before the rules were asked
				continue
			}
			decided++
			if a.answers[0] == "unknown_caller" || a.unread && a.answers[0] == "not_granted" {
				could++
			}
			if was == is {
				continue
			}
			s.changed++
			switch key := (replayKey{a.listener, c.uid, c.contained, a.grant, was}); {
			case a.answers[0] == "unknown_caller":
				untold++
			case a.unread && a.answers[0] == "not_granted":
				unread[key]++
				untold++
			default:
				happened[key]++
			}
		}
	}
	for _, c := range d.Changes {
		allowed := strings.HasPrefix(c.Then, "allowed by ")
		if strings.HasPrefix(c.Now, "allowed by ") == allowed {
			t.Errorf("no change: %+v", c)
		}
		foretold[replayKey{c.Listener, c.UID, c.Contained, c.Grant, allowed}] += c.Requests
		s.foretold += c.Requests
	}
	for _, c := range d.Undecided {
		open += c.Requests
	}
	for key := range foretold {
		if more := foretold[key] - happened[key]; more < 0 || more > unread[key] {
			t.Errorf("%+v: %d foretold, %d happened", key, foretold[key], happened[key])
		} else {
			untold -= more
		}
	}
	for key := range happened {
		if foretold[key] == 0 {
			t.Errorf("%+v: %d happened, none foretold", key, happened[key])
		}
	}
	if d.Requests != decided || d.Unjudged != 0 || len(d.Counted) != 0 || untold > open || open > could {
		t.Errorf("%d requests of %d replayed, %d unjudged, %d kinds counted; %d of %d changed without being sure, %d could", d.Requests, decided, d.Unjudged, len(d.Counted), untold, open, could)
	}
	s.decided, s.untold, s.open = s.decided+decided, s.untold+untold, s.open+open
}

// storm: refusals that are only counted are accounted for, to the last one.
func storm(t *testing.T, w *world) {
	t.Helper()
	w.kill()
	w.start()
	w.awaitReady()
	since := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	const each = 700
	ask := &replayAsk{listener: "public", method: "GET", path: "/v1/users/nobody?clientId=client-id-of-nobody"}
	for _, c := range []replayer{{uid: 64003}, {uid: 64007}} {
		codes := c.send(w, slices.Repeat([]*replayAsk{ask}, each))
		if slices.ContainsFunc(codes, func(code string) bool { return code != "unknown_caller" }) {
			t.Fatal("a stranger is not refused")
		}
	}
	w.stop() // writes the last counts
	open := fmt.Sprintf("[[rule]]\nname = \"late\"\nusers = [\"%d\"]\napps = [\"shop\"]\ngrants = [\"lookup\"]\n", strangerUID)
	text, err := os.ReadFile(w.config)
	must(t, err)
	must(t, os.WriteFile(w.path("next.toml"), append(text, open...), 0o644))
	d := diff(t, w, since)
	lines, counted := 0, map[uint32]int{}
	for _, c := range d.Undecided {
		if c.UID != strangerUID {
			t.Errorf("uid %d may change", c.UID)
		}
		lines += c.Requests
	}
	total := d.Requests
	for _, c := range d.Counted {
		if c.UID == nil || c.Error != "unknown_caller" {
			t.Fatalf("counted: %+v", c)
		}
		counted[*c.UID] += c.Requests
		total += c.Requests
	}
	if total != 2*each || lines+counted[strangerUID] != each {
		t.Errorf("%d of %d requests are accounted for, %d of the stranger", total, 2*each, lines+counted[strangerUID])
	}
	t.Logf("figure: %d refusals of 2 callers: %d replayed line by line, %d as counts, all accounted for", 2*each, d.Requests, total-d.Requests)
}
