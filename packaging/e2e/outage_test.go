package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	outageMaxStale = 30 * time.Minute // [vault] max_stale of these tests
	outageCallers  = 4                // of each kind
	outageStep     = 15 * time.Second // by which the clock is moved at a time
	backWithin     = 5 * time.Second  // after Vault's return
)

// Vault is away for ten minutes under load: no lookup fails and exchanges go on.
// Past max_stale exchanges and access tokens stop, lookups and replays do not. When
// Vault is back, so is everything; and when it refuses the daemon, the same stops.
func TestVaultOutage(t *testing.T) {
	t.Parallel()
	w := prepareWorld(t, options{storage: true})
	w.vaultSetting(fmt.Sprintf("max_stale = %q", outageMaxStale))
	w.setUpVault()
	w.withClock()
	w.start()
	w.awaitReady()
	l := startLoad(w)
	defer l.end()

	w.vault.Stop()
	w.awaitHealth(func(_ int, h health) bool { return h.Ready && h.Degraded })
	l.forget()
	for w.ahead() < 10*time.Minute {
		w.clock(w.ahead() + outageStep)
		l.turn()
	}
	seen := l.forget()
	t.Logf("figure: Vault stopped for 10 min of injected time under %d callers: %s", 3*outageCallers, seen)
	if seen.bad() || seen.exchanges["200"] == 0 || seen.reads["200"] == 0 {
		t.Error("something fails although Vault was away for ten minutes only")
	}

	w.clock(outageMaxStale + time.Minute)
	l.await("503 vault_stale", 10*time.Second)
	l.forget()
	l.turn()
	seen = l.forget()
	t.Logf("figure: past max_stale (30 min): %s", seen)
	seen.onlyLookups(t, "503 vault_stale")

	l.vaultReturns()
	l.refused()
}

// vaultReturns measures from the moment when Vault serves.
func (l *outageLoad) vaultReturns() {
	w, t := l.w, l.w.t
	w.vault.Restart()
	back := time.Now()
	l.await("200", time.Minute)
	w.awaitWords(soundHealth)
	took := time.Since(back)
	t.Logf("figure: Vault back after the outage: exchanges, access tokens and health are well again %.1f s later", took.Seconds())
	if took > backWithin {
		t.Errorf("well again after %v, not within %v", took, backWithin)
	}
	l.forget()
	l.turn()
	if seen := l.forget(); seen.bad() {
		t.Errorf("after Vault's return: %s", seen)
	}
}

// refused: the operator takes the way in away, and then the token.
func (l *outageLoad) refused() {
	w, t := l.w, l.w.t
	w.vault.Must("DELETE", daemonRole, nil)
	w.revokeTokens()
	since := time.Now()
	l.await("503 secret_unavailable", 2*time.Minute)
	took := time.Since(since)
	t.Logf("figure: kill switch under load: role deleted and token revoked, exchanges and access tokens stop %.0f s later", took.Seconds())
	if took > time.Minute {
		t.Errorf("it takes effect after %v", took)
	}
	l.forget()
	l.turn()
	seen := l.forget()
	t.Logf("figure: after the kill switch: %s", seen)
	seen.onlyLookups(t, "503 secret_unavailable")
}

// outageLoad is callers of three kinds who never stop: they exchange for new users, read
// access tokens of known ones, and look those up and repeat their exchanges.
type outageLoad struct {
	w     *world
	known []sto
	stop  chan struct{}
	all   sync.WaitGroup
	turns [3]atomic.Int64

	mu   sync.Mutex
	seen seen
}

// seen counts answers.
type seen struct{ exchanges, reads, lookups, replays map[string]int }

func (s seen) String() string {
	return fmt.Sprintf("exchanges %v, access tokens %v, lookups %v, replays %v", s.exchanges, s.reads, s.lookups, s.replays)
}

func newSeen() seen {
	return seen{map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}}
}

// bad reports whether anything was answered otherwise than with success.
func (s seen) bad() bool {
	for _, kind := range []map[string]int{s.exchanges, s.reads, s.lookups, s.replays} {
		if len(kind) != 1 || kind["200"] == 0 {
			return true
		}
	}
	return false
}

// onlyLookups: exchanges and access tokens are answered so, the others served.
func (s seen) onlyLookups(t testing.TB, answer string) {
	t.Helper()
	for _, kind := range []map[string]int{s.exchanges, s.reads} {
		if len(kind) != 1 || kind[answer] == 0 {
			t.Errorf("exchanges and access tokens must be answered %s: %s", answer, s)
		}
	}
	for _, kind := range []map[string]int{s.lookups, s.replays} {
		if len(kind) != 1 || kind["200"] == 0 {
			t.Errorf("lookups and replays must go on: %s", s)
		}
	}
}

