package server_test

import (
	"bufio"
	"io"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

func TestConnectionLimits(t *testing.T) {
	for name, limits := range map[string]server.Limits{"in all": {Connections: 3}, "of a uid": {ConnectionsPerUID: 3}} {
		t.Run(name, func(t *testing.T) {
			s := clienttest.Start(t, clienttest.Config{Limits: limits})
			for range 3 {
				conn := dial(t, s.Public)
				_, _ = io.WriteString(conn, request("GET", "/v1/health", ""))
				if a := read(t, bufio.NewReader(conn), "GET"); a.status != 200 {
					t.Fatalf("got %d", a.status)
				}
				defer func() { _ = conn.Close() }()
			}
			a := raw(t, s.Private, request("GET", "/v1/whoami", ""))
			if a.wantCode(t, api.RateLimited); a.header.Get("Connection") != "close" {
				t.Fatal("a connection beyond the limit is kept")
			}
			if a := raw(t, s.Admin, request("GET", "/v1/whoami", "")); a.status != 200 {
				t.Fatalf("the admin socket is shut: %d", a.status)
			}
		})
	}
}

// TestStrangersLeaveRoom: idle connections of callers without a rule do not keep
// others out.
func TestStrangersLeaveRoom(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{Limits: server.Limits{Connections: 512, ConnectionsPerUID: 32}})
	s.SetPolicy(nobody(t))
	health := func() answer {
		conn := dial(t, s.Private)
		_, _ = io.WriteString(conn, request("GET", "/v1/health", ""))
		return read(t, bufio.NewReader(conn), "GET")
	}
	for i := range 16 {
		if a := health(); a.status != 200 {
			t.Fatalf("connection %d: got %d", i, a.status)
		}
	}
	health().wantCode(t, api.RateLimited)
	s.SetPolicy(s.Policy)
	for i := range 32 {
		if a := health(); a.status != 200 {
			t.Fatalf("with a rule, connection %d: got %d", i, a.status)
		}
	}
}

// TestSlotsAreGivenBack: connections that end make room.
func TestSlotsAreGivenBack(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{Limits: server.Limits{ConnectionsPerUID: 2}})
	for range 20 {
		conn := dial(t, s.Public)
		in := bufio.NewReader(conn)
		_, _ = io.WriteString(conn, request("GET", "/v1/health", "", "Connection: close"))
		if a := read(t, in, "GET"); a.status != 200 {
			t.Fatalf("got %d", a.status)
		}
		if _, err := in.ReadByte(); err != io.EOF { // the server has closed it
			t.Fatal(err)
		}
	}
}

func TestInFlightLimit(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.Limits.InFlightPerUID = 1 })
	b.open()
	b.f.hold = make(chan struct{})
	first := make(chan answer, 1)
	go func() { first <- b.post(t) }()
	await(t, "the exchange", b.f.reached("exchange"))
	b.get(t, "/v1/users/h").wantCode(t, api.RateLimited)
	close(b.f.hold)
	if a := <-first; a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	if a := b.get(t, "/v1/users/h"); a.status != 200 {
		t.Fatalf("afterwards: got %d", a.status)
	}
}

func TestRuleRate(t *testing.T) {
	rule := policy.Rule{Name: "slow", Users: []uint32{me()}, Contained: true, Apps: []policy.App{clienttest.DefaultApp}, Grants: []api.Grant{api.GrantLookup}, PerSecond: 0.1, Burst: 2}
	s := clienttest.Start(t, clienttest.Config{Rules: []policy.Rule{rule}})
	for range 2 {
		raw(t, s.Public, request("GET", "/v1/users/x", "")).wantCode(t, api.UnknownUser)
	}
	a := raw(t, s.Public, request("GET", "/v1/users/x", ""))
	if a.wantCode(t, api.RateLimited); a.header.Get("Retry-After") != "10" {
		t.Fatalf("Retry-After is %q", a.header.Get("Retry-After"))
	}
	if got := outcomeOf(t, s, a.err.RequestID); got.Rule != "slow" {
		t.Fatal("the rule is not on record")
	}
}

func TestSlowHead(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{Limits: server.Limits{HeaderTimeout: 100 * time.Millisecond}})
	conn := dial(t, s.Public)
	_, _ = io.WriteString(conn, "GET /v1/health HTTP/1.1\r\nX-")
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatalf("the connection is not closed: %v", err)
	}
}
