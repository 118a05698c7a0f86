package e2e

import (
	"context"
	"errors"
	"net"
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

// stopped is an exchange that is under way when SIGTERM comes.
type stopped struct {
	phase  string
	faults []humanapitest.Fault // of its user
	behind bool                 // another one of the same user is on the wire before it
	want   string               // its answer
	again  string               // the answer to its repeat, after the restart
	posts  int                  // of its session token until then
}

var stoppedExchanges = []stopped{
	{phase: "on the wire, answered in time", faults: once(humanapitest.Fault{Delay: 2 * time.Second}), want: "200", again: "200", posts: 1},
	{phase: "on the wire, tokens made, answered in time", faults: once(humanapitest.Fault{DelayAnswer: 2 * time.Second}), want: "200", again: "200", posts: 1},
	{phase: "on the wire, not answered in time", faults: once(humanapitest.Fault{Delay: 25 * time.Second, NoEffect: true}), want: "504 exchange_pending", again: "200", posts: 1},
	{phase: "on the wire, tokens made, not answered in time", faults: once(humanapitest.Fault{DelayAnswer: 25 * time.Second}), want: "504 exchange_pending", again: "409 indeterminate", posts: 1},
	{phase: "pausing after an attempt in doubt", faults: once(humanapitest.Fault{Status: 503, RetryAfter: "20"}), want: "504 exchange_pending", again: "200", posts: 1},
	{phase: "pausing, nothing in doubt", faults: once(humanapitest.Fault{Status: 429, RetryAfter: "20"}), want: "503 draining", again: "200", posts: 1},
	{phase: "waiting for the user's turn", behind: true, faults: once(humanapitest.Fault{Delay: 2 * time.Second}), want: "503 draining", again: "200", posts: 0},
}

// SIGTERM: what was accepted is answered, nothing is begun, and what is answered
// with anything but its tokens ends well when it is repeated after the restart.
func TestDrain(t *testing.T) {
	w := prepareWorld(t, options{mode: humanapitest.OneTime, settings: "[exchange]\ndeadline = \"28s\"\n"})
	config, err := os.ReadFile(w.config)
	must(t, err)
	text := strings.Replace("drain_timeout = \"6s\"\n"+string(config), "[humanapi]\n", "[humanapi]\ntimeout = \"26s\"\n", 1)
	must(t, os.WriteFile(w.config, []byte(text), 0o644))
	w.setUpVault()
	w.start()
	w.awaitReady()
	root := w.root("public")
	events := make([]sto, len(stoppedExchanges))
	answers := make([]answer, len(stoppedExchanges))
	var all sync.WaitGroup
	asked := 0
	for i, s := range stoppedExchanges {
		human := w.sim.NewHumanID()
		for _, f := range s.faults {
			f.HumanID = human
			w.sim.Misbehave(f)
		}
		if s.behind {
			first := w.finishEvent(human, human+"@example.test")
			all.Go(func() {
				if a, err := root.try("POST", tokens, first.json(), jsonType); err != nil || a.status != 200 {
					t.Errorf("the exchange before it is answered %d (%v)", a.status, err)
				}
			})
			asked++
			w.awaitAsked(asked)
		}
		events[i] = w.finishEvent(human, human+"@example.test")
		all.Go(func() {
			var err error
			if answers[i], err = root.try("POST", tokens, events[i].json(), jsonType); err != nil {
				t.Errorf("%s: cut off: %v", s.phase, err)
			}
		})
		asked += s.posts
		w.awaitAsked(asked)
	}
	w.awaitWaiting(3)
	load := w.drainLoad(root)
	must(t, w.daemon.cmd.Process.Signal(syscall.SIGTERM))
	term := time.Now()
	<-w.daemon.done
	all.Wait()
	load.wait()
	took := time.Since(term)
	if w.daemon.err != nil {
		t.Errorf("the daemon ended with %v\n%s", w.daemon.err, w.logTail())
	}
	late := 0
	for _, r := range w.sim.Requests() {
		if r.Time.Sub(term) > 100*time.Millisecond {
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d requests came to Human API more than 100 ms after SIGTERM", late)
	}
	t.Logf("figure: SIGTERM under load: ended after %v; %d exchanges of 16 callers around it answered 200, %d refused as draining, %d not connected, 0 cut off; requests at Human API later than 100 ms after it: %d",
		took.Round(100*time.Millisecond), load.done.Load(), load.draining.Load(), load.refused.Load(), late)
	w.restartAndRepeat(events, answers)
}

func (w *world) restartAndRepeat(events []sto, answers []answer) {
	w.t.Helper()
	w.start()
	w.awaitReady()
	root := w.root("public")
	for i, s := range stoppedExchanges {
		got := answers[i].short(w.t)
		again := root.do("POST", tokens, events[i].json(), jsonType).short(w.t)
		if got != s.want || again != s.again {
			w.t.Errorf("%s: answered %q and then %q, want %q and %q", s.phase, got, again, s.want, s.again)
		}
		w.t.Logf("figure: SIGTERM while an exchange is %s: %s; the same after the restart: %s", s.phase, got, again)
	}
}

// awaitAsked waits until Human API was asked for tokens that often in all.
func (w *world) awaitAsked(n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	must(w.t, w.sim.Await(ctx, tokens, n))
}

// awaitPosts waits until the simulator has dealt with that session token n times.
func (w *world) awaitPosts(s sto, n int) {
	w.t.Helper()
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		got := 0
		for _, r := range w.sim.Requests() {
			if r.Fields["sessionToken"] == s.sessionToken {
				got++
			}
		}
		if got >= n {
			return
		}
	}
	w.t.Fatalf("Human API was not asked %d times", n)
}

// awaitWaiting waits until that many exchanges are in flight and not on the wire.
func (w *world) awaitWaiting(n int) {
	w.t.Helper()
	admin := w.root("admin")
	defer admin.http.CloseIdleConnections()
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		if w.exchanges(admin).Waiting == n {
			return
		}
	}
	w.t.Fatalf("no %d exchanges are waiting", n)
}

