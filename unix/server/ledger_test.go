package server

import (
	"context"
	"math"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// newSpender is a server that serves lookups by a rule without a rate, of which
// users are there or not.
func newSpender(t *testing.T, perSecond int64, users Users) *flooded {
	t.Helper()
	f := newFlooded(t)
	app := policy.App{Name: "shop", ClientID: "example-client-id"}
	p, err := policy.New(policy.Config{
		Apps: []policy.App{app}, Ceilings: map[string][]api.Grant{"public": {api.GrantLookup}, policy.AdminListener: {api.GrantAdminRead}},
		Rules: []policy.Rule{{Name: "app", Groups: []uint32{2}, Apps: []policy.App{app}, Grants: []api.Grant{api.GrantLookup, api.GrantAdminRead}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.server.SetPolicy(p)
	f.server.ledger.open(perSecond)
	f.open()
	f.server.services.Load().Users = users
	return f
}

// ask is send over another listener, and returns the whole answer.
func (f *flooded) ask(uid uint32, listener, path string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	c := &conn{server: f.server, listener: listener, caller: peer.Caller{UID: uid, GID: 2}, slot: &slot{}}
	w := httptest.NewRecorder()
	f.server.ServeHTTP(w, r.WithContext(withConn(r.Context(), c)))
	return w
}

// TestGrantedLinesHaveABudget: who may look users up can fill the audit log at the
// rate of the budget, and is told to wait before anything is done. Others, and the
// admin socket, are served as ever.
func TestGrantedLinesHaveABudget(t *testing.T) {
	const perSecond, seconds = 64 << 10, 60
	users := &lookedUp{}
	f := newSpender(t, perSecond, users)
	granted, refused := 0, 0
	for range seconds {
		for range 1000 {
			switch w := f.ask(7, "public", "/v1/users/x"); w.Code {
			case 200:
				granted++
			case 429:
				if refused++; w.Header().Get("Retry-After") != "1" {
					t.Fatalf("Retry-After is %q", w.Header().Get("Retry-After"))
				}
			default:
				t.Fatalf("got %d", w.Code)
			}
		}
		if w := f.ask(8, "public", "/v1/users/x"); w.Code != 200 {
			t.Fatalf("another uid: got %d", w.Code)
		}
		if w := f.ask(7, policy.AdminListener, "/v1/admin/users?humanId=x"); w.Code != 200 {
			t.Fatalf("the same uid as an administrator: got %d", w.Code)
		}
		f.now = f.now.Add(time.Second)
		f.server.refusals.flush(f.server, f.log)
	}
	const budget = perSecond * (auditBurst + seconds)
	t.Logf("figure: %d lookups in %d s, %d of them refused: %.1f MB in the audit log, %.1f are allowed", granted+refused, seconds, refused, float64(f.log.bytes)/1e6, budget/1e6)
	if f.log.bytes > budget+budget/8 || f.log.bytes < budget/2 {
		t.Errorf("%d bytes, and %d are allowed", f.log.bytes, int(budget))
	}
	if refused == 0 || users.asked != granted+2*seconds {
		t.Errorf("%d granted and %d refused, and the store was asked %d times", granted, refused, users.asked)
	}
	if all := 2*seconds + granted + refused; f.log.lines+f.log.counted != all {
		t.Errorf("%d lines and a count of %d do not make %d", f.log.lines, f.log.counted, all)
	}
}

type lookedUp struct {
	Users
	asked int
}

func (c *lookedUp) Public(_ context.Context, _ user.ClientID, h user.HumanID) (user.Public, error) {
	c.asked++
	return user.Public{HumanID: h}, nil
}

// TestAttemptsPay: what is done upstream, or shows a token, has two lines.
func TestAttemptsPay(t *testing.T) {
	s, _ := newWilling(t)
	app := policy.App{Name: "shop", ClientID: "id"}
	p, err := policy.New(policy.Config{
		Apps: []policy.App{app}, Ceilings: map[string][]api.Grant{"private": {api.GrantLookup, api.GrantPublicToken}},
		Rules: []policy.Rule{{Name: "app", Users: []uint32{7}, Apps: []policy.App{app}, Grants: []api.Grant{api.GrantLookup, api.GrantPublicToken}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.SetPolicy(p)
	cost := map[api.Grant]float64{}
	for _, g := range []api.Grant{api.GrantLookup, api.GrantPublicToken} {
		s.ledger.open(1 << 20)
		if code, _ := s.send(policy.Query{Caller: peer.Caller{UID: 7}, Listener: "private", ClientID: "id", Grant: g}); code != 200 {
			t.Fatalf("%s: got %d", g, code)
		}
		cost[g] = 64<<20 - s.ledger.of[holdKey{uid: 7}].bytes
	}
	t.Logf("a lookup costs %v bytes, a publicToken %v", cost[api.GrantLookup], cost[api.GrantPublicToken])
	if cost[api.GrantLookup] < 300 || cost[api.GrantPublicToken] < 1.8*cost[api.GrantLookup] {
		t.Errorf("%v", cost)
	}
}

// TestLookupsOfNobodyAreCounted: beyond a burst, however the user is named, and only
// where there is none.
func TestLookupsOfNobodyAreCounted(t *testing.T) {
	const requests = 1000
	for path, want := range map[string]audit.Event{
		"/v1/users/x":              {Route: "GET /v1/users/{humanId}", Status: 404, Error: "unknown_user"},
		"/v1/users?clientUserId=x": {Route: "GET /v1/users", Status: 200},
	} {
		f := newSpender(t, 1<<20, noUsers{})
		for range requests {
			if w := f.ask(7, "public", path); w.Code != want.Status {
				t.Fatalf("got %d", w.Code)
			}
		}
		f.server.refusals.flush(f.server, f.log)
		if f.log.lines != missesPerSecond || f.log.notes != 1 || f.log.counted != requests-missesPerSecond {
			t.Fatalf("%d lines, %d notes and a count of %d", f.log.lines, f.log.notes, f.log.counted)
		}
		if e := f.log.events[0]; *e.UID != 7 || e.Route != want.Route || e.Status != want.Status || e.Error != want.Error || !e.Refusal || e.Listener != "public" {
			t.Fatalf("got %+v", e)
		}
		if w := f.ask(8, "public", path); w.Code != want.Status || f.log.lines != missesPerSecond+1 {
			t.Fatalf("another uid has no line: %d", f.log.lines)
		}
		f.now = f.now.Add(time.Second)
		if f.ask(7, "public", path); f.log.lines != missesPerSecond+2 {
			t.Fatal("a second later there is no line")
		}
	}
}

// TestLookupsOfSomebodyAreNot: each has its line.
func TestLookupsOfSomebodyAreNot(t *testing.T) {
	f := newSpender(t, 1<<20, &lookedUp{})
	for range 1000 {
		f.ask(7, "public", "/v1/users/x")
	}
	if f.log.lines != 1000 {
		t.Errorf("%d lines", f.log.lines)
	}
	f = newSpender(t, 1<<20, noUsers{})
	f.server.durable = map[string]bool{"lookup": true}
	for range 1000 {
		f.ask(7, "public", "/v1/users/x")
	}
	if f.log.lines != 1000 {
		t.Errorf("of what must be durable: %d lines", f.log.lines)
	}
}

// TestAccountsAreFew: what is missing from an account is never forgotten, and who
// comes when there are too many shares one.
func TestAccountsAreFew(t *testing.T) {
	var l ledger
	now := time.Unix(1000, 0)
	l.open(64 << 10)
	spend := func(uid uint32) {
		a, _ := l.find(holdKey{uid: uid}, now)
		for a.bytes > 0 {
			a.bytes -= 1 << 20
		}
	}
	for uid := range uint32(maxAccounted) {
		spend(uid)
	}
	spend(maxAccounted)
	for uid := range uint32(maxAccounted + 100) {
		if _, wait := l.find(holdKey{uid: uid}, now); wait == 0 {
			t.Fatalf("uid %d has room", uid)
		}
	}
	if len(l.of) != maxAccounted {
		t.Fatalf("%d accounts", len(l.of))
	}
	now = now.Add(time.Hour)
	if _, wait := l.find(holdKey{uid: math.MaxUint32}, now); wait != 0 || len(l.of) != 1 {
		t.Fatalf("an hour later there are %d accounts", len(l.of))
	}
}

// TestLineSize: it is close, and too much rather than too little.
func TestLineSize(t *testing.T) {
	id, hex := uint32(64002), strings.Repeat("0123456789abcdef", 2)
	small := audit.Event{Kind: audit.Outcome, RequestID: hex, Listener: "public", UID: &id, GID: &id, PID: 12345, Rule: "shop", Grant: "lookup", App: "shop", Route: "GET /v1/users/{humanId}", Subject: hex[:22], Status: 200}
	most := small
	top := uint32(math.MaxUint32)
	most.UID, most.GID, most.PID, most.Unproven, most.Contained = &top, &top, 1<<22, true, true
	most.Groups = make([]uint32, 64)
	for i := range most.Groups {
		most.Groups[i] = top
	}
	most.Unit, most.Invocation, most.Label, most.AppFrom = strings.Repeat("u", 255), hex, strings.Repeat("l", 64), audit.FromRights
	most.Error, most.Outcome = "unknown_user", "created"
	for name, e := range map[string]audit.Event{"a lookup": small, "the longest": most} {
		size, about := e.Size(), lineSize(&e)
		t.Logf("%s: %d bytes, taken for %d", name, size, about)
		if about < size-20 || about > size+80 { // Size leaves room for a sequence of 20 digits
			t.Errorf("%s: %d bytes are taken for %d", name, size, about)
		}
	}
}
