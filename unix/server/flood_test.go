package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// tally counts what is written.
type tally struct {
	mu           sync.Mutex
	lines, notes int
	bytes        int
	counted      int
	events       []audit.Event // the notes
	fail         error
}

func (l *tally) Write(e audit.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fail != nil && (e.Refusal || !errors.Is(l.fail, audit.ErrSpared)):
		return l.fail
	case e.Kind == audit.Note:
		l.notes++
		l.counted += e.Count
		l.events = append(l.events, e)
	default:
		l.lines++
	}
	l.bytes += e.Size()
	return nil
}

func (l *tally) WriteDurable(_ context.Context, e audit.Event) error { return l.Write(e) }
func (l *tally) Subject(user.ClientID, user.HumanID) string          { return "" }

// flooded is a server that never runs: requests come as from the uids.
type flooded struct {
	server *Server
	now    time.Time
	log    *tally
}

func newFlooded(t *testing.T) *flooded {
	t.Helper()
	app := policy.App{Name: "shop", ClientID: "example-client-id"}
	f := &flooded{now: time.Unix(1000, 0), log: &tally{}}
	clock := func() time.Time { return f.now }
	p, err := policy.New(policy.Config{
		Apps: []policy.App{app}, Ceilings: map[string][]api.Grant{"public": {api.GrantLookup}}, Now: clock,
		Rules: []policy.Rule{{Name: "even", Groups: []uint32{2}, Apps: []policy.App{app}, Grants: []api.Grant{api.GrantLookup}, PerSecond: 0.001, Burst: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.server = &Server{now: clock}
	f.server.cut, f.server.cutOff = context.WithCancel(t.Context())
	f.server.limits, _ = Limits{}.withDefaults()
	f.server.gate.open(f.server.limits, []Listener{{Name: "public"}})
	f.server.ledger.open(f.server.limits.AuditPerUID)
	f.server.defaults()
	f.server.policy.Store(p)
	f.server.refusals.wake = make(chan struct{}, 1)
	return f
}

func (f *flooded) open() { f.server.Open(Services{Audit: f.log}) }

// send sends one request from uid, in group 1 or 2.
func (f *flooded) send(uid, gid uint32, method, path string) int {
	r := httptest.NewRequest(method, path, nil)
	c := &conn{server: f.server, listener: "public", caller: peer.Caller{UID: uid, GID: gid}, slot: &slot{}}
	w := httptest.NewRecorder()
	f.server.ServeHTTP(w, r.WithContext(withConn(r.Context(), c)))
	return w.Code
}

// TestFloodOfManyUIDs: whatever callers send that is refused before anything was
// done, and whoami, costs the audit log a bounded number of lines and bytes, and
// everything is counted.
func TestFloodOfManyUIDs(t *testing.T) {
	f := newFlooded(t)
	f.open()
	const seconds, uids = 5, 6000
	sent := 0
	for range seconds {
		for uid := range uint32(uids) {
			f.send(uid, 1, "GET", "/v1/whoami") // no rule
			switch uid % 4 {
			case 0:
				f.send(uid, 1, "GET", "/v1/users/x")
			case 1:
				f.send(uid, 2, "GET", "/v1/nothing")
			case 2:
				f.send(uid, 2, "POST", "/v1/whoami")
			case 3:
				f.send(uid, 2, "GET", "/v1/users/x?clientId=another")
			}
			sent += 2
		}
		f.now = f.now.Add(time.Second)
		f.server.refusals.flush(f.server, f.log)
	}
	t.Logf("%d requests from %d uids in %d s: %d lines and %d notes, %d bytes", sent, uids, seconds, f.log.lines, f.log.notes, f.log.bytes)
	if f.log.lines+f.log.counted != sent {
		t.Errorf("%d lines and a count of %d do not make %d", f.log.lines, f.log.counted, sent)
	}
	if most := allBurst + seconds*allPerSecond; f.log.lines > most {
		t.Errorf("%d lines, at most %d", f.log.lines, most)
	}
	if f.log.notes > (maxNotes+5)*seconds {
		t.Errorf("%d notes of 5 classes in %d s", f.log.notes, seconds)
	}
	if f.log.bytes > allBytes+allBytes*seconds/3600 {
		t.Errorf("%d bytes in %d s", f.log.bytes, seconds)
	}
}

// TestBudgetsAreKept: however many uids come, none gets a second burst.
func TestBudgetsAreKept(t *testing.T) {
	var r refusals
	now := time.Unix(1000, 0)
	drained := func(uid uint32) (n int) {
		for r.lined(&audit.Event{UID: &uid}, now) {
			n++
		}
		return n
	}
	if n := drained(1); n != uidBurst {
		t.Fatalf("a uid gets %d lines, want %d", n, uidBurst)
	}
	for uid := range uint32(3 * maxUIDs) {
		now = now.Add(time.Second / allPerSecond)
		uid += 10
		r.lined(&audit.Event{UID: &uid}, now)
	}
	if n := len(r.byUID); n > maxUIDs {
		t.Fatalf("%d uids are kept", n)
	}
	now = now.Add(time.Hour)
	if a, b := drained(1e9), drained(1e9+1); a != uidBurst || b != 0 {
		t.Fatalf("two uids beyond those get %d and %d lines: they do not share a budget", a, b)
	}
}

// TestRateLimitedIsAggregated: a rule's own limit must not be a way around it.
func TestRateLimitedIsAggregated(t *testing.T) {
	f := newFlooded(t)
	f.open()
	f.server.services.Load().Users = noUsers{}
	for range 1000 {
		f.send(7, 2, "GET", "/v1/users/x")
	}
	f.server.refusals.flush(f.server, f.log)
	if f.log.lines != 1+uidBurst || f.log.counted != 999-uidBurst {
		t.Fatalf("%d lines and a count of %d", f.log.lines, f.log.counted)
	}
	if e := f.log.events[0]; e.UID == nil || *e.UID != 7 || e.Error != "rate_limited" || e.Status != 429 || e.Listener != "public" {
		t.Fatalf("the note says too little: %+v", e)
	}
}

type noUsers struct{ Users }

func (noUsers) Public(context.Context, user.ClientID, user.HumanID) (user.Public, error) {
	return user.Public{}, user.Fail(user.UnknownUser, "nobody")
}

func (noUsers) ByClientUserID(context.Context, user.ClientID, user.ClientUserID) (user.Public, error) {
	return user.Public{}, user.Fail(user.UnknownUser, "nobody")
}

// TestNotesSayWho: each uid by its number, those beyond maxNotes as many, and a
// success by its endpoint. What the log does not take is kept.
func TestNotesSayWho(t *testing.T) {
	f := newFlooded(t)
	f.open()
	for uid := range uint32(allBurst) {
		f.send(uid+1e6, 1, "GET", "/v1/nothing")
	}
	for uid := range uint32(2 * maxNotes) {
		f.send(uid%(maxNotes+99), 1, "GET", "/v1/nothing")
	}
	f.log.fail = audit.ErrUnavailable
	f.send(3, 1, "GET", "/v1/whoami")
	f.server.refusals.flush(f.server, f.log)
	f.log.fail = nil
	f.server.refusals.flush(f.server, f.log)
	if len(f.log.events) != maxNotes+2 || f.log.counted != 2*maxNotes+1 {
		t.Fatalf("%d notes with a count of %d", len(f.log.events), f.log.counted)
	}
	for _, e := range f.log.events {
		switch {
		case !e.Refusal:
			t.Errorf("it would use up the reserve: %+v", e)
		case e.Error == "unknown_caller" && e.UID != nil && *e.UID < maxNotes && (e.Count == 1 || e.Count == 2):
		case e.Error == "unknown_caller" && e.UID == nil && e.Outcome == "many" && e.Count == 99:
		case e.Error == "" && (e.UID == nil || *e.UID == 3) && e.Status == http.StatusOK && e.Route == "GET /v1/whoami" && e.Count == 1:
		default:
			t.Errorf("got %+v", e)
		}
	}
}

// TestStartingIsCountedAsItWas: before the audit log is open answers are counted
// under what they were, and written when it opens.
func TestStartingIsCountedAsItWas(t *testing.T) {
	f := newFlooded(t)
	f.send(1, 1, "GET", "/v1/whoami")
	f.send(1, 1, "GET", "/v1/users/x")
	f.send(2, 2, "GET", "/v1/users/x")
	f.send(2, 2, "GET", "/v1/nothing")
	f.send(3, 2, "GET", "/v1/nothing")
	f.open()
	want := map[int]audit.Event{
		200: {Route: "GET /v1/whoami"}, 403: {Error: "unknown_caller"},
		503: {Error: "starting"}, 404: {Error: "not_found"},
	}
	if len(f.log.events) != 5 || f.log.lines != 0 {
		t.Errorf("%d notes and %d lines", len(f.log.events), f.log.lines)
	}
	for _, e := range f.log.events {
		w := want[e.Status]
		if e.Route != w.Route || e.Error != w.Error || e.Count != 1 || e.Outcome != "starting" || e.UID == nil {
			t.Errorf("status %d: got %+v", e.Status, e)
		}
	}
}
