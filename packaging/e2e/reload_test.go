package e2e

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// Two sets of rules that share none; whoever sees one rule of each has seen half
// a reload.
var ruleSets = [2]string{loadRule("red-1") + loadRule("red-2"), loadRule("blue-1") + loadRule("blue-2")}

var wholeSets = [2]string{"red-1 red-2", "blue-1 blue-2"}

func loadRule(name string) string {
	return "[[rule]]\nname = \"" + name + "\"\nusers = [\"0\"]\napps = [\"shop\"]\ngrants = [\"exchange\", \"lookup\"]\n"
}

// reloading is a world whose rules are changed under load.
type reloading struct {
	t         *testing.T
	w         *world
	settings  string       // of the file, without rules
	exchanges atomic.Int64 // answered
	seen      atomic.Int64 // whoami
}

// Rules are swapped whole or not at all, by SIGHUP and by the command, and no
// request fails because of it.
func TestReloadUnderLoad(t *testing.T) {
	w := newWorld(t, options{rules: ruleSets[0], mode: humanapitest.OneTime})
	config, err := os.ReadFile(w.config)
	must(t, err)
	settings, _, _ := strings.Cut(string(config), ruleSets[0])
	r := &reloading{t: t, w: w, settings: settings}
	stop := r.load()
	defer stop()
	for n := range 20 {
		r.write(r.settings + ruleSets[(n+1)%2])
		if n%4 == 3 {
			must(t, w.daemon.cmd.Process.Signal(syscall.SIGHUP))
		} else if out := w.must("", "reload"); out != "reloaded\n" {
			t.Errorf("reload says %q", out)
		}
		r.awaitRules((n + 1) % 2)
	}
	r.refusals()
	t.Logf("figure: 20 reloads under load (5 by SIGHUP): %d exchanges answered, %d looks at the rules in force, each time a whole set; 0 errors", r.exchanges.Load(), r.seen.Load())
}

// refusals: what needs a restart is named, all of it; what is wrong is said; and
// the rules in force stay.
func (r *reloading) refusals() {
	t, w := r.t, r.w
	changed := strings.NewReplacer(
		"[vault]\n", "[vault]\ntimeout = \"4s\"\n", "[humanapi]\n", "[humanapi]\ntimeout = \"9s\"\n",
		`level = "info"`, `level = "debug"`, "[store]\n", "[store]\nreserve = \"32MiB\"\n",
		`mode = "0660"`, `mode = "0600"`, `name = "club"`, `name = "klub"`,
	).Replace("drain_timeout = \"19s\"\n" + r.settings + "[limits]\nconnections = 600\n[exchange]\ndeadline = \"29s\"\n")
	named := []string{"drain_timeout", "vault", "humanapi", "log", "store", "listener", "app", "limits", "exchange"}
	for name, c := range map[string]struct {
		file string
		says []string
	}{
		"keys that need a restart": {changed + ruleSets[1], named},
		"a rule for no app":        {r.settings + ruleSets[1] + strings.Replace(loadRule("lost"), "shop", "ship", 1), []string{"rule[2].apps", "ship"}},
		"half a file":              {r.settings[:len(r.settings)/2], []string{w.config}},
		"no TOML":                  {r.settings + ruleSets[1] + "[[rule]\n", []string{w.config}},
	} {
		r.write(c.file)
		out := w.cli("", "reload", "--socket", w.socket("admin"))
		missing := slices.DeleteFunc(slices.Clone(c.says), func(s string) bool { return strings.Contains(out.stderr, s) })
		if out.code != 1 || out.stdout != "" || len(missing) > 0 {
			t.Errorf("%s: reload exits %d and does not name %q:\n%s%s", name, out.code, missing, out.stdout, out.stderr)
		}
		must(t, w.daemon.cmd.Process.Signal(syscall.SIGHUP))
		w.awaitHealth(func(status int, h health) bool { return status == 200 && h.Degraded })
		r.awaitRules(0)
	}
	t.Logf("figure: a reload that would need a restart for %d things is refused and names all of them: %v; the old rules stay", len(named), named)
	r.write(r.settings + ruleSets[1])
	w.must("", "reload")
	r.awaitRules(1)
	w.awaitHealth(func(status int, h health) bool { return status == 200 && !h.Degraded })
}

// write replaces the file as a whole, as an editor does.
func (r *reloading) write(content string) {
	r.t.Helper()
	must(r.t, os.WriteFile(r.w.config+".new", []byte(content), 0o644))
	must(r.t, os.Rename(r.w.config+".new", r.w.config))
}

// rules are the names of those in force for root.
func (r *reloading) rules(c rootCaller) string {
	a, err := c.try("GET", "/v1/whoami", "")
	if err != nil {
		r.t.Errorf("whoami: %v", err)
		return ""
	}
	var who struct{ Rights []struct{ Rule string } }
	if err := json.Unmarshal([]byte(a.body), &who); err != nil {
		r.t.Errorf("whoami: %v", err)
	}
	var names []string
	for _, right := range who.Rights {
		names = append(names, right.Rule)
	}
	return strings.Join(names, " ")
}

func (r *reloading) awaitRules(set int) {
	r.t.Helper()
	c := r.w.root("public")
	defer c.http.CloseIdleConnections()
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); time.Sleep(2 * time.Millisecond) {
		if r.rules(c) == wholeSets[set] {
			return
		}
	}
	r.t.Fatalf("the rules in force are %q, want %q", r.rules(c), wholeSets[set])
}

// load exchanges and looks at the rules, until stop.
func (r *reloading) load() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c := r.w.root("public")
	var all sync.WaitGroup
	for range 4 {
		human := r.w.sim.NewHumanID()
		all.Go(func() {
			for ctx.Err() == nil {
				a, err := c.try("POST", tokens, r.w.finishEvent(human, human+"@example.test").json(), jsonType)
				if err != nil || a.status != 200 {
					r.t.Errorf("an exchange during a reload is answered %d (%v)", a.status, err)
					return
				}
				r.exchanges.Add(1)
			}
		})
		all.Go(func() {
			for ctx.Err() == nil {
				if got := r.rules(c); got != wholeSets[0] && got != wholeSets[1] {
					r.t.Errorf("half a reload: the rules in force are %q", got)
					return
				}
				r.seen.Add(1)
			}
		})
	}
	return func() { cancel(); all.Wait(); c.http.CloseIdleConnections() }
}
