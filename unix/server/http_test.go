package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

func TestPathsAndMethods(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	for name, c := range map[string]struct {
		method, path string
		code         api.Code
		allow        string
	}{
		"unknown":           {"GET", "/v1/nothing", api.NotFound, ""},
		"root":              {"GET", "/", api.NotFound, ""},
		"double slash":      {"GET", "//v1/whoami", api.NotFound, ""},
		"dot":               {"GET", "/v1/./whoami", api.NotFound, ""},
		"dot dot":           {"GET", "/v1/users/../whoami", api.NotFound, ""},
		"encoded dot dot":   {"GET", "/v1/users/%2e%2e", api.NotFound, ""},
		"trailing slash":    {"GET", "/v1/whoami/", api.NotFound, ""},
		"other case":        {"GET", "/V1/whoami", api.NotFound, ""},
		"encoded letter":    {"GET", "/v1/%77hoami", api.NotFound, ""},
		"encoded slash":     {"GET", "/v1/users/a%2Fb", api.NotFound, ""},
		"empty human":       {"GET", "/v1/users/", api.NotFound, ""},
		"absolute form":     {"GET", "http://localhost/v1/users/a", api.NotFound, ""},
		"deeper":            {"GET", "/v1/users/a/access-token/x", api.NotFound, ""},
		"other method":      {"POST", "/v1/users/a", api.MethodNotAllowed, "GET, HEAD"},
		"get on a post":     {"GET", "/v1/connect/tokens", api.MethodNotAllowed, "POST"},
		"options":           {"OPTIONS", "/v1/whoami", api.MethodNotAllowed, "GET, HEAD"},
		"options star":      {"OPTIONS", "*", api.NotFound, ""},
		"admin elsewhere":   {"GET", "/v1/admin/status", api.NotGranted, ""},
		"control character": {"GET", "/v1/users/a%00b", api.BadRequest, ""},
		"no UTF-8":          {"GET", "/v1/users/%ff", api.BadRequest, ""},
		"not stored":        {"GET", "/v1/users/nobody%40example.com", api.UnknownUser, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := raw(t, s.Public, request(c.method, c.path, ""))
			a.wantCode(t, c.code)
			if a.header.Get("Allow") != c.allow {
				t.Fatalf("Allow is %q, want %q", a.header.Get("Allow"), c.allow)
			}
			if got := outcomeOf(t, s, a.err.RequestID); got.Status != a.status || got.Error != string(c.code) {
				t.Fatalf("on record is %d %q", got.Status, got.Error)
			}
		})
	}
}

func TestHead(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	a := raw(t, s.Public, request("HEAD", "/v1/whoami", ""))
	if a.wantManners(t); a.status != http.StatusOK || len(a.body) != 0 {
		t.Fatalf("got %d with %d bytes", a.status, len(a.body))
	}
}

// TestPathAsHost sends what npm request@2 sends over a Unix socket.
func TestPathAsHost(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	o := s.NewSession("user@example.com")
	body := fmt.Sprintf(`{"humanId":%q,"clientId":%q,"sessionToken":%q}`, o.HumanID, o.ClientID, o.SessionToken.Reveal())
	node := fmt.Sprintf("POST /v1/connect/tokens HTTP/1.1\r\naccept: application/json\r\ncontent-type: application/json\r\nhost: %s\r\ncontent-length: %d\r\nConnection: keep-alive\r\n\r\n%s", s.Public, len(body), body)
	conn := dial(t, s.Public)
	go func() {
		for _, b := range []byte(node) { // the smallest pieces there are
			_, _ = conn.Write([]byte{b})
		}
	}()
	in := bufio.NewReader(conn)
	a := read(t, in, "POST")
	if a.wantManners(t); a.status != http.StatusOK || a.header.Get("Connection") != "close" {
		t.Fatalf("got %d, Connection %q", a.status, a.header.Get("Connection"))
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Fatalf("the connection stays open: %v", err)
	}
}

