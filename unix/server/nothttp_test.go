package server_test

import (
	"bufio"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/unix/server"
)

// TestRefusedByNetHTTP: what net/http refuses before any handler is on record, by
// its status, and nothing that a handler has answered is counted twice.
func TestRefusedByNetHTTP(t *testing.T) {
	const get = "GET /v1/health HTTP/1.1\r\nHost: x\r\n"
	b := startBare(t, func(c *server.Config) { c.Limits.HeaderTimeout = 200 * time.Millisecond })
	b.open()
	want := map[int]int{}
	for _, c := range []struct {
		name, bytes string
		status      int // the last answer's
		answered    int // in all
	}{
		{"no HTTP", "\x16\x03\x01\x00\x05\r\n\r\n", 400, 1},
		{"no Host", "GET /v1/health HTTP/1.1\r\n\r\n", 400, 1},
		{"another version", "GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, 1},
		{"a transfer coding", get + "Transfer-Encoding: gzip\r\n\r\n", 501, 1},
		{"an expectation", get + "Expect: money\r\n\r\n", 417, 1},
		{"a large head", get + "X: " + strings.Repeat("a", 40<<10) + "\r\n\r\n", 431, 1},
		{"behind a request", get + "\r\n" + "GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, 2},
		{"a slow head", get + "X-", 408, 1},
		{"a slow head behind a request", get + "\r\n" + get, 408, 1},
		{"a slow head behind a request, five bytes", get + "\r\n" + "GET /", 408, 2},
		{"behind a body that was waited for", "POST /v1/connect/tokens HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}" + "GET /\r\n\r\n", 400, 3},
		{"a request", get + "Connection: close\r\n\r\n", 0, 1},
		{"a slow head behind a request, in pieces", get + "\r\n", 408, 1},
		{"nothing", "", 0, 0},
		{"a line's end behind a request", get + "Connection: close\r\n\r\n\r\n", 0, 1},
	} {
		conn := dial(t, b.socket)
		in := bufio.NewReader(conn)
		go func() { _, _ = io.WriteString(conn, c.bytes) }()
		if strings.HasSuffix(c.name, "in pieces") {
			_, _ = in.Peek(1)
			_, _ = io.WriteString(conn, get)
		}
		text, _ := io.ReadAll(in) // until it is closed
		answers := strings.Count(string(text), "HTTP/1.1 ")
		if c.status != 0 {
			want[c.status]++
		}
		if answers != c.answered {
			t.Errorf("%s: %d answers, want %d", c.name, answers, c.answered)
		}
	}
	b.stop()
	<-b.done
	got := map[int]int{}
	for _, e := range b.f.events {
		if e.Outcome != "not http" {
			continue
		}
		got[e.Status] += e.Count
		if e.Kind != audit.Note || *e.UID != me() || e.Listener != "private" || e.Error != "" || !e.Refusal {
			t.Errorf("on record is %+v", e)
		}
	}
	t.Logf("figure: on record of net/http's refusals, by status: %v", got)
	for status, n := range want {
		if got[status] != n {
			t.Errorf("%d: %d are on record, want %d", status, got[status], n)
		}
		delete(got, status)
	}
	if len(got) > 0 {
		t.Errorf("on record and never refused: %v", got)
	}
}