// crowd is callers that exchange for users of their own until the daemon goes.
type crowd struct {
	done, draining, refused atomic.Int64
	callers                 sync.WaitGroup
}

func (l *crowd) wait() { l.callers.Wait() }

// drainLoad runs 16 callers, and returns when they are at work.
func (w *world) drainLoad(c rootCaller) *crowd {
	l := &crowd{}
	working := make(chan struct{}, 1<<10)
	for range 16 {
		human := w.sim.NewHumanID()
		l.callers.Go(func() {
			for {
				a, err := c.try("POST", tokens, w.finishEvent(human, human+"@example.test").json(), jsonType)
				switch {
				case err != nil && notConnected(err):
					l.refused.Add(1)
					return
				case err != nil:
					w.t.Errorf("an exchange is cut off: %v", err)
					return
				case a.status == 503 && a.field(w.t, "error") == "draining":
					l.draining.Add(1)
					return
				case a.status != 200:
					w.t.Errorf("an exchange is answered %s", a.short(w.t))
					return
				}
				l.done.Add(1)
				select {
				case working <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 64 {
		<-working
	}
	return l
}

// notConnected: nothing was accepted, so nothing was cut.
func notConnected(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// ---- restarts ----

const restarts = 20

// Restarts under load: with the daemon's own sockets a caller may find nobody for
// a while; with inherited ones it notices nothing but the time it takes.
func TestRestartsUnderLoad(t *testing.T) {
	t.Run("own sockets", func(t *testing.T) {
		r := restartUnderLoad(t, newWorld(t, options{mode: humanapitest.OneTime}))
		t.Logf("figure: %d restarts with own sockets under 16 callers: %v", restarts, r)
	})
	t.Run("inherited sockets", func(t *testing.T) {
		w := prepareWorld(t, options{mode: humanapitest.OneTime})
		w.inherit()
		w.setUpVault()
		// systemd sets LISTEN_PID between fork and exec (sd_listen_fds(3)).
		through := []string{"/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}
		w.start(through...)
		w.awaitReady()
		r := restartUnderLoad(t, w, through...)
		t.Logf("figure: %d restarts with inherited sockets under 16 callers: %v", restarts, r)
		if r.refused.Load() != 0 {
			t.Errorf("%d connections were refused", r.refused.Load())
		}
	})
}

// inherit makes the sockets as systemd would, and keeps them open.
func (w *world) inherit() {
	w.t.Helper()
	names := []string{"public", "private", "admin"}
	for i, gid := range []int{publicGID, privateGID, adminGID} {
		path := w.socket(names[i])
		must(w.t, os.Mkdir(filepath.Dir(path), 0o755))
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		must(w.t, err)
		must(w.t, os.Chown(path, 0, gid))
		must(w.t, os.Chmod(path, 0o660))
		f, err := l.File()
		must(w.t, err)
		w.t.Cleanup(func() { _ = f.Close(); _ = l.Close() })
		w.sockets = append(w.sockets, f)
	}
	w.env = append(w.env, "LISTEN_FDS=3", "LISTEN_FDNAMES="+strings.Join(names, ":"))
}
