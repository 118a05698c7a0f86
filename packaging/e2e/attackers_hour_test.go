package e2e

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// attackRules: the attacker and, at times, the victim come by the first.
const attackRules = `
[[rule]]
name = "attacked-app"
users = ["33"]
apps = ["shop"]
grants = ["exchange"]

[[rule]]
name = "another-app"
users = ["64002"]
apps = ["shop"]
grants = ["exchange"]

[[rule]]
name = "bystanders"
users = ["0"]
apps = ["shop"]
grants = ["exchange", "lookup"]
`

const (
	garbagePosts   = 10_000
	garbageCallers = 64
	// upstreamTakes is how long Human API thinks about whatever names the victim.
	upstreamTakes = 200 * time.Millisecond
	// maxDelay is what garbage may cost the victim, beyond that.
	maxDelay = time.Second
)

// attack is 10,000 posts that name one victim.
type attack struct {
	t      *testing.T
	w      *world
	victim string
	posts  atomic.Int64
	answer sync.Map // status and code → *atomic.Int64
}

// An attacker posts garbage that names a victim, as fast as the daemon takes it:
// the victim's own finish events, by another rule and by the same, come through,
// and so do everybody else's.
func TestAttackersHour(t *testing.T) {
	w := newWorld(t, options{
		rules: attackRules, mode: humanapitest.OneTime, level: "warn",
		settings: "[limits]\naudit_per_uid = \"16MiB\"\n", // one uid is all the bystanders there are
	})
	a := &attack{t: t, w: w, victim: w.sim.NewHumanID()}
	w.sim.Misbehave(humanapitest.Fault{Permanent: true, HumanID: a.victim, Delay: upstreamTakes})
	before := a.bystanders(func() { time.Sleep(2 * time.Second) }) // what it is like without
	alone := a.finish(w.as(workerUID, "public"))
	sent := w.sim.Count(tokens)

	own := map[string][]time.Duration{}
	start := time.Now()
	during := a.bystanders(func() {
		flood := make(chan struct{})
		go func() { defer close(flood); a.flood() }()
		for n := 0; ; n++ {
			select {
			case <-flood:
				return
			default:
			}
			by, c, header := "another rule", w.as(workerUID, "public"), ""
			if n%2 == 1 {
				by, c, header = "the same rule", w.as(webUID, "public"), cuidHeader+url.PathEscape("victim@example.test")
			}
			own[by] = append(own[by], a.finish(c, header))
			c.http.CloseIdleConnections()
		}
	})
	took := time.Since(start)
	reached := a.garbageUpstream()
	for by, delays := range own {
		slices.Sort(delays)
		worst := delays[len(delays)-1] - upstreamTakes
		t.Logf("figure: %d garbage posts in %v: the victim's %d finish events by %s were delayed by %v at the median, %v at most (without garbage %v)",
			a.posts.Load(), took.Round(time.Second), len(delays), by, (delays[len(delays)/2] - upstreamTakes).Round(time.Millisecond), worst.Round(time.Millisecond), (alone - upstreamTakes).Round(time.Millisecond))
		if worst > maxDelay {
			t.Errorf("garbage delays the victim by %v, by %s", worst, by)
		}
	}
	// Two claims (a login of the attacker's, and none): eight at once and one in five seconds each.
	bound := 2 * (8 + int(took/(5*time.Second)) + 1)
	t.Logf("figure: of %d garbage posts %d reached Human API (bound %d), %v", a.posts.Load(), reached, bound, a.answers())
	if reached > bound {
		t.Errorf("%d garbage posts reached Human API, and %d may", reached, bound)
	}
	t.Logf("figure: %d finish events of others beside them: p50 %v, p99 %v (without garbage p50 %v, p99 %v), none failed; Human API was asked %d times in all",
		len(during), at(during, 50), at(during, 99), at(before, 50), at(before, 99), w.sim.Count(tokens)-sent)
	if at(during, 99) > maxDelay {
		t.Errorf("others wait for %v at the 99th percentile", at(during, 99))
	}
}

// flood posts the garbage.
func (a *attack) flood() {
	c := a.w.as(webUID, "public")
	defer c.http.CloseIdleConnections()
	var all sync.WaitGroup
	for n := range garbageCallers {
		var header string
		if n%2 == 0 {
			header = cuidHeader + url.PathEscape("attacker@example.test")
		}
		all.Go(func() {
			for {
				i := a.posts.Add(1)
				if i > garbagePosts {
					a.posts.Add(-1)
					return
				}
				a.count(post1(c, sto{shop, a.victim, fmt.Sprintf("marker-garbage-%d", i)}, header))
			}
		})
	}
	all.Wait()
}

func post1(c rootCaller, s sto, header string) (answer, error) {
	headers := []string{jsonType}
	if header != "" {
		headers = append(headers, header)
	}
	return c.try("POST", tokens, s.json(), headers...)
}

func (a *attack) count(got answer, err error) {
	if err != nil {
		a.t.Errorf("a garbage post got no answer: %v", err)
		return
	}
	n, _ := a.answer.LoadOrStore(got.short(a.t), new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

func (a *attack) answers() string {
	out := ""
	a.answer.Range(func(code, n any) bool {
		out += fmt.Sprintf("%d × %s; ", n.(*atomic.Int64).Load(), code)
		return true
	})
	return out
}

// finish is one of the victim's own finish events, until it is answered; told to
// come again, the app does. It returns how long that took.
func (a *attack) finish(c rootCaller, header ...string) time.Duration {
	s := a.w.finishEvent(a.victim, "victim@example.test")
	for start := time.Now(); ; {
		got, err := post1(c, s, append(header, "")[0])
		if err != nil {
			a.t.Errorf("the victim gets no answer: %v", err)
			return time.Since(start)
		}
		if got.status == 200 {
			return time.Since(start)
		}
		if got.status != 429 || time.Since(start) > 20*time.Second {
			a.t.Errorf("the victim is answered %s", got.short(a.t))
			return time.Since(start)
		}
		wait, _ := strconv.Atoi(got.header.Get("Retry-After"))
		time.Sleep(time.Duration(wait) * time.Second) // as it was told
	}
}

// bystanders exchange for users of their own until during returns.
func (a *attack) bystanders(during func()) (latencies []time.Duration) {
	ctx, end := context.WithCancel(context.Background())
	c := a.w.root("public")
	defer c.http.CloseIdleConnections()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		human := a.w.sim.NewHumanID()
		all.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				got, err := post1(c, a.w.finishEvent(human, human+"@example.test"), "")
				if err != nil || got.status != 200 {
					a.t.Errorf("somebody else's exchange is answered %d (%v)", got.status, err)
				}
				mu.Lock()
				latencies = append(latencies, time.Since(start))
				mu.Unlock()
			}
		})
	}
	during()
	end()
	all.Wait()
	slices.Sort(latencies)
	return latencies
}

func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[len(sorted)*percent/100].Round(100 * time.Microsecond)
}

// garbageUpstream counts what Human API was asked, and refused.
func (a *attack) garbageUpstream() (n int) {
	for _, r := range a.w.sim.Requests() {
		if r.Fields["humanId"] == a.victim && r.Status != 200 {
			n++
		}
	}
	return n
}
