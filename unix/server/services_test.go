package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

// faulty is every service at once, to fail in ways that real ones fail in
// rarely. It remembers what it was asked, in order.
type faulty struct {
	mu             sync.Mutex
	err            error
	write, durable error
	outcomes       error // of Write, for outcomes alone
	events         []audit.Event
	steps          []string
	hold           chan struct{}
	panics         bool
}

func (f *faulty) step(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, name)
}

func (f *faulty) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps, f.events = nil, nil
	change()
}

func (f *faulty) Exchange(ctx context.Context, e user.Exchange) (user.Result, error) {
	f.step("exchange")
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-ctx.Done():
			f.step("cancelled")
			<-f.hold
		}
	}
	if f.panics {
		panic("marker-of-a-panic")
	}
	return user.Result{Public: user.Public{ClientID: e.ClientID, HumanID: e.HumanID}, Outcome: user.Stored}, f.err
}

func (f *faulty) PublicToken(_ context.Context, app user.ClientID, human user.HumanID, _ user.RequestID) (user.Public, error) {
	return user.Public{ClientID: app, HumanID: human}, f.err
}

func (f *faulty) Public(_ context.Context, app user.ClientID, human user.HumanID) (user.Public, error) {
	return user.Public{ClientID: app, HumanID: human, PublicToken: "token\"<\u2028ü", State: user.Active, CreatedAt: time.Unix(0, 0), UpdatedAt: time.Unix(1, 0)}, f.err
}

func (f *faulty) Private(context.Context, user.ClientID, user.HumanID) (user.Record, error) {
	f.step("private")
	return user.Record{Private: user.Private{AccessToken: secret.FromString("marker-access-token"), ExpiresAt: time.Unix(5, 0)}}, f.err
}

func (f *faulty) ByClientUserID(context.Context, user.ClientID, user.ClientUserID) (user.Public, error) {
	return user.Public{HumanID: "h"}, f.err
}

func (f *faulty) InState(context.Context, user.ClientID, user.State, int) ([]user.Public, error) {
	return nil, f.err
}

func (f *faulty) Write(e audit.Event) error {
	f.step("write " + e.Kind)
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.Kind == audit.Outcome && f.outcomes != nil {
		return f.outcomes
	}
	if f.write == nil {
		f.events = append(f.events, e)
	}
	return f.write
}

func (f *faulty) WriteDurable(_ context.Context, e audit.Event) error {
	f.step("durable " + e.Kind)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.durable == nil {
		f.events = append(f.events, e)
	}
	return f.durable
}

func (f *faulty) Subject(user.ClientID, user.HumanID) string { return "subject" }

// bare runs a server over f.
type bare struct {
	f      *faulty
	server *server.Server
	socket string
	log    *bytes.Buffer
	stop   context.CancelFunc
	done   chan error
}