// TestLaterPathAsHost: only a first head is looked at, and a second Host line is
// as wrong as ever.
func TestLaterPathAsHost(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	conn := dial(t, s.Public)
	in := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, request("GET", "/v1/health", ""))
	if a := read(t, in, "GET"); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	_, _ = io.WriteString(conn, "GET /v1/health HTTP/1.1\r\nHost: /x.sock\r\n\r\n")
	if a := read(t, in, "GET"); a.status != 400 {
		t.Fatalf("a later head: got %d, want 400", a.status)
	}
	for _, head := range []string{
		"Host: /x.sock\r\nHost: localhost\r\n", "Host: localhost\r\nHost: /x.sock\r\n", "X: y\r\n Host: /x.sock\r\n",
	} {
		if a := raw(t, s.Public, "GET /v1/health HTTP/1.1\r\n"+head+"\r\n"); a.status != 400 {
			t.Fatalf("got %d, want 400", a.status)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	for _, size := range []int{64<<10 + 1, 300 << 10, 2 << 20} {
		body := `{"x":"` + strings.Repeat("a", size-8) + `"}`
		// The caller writes everything before it reads anything.
		raw(t, s.Public, request("POST", "/v1/connect/tokens", body)).wantCode(t, api.TooLarge)
		chunked := fmt.Sprintf("POST /v1/connect/tokens HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		raw(t, s.Public, chunked).wantCode(t, api.TooLarge)
	}
	body := strings.Repeat(" ", 64<<10-2) + "{}"
	raw(t, s.Public, request("POST", "/v1/connect/tokens", body)).wantCode(t, api.BadRequest)
}

func TestSlowAndShortBodies(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{Limits: server.Limits{BodyTimeout: 200 * time.Millisecond}})
	a := raw(t, s.Public, "POST /v1/connect/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
	if a.wantCode(t, api.TooSlow); a.header.Get("Connection") != "close" {
		t.Fatal("the connection stays open")
	}
	// A body that nobody reads must not hold the answer up either.
	raw(t, s.Public, "POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{").wantCode(t, api.NotFound)
}

// TestDeadlineEndsWithTheBody: the body's deadline must not end the request's
// context once the body is there; the caller's leaving must.
func TestDeadlineEndsWithTheBody(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.Limits.BodyTimeout = 50 * time.Millisecond })
	b.open()
	b.f.hold = make(chan struct{})
	conn := dial(t, b.socket)
	_, _ = io.WriteString(conn, request("POST", "/v1/connect/tokens", `{"humanId":"h","sessionToken":"s"}`))
	await(t, "the exchange", b.f.reached("exchange"))
	time.Sleep(200 * time.Millisecond) // past the deadline: nothing must happen
	if b.f.reached("cancelled")() {
		t.Fatal("the body's deadline ended the request")
	}
	_ = conn.Close()
	await(t, "the caller's leaving to be seen", b.f.reached("cancelled"))
	close(b.f.hold)
}

func TestLargeHeader(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	a := raw(t, s.Public, request("GET", "/v1/whoami", "", "X-Large: "+strings.Repeat("a", 40<<10)))
	if a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Fatalf("got %d", a.status)
	}
}

func TestUnknownCaller(t *testing.T) {
	other := []policy.Rule{{Name: "somebody-else", Users: []uint32{uint32(os.Getuid()) + 1}, Apps: []policy.App{clienttest.DefaultApp}, Grants: []api.Grant{api.GrantLookup}}}
	s := clienttest.Start(t, clienttest.Config{Rules: other})
	for _, r := range []string{
		request("GET", "/v1/nothing", ""), request("BREW", "/v1/users/a", ""), request("POST", "/v1/connect/tokens", `{"clientSecret":1}`),
	} {
		a := raw(t, s.Public, r)
		a.wantCode(t, api.UnknownCaller)
		if got := outcomeOf(t, s, a.err.RequestID); got.Error != "unknown_caller" || got.Route != "" || got.UID == nil {
			t.Fatal("the refusal is not on record as it should be")
		}
	}
	if who, err := s.Client(t, s.Public).WhoAmI(t.Context()); err != nil || who.UID != uint32(os.Getuid()) || who.PID != int32(os.Getpid()) || who.Rights == nil {
		t.Fatalf("whoami: %v", err)
	}
	if h, err := s.Client(t, s.Public).Health(t.Context()); err != nil || !h.Ready {
		t.Fatalf("health: %v", err)
	}
}

func TestHealthIsNotRecorded(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	raw(t, s.Public, request("GET", "/v1/health", "")).wantManners(t)
	a := raw(t, s.Public, request("GET", "/v1/whoami", ""))
	if n := len(audited(t, s)); n != 1 {
		t.Fatalf("%d events are on record, want whoami's alone", n)
	}
	if got := outcomeOf(t, s, a.header.Get(api.HeaderRequestID)); got.Route != "GET /v1/whoami" || got.Listener != "public" {
		t.Fatal("whoami is not on record as it should be")
	}
}
