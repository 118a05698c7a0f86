package server_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

var publicReads = []string{"/v1/users/h", "/v1/users?clientUserId=u", "/v1/users?state=indeterminate", "/v1/whoami"}

// TestUnrecordedLookups: where the operator wants that, public reads go on while
// the audit log takes nothing, and nothing else does. When it works again one note
// stands for all of them.
func TestUnrecordedLookups(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.UnrecordedLookups = true })
	b.open()
	full := fmt.Errorf("%w: no space left", audit.ErrUnavailable)
	b.f.set(func() { b.f.write, b.f.durable = full, full })
	for range 3 {
		for _, path := range publicReads {
			if a := b.get(t, path); a.status != 200 {
				t.Fatalf("%s: got %d %s", path, a.status, a.err.Code)
			}
		}
	}
	b.f.mu.Lock()
	b.f.err = user.Fail(user.UnknownUser, "no such user")
	b.f.mu.Unlock()
	b.get(t, "/v1/users/h").wantCode(t, api.UnknownUser)
	b.f.mu.Lock()
	b.f.err = nil
	b.f.mu.Unlock()

	b.get(t, "/v1/users/h/access-token").wantCode(t, api.AuditUnavailable)
	b.post(t).wantCode(t, api.AuditUnavailable)
	raw(t, b.socket, request("POST", "/v1/connect/publictokens", `{"humanId":"h"}`)).wantCode(t, api.AuditUnavailable)
	b.get(t, "/v1/nothing").wantCode(t, api.AuditUnavailable)
	b.get(t, "/v1/users/h?clientId=other").wantCode(t, api.AuditUnavailable)
	if got := strings.Join(b.f.steps, ","); strings.Contains(got, "private") || strings.Contains(got, "exchange") {
		t.Fatalf("something is done that is not on record: %s", got)
	}
	b.f.set(func() { b.f.durable = nil }) // an attempt is refused still
	b.get(t, "/v1/users/h/access-token").wantCode(t, api.AuditUnavailable)
	if n := b.server.Unrecorded(); n != 13 {
		t.Errorf("%d are counted, want 13", n)
	}
	b.f.set(func() { b.f.write = nil })
	b.stop()
	<-b.done
	if len(b.f.events) != 1 || b.f.events[0].Kind != audit.Note || b.f.events[0].Outcome != "unrecorded" || b.f.events[0].Count != 13 || *b.f.events[0].UID != me() {
		t.Errorf("on record: %d events", len(b.f.events))
	}
	if got := b.log.String(); strings.Count(got, "public reads are answered unrecorded") != 1 || !strings.Contains(got, "audit log works again") {
		t.Error("the daemon's log does not say when it began and ended, or says it each time")
	}
}

// TestNoteIsTriedAgain: a note that the log does not take yet is not forgotten,
// although nobody asks for anything meanwhile.
func TestNoteIsTriedAgain(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.UnrecordedLookups = true })
	b.open()
	b.f.set(func() { b.f.write = audit.ErrUnavailable })
	b.get(t, "/v1/users/h")
	await(t, "the first try", b.f.reached("write note"))
	b.f.set(func() { b.f.write = nil })
	await(t, "the second", b.f.reached("write note"))
}

// TestRecordedAfterAll are the cases in which public reads are refused, too.
func TestRecordedAfterAll(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*server.Config)
		err    error
	}{
		"not wanted":      {func(*server.Config) {}, audit.ErrUnavailable},
		"durable lookups": {func(c *server.Config) { c.UnrecordedLookups, c.Durable = true, map[string]bool{"lookup": true} }, audit.ErrUnavailable},
		"a broken log":    {func(c *server.Config) { c.UnrecordedLookups = true }, fmt.Errorf("%w: %w", audit.ErrUnavailable, audit.ErrBroken)},
	} {
		b := startBare(t, c.change)
		b.open()
		b.f.set(func() { b.f.write, b.f.durable = c.err, c.err })
		if a := b.get(t, "/v1/users/h"); a.err.Code != api.AuditUnavailable || b.server.Unrecorded() != 0 {
			t.Errorf("%s: got %d %s", name, a.status, a.err.Code)
		}
	}
}

// TestSecretsAreRecorded: where nothing is durable either, no token is shown and
// nothing exchanged that is not on record.
func TestSecretsAreRecorded(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.UnrecordedLookups, c.Durable = true, map[string]bool{} })
	b.open()
	b.f.set(func() { b.f.outcomes = audit.ErrUnavailable })
	b.get(t, "/v1/users/h/access-token").wantCode(t, api.AuditUnavailable)
	b.post(t).wantCode(t, api.AuditUnavailable)
	raw(t, b.socket, request("POST", "/v1/connect/publictokens", `{"humanId":"h"}`)).wantCode(t, api.AuditUnavailable)
	if a := b.get(t, "/v1/users/h"); a.status != 200 || b.server.Unrecorded() != 1 {
		t.Errorf("a lookup: got %d", a.status)
	}
}

// TestDamagedRow: who asks for a row that cannot be opened is not told to come
// again.
func TestDamagedRow(t *testing.T) {
	rule := func(s *server.Config) {
		admin := policy.Rule{Name: "all", Users: []uint32{me()}, Contained: true, Grants: []api.Grant{api.GrantAdminRead, api.GrantAdmin}}
		app := policy.Rule{Name: "app", Users: []uint32{me()}, Contained: true, Apps: []policy.App{clienttest.DefaultApp},
			Grants: []api.Grant{api.GrantExchange, api.GrantPublicToken, api.GrantLookup, api.GrantAccessToken}}
		all := append(clienttest.Ceilings()["private"], clienttest.Ceilings()[policy.AdminListener]...)
		p, err := policy.New(policy.Config{Rules: []policy.Rule{admin, app}, Apps: []policy.App{clienttest.DefaultApp}, Ceilings: map[string][]api.Grant{"private": all}})
		if err != nil {
			t.Fatal(err)
		}
		s.Policy = p
	}
	w := &worker{err: user.Fail(user.RowDamaged, "marker-of-a-cause")}
	b := startBare(t, func(s *server.Config) { rule(s); s.Admin = w })
	w.f = b.f
	b.open()
	b.f.set(func() { b.f.err = w.err })
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/users/h", ""}, {"GET", "/v1/users?clientUserId=u", ""}, {"GET", "/v1/users?state=indeterminate", ""},
		{"GET", "/v1/users/h/access-token", ""}, {"GET", "/v1/admin/users?humanId=h", ""},
		{"POST", "/v1/connect/tokens", `{"humanId":"h","sessionToken":"s"}`}, {"POST", "/v1/connect/publictokens", `{"humanId":"h"}`},
		{"POST", "/v1/admin/users/prefer", `{"clientUserId":"u","humanId":"h"}`},
	} {
		a := raw(t, b.socket, request(c.method, c.path, c.body))
		if a.status != 503 || a.err.Code != api.StoreUnavailable || a.header.Get("Retry-After") != "" ||
			!strings.Contains(a.err.Message, "the operator has to look at it") || strings.Contains(string(a.body), "marker") {
			t.Errorf("%s: got %d %s, Retry-After %q", c.path, a.status, a.err.Code, a.header.Get("Retry-After"))
		}
	}
	b.f.set(func() { b.f.err = user.Fail(user.StoreUnavailable, "busy") })
	b.get(t, "/v1/users/h").wantCode(t, api.StoreUnavailable) // with Retry-After
}
