package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
)

// answer is what came back over a socket.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    api.Error
}

// raw writes bytes to a new connection and reads one answer.
func raw(t testing.TB, socket, request string) answer {
	t.Helper()
	conn := dial(t, socket)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatalf("write the request: %v", err)
	}
	method, _, _ := strings.Cut(request, " ")
	return read(t, bufio.NewReader(conn), method)
}

func dial(t testing.TB, socket string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func read(t testing.TB, r *bufio.Reader, method string) answer {
	t.Helper()
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("read the answer: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read the answer's body: %v", err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: body}
	if res.Close {
		a.header.Set("Connection", "close")
	}
	if res.StatusCode >= 400 && method != http.MethodHead {
		if err := json.Unmarshal(body, &a.err); err != nil && res.Header.Get(api.HeaderRequestID) != "" {
			t.Fatalf("a refusal is no JSON: %v", err)
		}
	}
	return a
}

// request builds the bytes of a request; headers are whole lines.
func request(method, path, body string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path)
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	if body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

// wantCode checks everything that holds for every refusal.
func (a answer) wantCode(t testing.TB, code api.Code) {
	t.Helper()
	if a.err.Code != code || a.status != code.Status() || a.err.StatusCode != a.status {
		t.Fatalf("got %d %q, want %d %q", a.status, a.err.Code, code.Status(), code)
	}
	if a.err.Message == "" || a.err.RequestID == "" || a.err.RequestID != a.header.Get(api.HeaderRequestID) {
		t.Fatal("the refusal lacks a message or the request id")
	}
	a.wantManners(t)
}

func (a answer) wantManners(t testing.TB) {
	t.Helper()
	if a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != "no-store" || len(a.header.Get(api.HeaderRequestID)) != 32 {
		t.Fatalf("the answer's headers are not ours: status %d", a.status)
	}
	if retry := a.header.Get("Retry-After"); (a.status == 429 || a.status == 503) != (retry != "") || retry == "0" {
		t.Fatalf("Retry-After is %q with status %d", retry, a.status)
	}
}

// line is what the tests look at of an audit line.
type line struct {
	Kind, RequestID, Listener, Rule, Grant, App, Route, Subject, Error, Outcome string
	UID                                                                         *uint32
	Status, Count                                                               int
}

// audited reads the events that are in the file now.
func audited(t testing.TB, s *clienttest.Server) []line {
	t.Helper()
	text, err := os.ReadFile(s.AuditPath)
	if err != nil {
		t.Fatal(err)
	}
	var out []line
	for l := range bytes.Lines(text) {
		var e line
		if err := json.Unmarshal(l, &e); err != nil {
			continue // being written
		}
		if slices.Contains([]string{"attempt", "outcome", "note"}, e.Kind) {
			out = append(out, e)
		}
	}
	return out
}

// outcomeOf is the one outcome of a request.
func outcomeOf(t testing.TB, s *clienttest.Server, id string) line {
	t.Helper()
	var found []line
	for _, l := range audited(t, s) {
		if l.RequestID == id && l.Kind == "outcome" {
			found = append(found, l)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d outcomes are on record, want 1", len(found))
	}
	return found[0]
}

func me() uint32 { return uint32(os.Getuid()) }