func startBare(t testing.TB, change func(*server.Config)) *bare {
	t.Helper()
	b := &bare{f: &faulty{}, socket: filepath.Join(t.TempDir(), "s"), log: &bytes.Buffer{}, done: make(chan error, 1)}
	rule := policy.Rule{Name: "all", Users: []uint32{me()}, Contained: true, Apps: []policy.App{clienttest.DefaultApp},
		Grants: []api.Grant{api.GrantExchange, api.GrantPublicToken, api.GrantLookup, api.GrantAccessToken}}
	p, err := policy.New(policy.Config{Rules: []policy.Rule{rule}, Apps: []policy.App{clienttest.DefaultApp}, Ceilings: clienttest.Ceilings()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen(server.ListenConfig{Path: b.socket, UID: -1, GID: -1, Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	c := server.Config{
		Listeners: []server.Listener{{Name: "private", L: l}}, Policy: p, Health: func() api.Health { return api.Health{} },
		Logger: slog.New(slog.NewTextHandler(b.log, nil)),
	}
	if change != nil {
		change(&c)
	}
	if b.server, err = server.New(c); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	go func() { b.done <- b.server.Run(ctx); close(b.done) }()
	t.Cleanup(func() {
		stop()
		if err := <-b.done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return b
}

func (b *bare) open() { b.server.Open(server.Services{Broker: b.f, Users: b.f, Audit: b.f}) }

func (b *bare) get(t testing.TB, path string) answer {
	return raw(t, b.socket, request("GET", path, ""))
}

func (b *bare) post(t testing.TB) answer {
	return raw(t, b.socket, request("POST", "/v1/connect/tokens", `{"humanId":"h","sessionToken":"s"}`))
}

func TestFailures(t *testing.T) {
	b := startBare(t, nil)
	b.open()
	for kind, want := range map[user.Failure]api.Code{
		user.UserMismatch: api.UserMismatch, user.SessionConflict: api.SessionConflict, user.SessionRefused: api.SessionRefused,
		user.ExchangeUnknown: api.Indeterminate, user.Forgotten: api.Forgotten, user.UpstreamInvalid: api.UpstreamInvalid,
		user.UpstreamUnavailable: api.UpstreamUnavailable, user.ExchangePending: api.ExchangePending, user.TooManyWaiting: api.RateLimited,
		user.VaultUnavailable: api.VaultUnavailable, user.VaultStale: api.VaultStale, user.SecretUnavailable: api.SecretUnavailable,
		user.StoreUnavailable: api.StoreUnavailable, user.AuditUnavailable: api.AuditUnavailable, user.Draining: api.Draining,
		user.NoAccessToken: api.Internal, "a kind that nobody knows": api.Internal,
	} {
		b.f.set(func() { b.f.err = fmt.Errorf("wrapped: %w", user.Fail(kind, "marker-of-a-cause")) })
		a := b.post(t)
		a.wantCode(t, want)
		if bytes.Contains(a.body, []byte("marker")) {
			t.Errorf("%s: the cause is told", kind)
		}
		if n := len(b.f.events); n != 2 || b.f.events[1].Error != string(want) {
			t.Errorf("%s: %d events are on record", kind, n)
		}
	}
	b.f.set(func() { b.f.err = &user.Error{Kind: user.VaultUnavailable, RetryAfter: 1500 * time.Millisecond} })
	if a := b.post(t); a.header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After is %q, want 2", a.header.Get("Retry-After"))
	}
	b.f.set(func() { b.f.err = errors.New("marker-of-another-cause") })
	b.post(t).wantCode(t, api.Internal)
	b.stop()
	<-b.done
	if !strings.Contains(b.log.String(), "marker-of-another-cause") {
		t.Error("the cause of an internal error is not logged")
	}
}

func TestOrder(t *testing.T) {
	b := startBare(t, nil)
	b.open()
	b.post(t)
	if got := strings.Join(b.f.steps, ", "); got != "write attempt, exchange, durable outcome" {
		t.Errorf("exchange: %s", got)
	}
	b.f.set(func() {})
	b.get(t, "/v1/users/h/access-token")
	if got := strings.Join(b.f.steps, ", "); got != "write attempt, private, durable outcome" {
		t.Errorf("access token: %s", got)
	}
	b.f.set(func() {})
	b.get(t, "/v1/users/h")
	if got := strings.Join(b.f.steps, ", "); got != "write outcome" {
		t.Errorf("lookup: %s", got)
	}
}

func TestAuditDown(t *testing.T) {
	b := startBare(t, nil)
	b.open()
	b.f.set(func() { b.f.durable = audit.ErrUnavailable })
	a := b.get(t, "/v1/users/h/access-token")
	if a.wantCode(t, api.AuditUnavailable); bytes.Contains(a.body, []byte("marker")) {
		t.Fatal("a token is shown that is not on record")
	}
	b.post(t).wantCode(t, api.AuditUnavailable)
	b.f.set(func() { b.f.write = audit.ErrUnavailable })
	b.post(t).wantCode(t, api.AuditUnavailable)
	if strings.Contains(strings.Join(b.f.steps, ","), "exchange") {
		t.Fatal("something is done that is not on record")
	}
	for _, path := range []string{"/v1/users/h", "/v1/whoami", "/v1/nothing"} {
		b.get(t, path).wantCode(t, api.AuditUnavailable)
	}
	if a := b.get(t, "/v1/health"); a.status != 503 || a.err.Code != "" {
		t.Fatalf("health: got %d %s", a.status, a.err.Code)
	}
}

func TestPanic(t *testing.T) {
	b := startBare(t, nil)
	b.open()
	b.f.panics = true
	b.post(t).wantCode(t, api.Internal)
	if got := b.f.events[len(b.f.events)-1]; got.Kind != audit.Outcome || got.Status != 500 {
		t.Error("a panic is not on record")
	}
	b.f.set(func() { b.f.panics = false })
	if a := b.post(t); a.status != 200 {
		t.Errorf("afterwards: got %d", a.status)
	}
	b.stop()
	<-b.done
	if got := b.log.String(); strings.Contains(got, "marker") || !strings.Contains(got, "handler panicked") {
		t.Error("the log lacks the panic, or has its value")
	}
}

func TestStarting(t *testing.T) {
	b := startBare(t, nil)
	for range 3 {
		b.post(t).wantCode(t, api.Starting)
	}
	b.get(t, "/v1/users/h").wantCode(t, api.Starting)
	if a := b.get(t, "/v1/health"); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Fatalf("health: got %d", a.status)
	}
	b.open()
	if len(b.f.events) != 1 || b.f.events[0].Kind != audit.Note || b.f.events[0].Count != 4 || b.f.events[0].Error != "starting" {
		t.Fatalf("on record: %d events, want one note of 4", len(b.f.events))
	}
	if a := b.post(t); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
}

// TestStoppedWhileStarting: what was answered and is on no record is told.
func TestStoppedWhileStarting(t *testing.T) {
	b := startBare(t, nil)
	b.post(t).wantCode(t, api.Starting)
	b.get(t, "/v1/whoami")
	b.stop()
	<-b.done
	if got := b.log.String(); !strings.Contains(got, "audit log never opened") || !strings.Contains(got, "answers=2") {
		t.Fatal("the log does not say how many answers are on no record")
	}
}

// TestAdminWhileStarting: nothing is done before it can be recorded.
func TestAdminWhileStarting(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{Starting: true})
	for _, path := range []string{"/v1/admin/secrets/check", "/v1/admin/store/check"} {
		raw(t, s.Admin, request("POST", path, "")).wantCode(t, api.Starting)
	}
	if a := raw(t, s.Admin, request("GET", "/v1/admin/status", "")); a.status != 200 {
		t.Fatalf("status: got %d", a.status)
	}
	s.Open()
	if a := raw(t, s.Admin, request("POST", "/v1/admin/secrets/check", "")); a.status != 200 {
		t.Fatalf("afterwards: got %d", a.status)
	}
}

// TestFloodIsAggregated: cheap refusals get a few lines, then a count.
func TestFloodIsAggregated(t *testing.T) {
	now := time.Unix(1000, 0)
	b := startBare(t, func(c *server.Config) {
		c.Now = func() time.Time { return now }
		c.Policy = nobody(t)
	})
	b.open()
	conn := dial(t, b.socket)
	in := bufio.NewReader(conn)
	for range 80 {
		_, _ = io.WriteString(conn, request("GET", "/v1/users/h", ""))
		read(t, in, "GET").wantCode(t, api.UnknownCaller)
	}
	b.stop()
	<-b.done
	lines, counted := 0, 0
	for _, e := range b.f.events {
		if e.Kind == audit.Outcome {
			lines++
		} else if e.Error == "unknown_caller" && *e.UID == me() {
			counted += e.Count
		}
	}
	if lines != 50 || counted != 30 {
		t.Fatalf("%d lines and a count of %d, want 50 and 30", lines, counted)
	}
}

func nobody(t testing.TB) *policy.Policy {
	p, err := policy.New(policy.Config{Apps: []policy.App{clienttest.DefaultApp}, Ceilings: clienttest.Ceilings()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSetPolicyReachesOldConnections(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	c := s.Client(t, s.Public)
	if who, err := c.WhoAmI(t.Context()); err != nil || len(who.Rights) == 0 {
		t.Fatalf("before: %v", err)
	}
	s.SetPolicy(nobody(t))
	if who, err := c.WhoAmI(t.Context()); err != nil || len(who.Rights) != 0 {
		t.Fatalf("after: %v", err)
	}
}