func startLoad(w *world) *outageLoad {
	l := &outageLoad{w: w, stop: make(chan struct{}), seen: newSeen()}
	for range outageCallers {
		l.known = append(l.known, w.connected())
	}
	root := w.root("private")
	for n := range outageCallers {
		known := l.known[n]
		user := "/v1/users/" + known.humanID
		l.caller(0, func() {
			human := w.sim.NewHumanID()
			l.ask(root, "POST", tokens, w.finishEvent(human, human+"@example.test").json(), func(s seen) map[string]int { return s.exchanges })
		})
		l.caller(1, func() {
			l.ask(root, "GET", user+"/access-token?clientId="+shop, "", func(s seen) map[string]int { return s.reads })
		})
		l.caller(2, func() {
			l.ask(root, "GET", user+"?clientId="+shop, "", func(s seen) map[string]int { return s.lookups })
			l.ask(root, "POST", tokens, known.json(), func(s seen) map[string]int { return s.replays })
		})
	}
	return l
}

// caller asks again and again, a little apart: it is not a benchmark.
func (l *outageLoad) caller(kind int, ask func()) {
	l.all.Go(func() {
		for {
			ask()
			l.turns[kind].Add(1)
			select {
			case <-l.stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
}

func (l *outageLoad) ask(root rootCaller, method, path, body string, count func(seen) map[string]int) {
	a, err := root.try(method, path, body)
	word := "no answer"
	if err == nil {
		word = a.word()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	count(l.seen)[word]++
}

// word is status and code, for any goroutine.
func (a answer) word() string {
	var body struct{ Error string }
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		return fmt.Sprintf("%d and no JSON", a.status)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", a.status, body.Error))
}

// forget begins to count anew, and returns what was seen.
func (l *outageLoad) forget() seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.seen
	l.seen = newSeen()
	return was
}

// turn waits until every kind of caller has been answered several times.
func (l *outageLoad) turn() {
	l.w.t.Helper()
	var from [3]int64
	for kind := range l.turns {
		from[kind] = l.turns[kind].Load()
	}
	limit := time.Now().Add(time.Minute)
	for kind := range l.turns {
		for l.turns[kind].Load() < from[kind]+4*outageCallers {
			if time.Now().After(limit) {
				l.w.t.Fatal("the load stands still")
			}
			time.Sleep(5 * time.Millisecond) // callers tell nobody
		}
	}
}

// await waits until exchanges and access tokens are answered so, and not otherwise.
func (l *outageLoad) await(answer string, within time.Duration) {
	l.w.t.Helper()
	for limit := time.Now().Add(within); ; {
		l.forget()
		l.turn()
		seen := l.forget()
		if len(seen.exchanges) == 1 && len(seen.reads) == 1 && seen.exchanges[answer] > 0 && seen.reads[answer] > 0 {
			return
		}
		if time.Now().After(limit) {
			l.w.t.Fatalf("within %v not all are answered %s: %s\n%s", within, answer, seen, l.w.logTail())
		}
	}
}

func (l *outageLoad) end() {
	close(l.stop)
	l.all.Wait()
}

// What is asked of Vault in a minute in which nobody asks the daemon, by Vault's own
// audit device: at most two, and one more per app that was used lately.
func TestVaultIdleMinute(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	for apps, name := range []string{"no app in use", "one app in use", "two apps in use"} {
		all.Go(func() { t.Run(name, func(t *testing.T) { idleMinute(t, apps) }) })
	}
	all.Wait()
}

func idleMinute(t *testing.T, apps int) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.vault.Must("PUT", "sys/audit/file", map[string]any{"type": "file", "options": map[string]string{"file_path": w.path("vault-audit.log")}})
	w.start()
	w.awaitReady()
	settle := 8 * time.Second // the Transit key is looked at 5 s after a start
	if apps > 0 {
		settle = 63 * time.Second // the anchor is written within a minute
	}
	human := w.sim.NewHumanID()
	for _, clientID := range []string{shop, club}[:apps] {
		s := sto{clientID, human, w.sim.NewSession(clientID, human, "idle@example.test")}
		w.root("public").do("POST", tokens, s.json()).want(t, 200, "")
	}
	time.Sleep(settle) // real time is what is measured
	before := w.vaultRequests()
	time.Sleep(time.Minute)
	asked := w.vaultRequests()[len(before):]
	t.Logf("figure: requests to Vault in an idle minute, %d apps in use: %d %v", apps, len(asked), asked)
	if len(asked) > 2+apps || len(asked) == 0 {
		t.Errorf("%d requests in an idle minute, want 1 to %d", len(asked), 2+apps)
	}
}

// vaultRequests lists the paths of what Vault was asked, by its audit device.
func (w *world) vaultRequests() (paths []string) {
	w.t.Helper()
	for line := range strings.Lines(w.read("vault-audit.log")) {
		var entry struct {
			Type    string
			Request struct{ Path string }
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			w.t.Fatal("a line of Vault's audit log is no JSON")
		}
		if entry.Type == "request" {
			paths = append(paths, entry.Request.Path)
		}
	}
	return paths
}
