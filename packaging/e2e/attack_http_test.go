package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// httpAttack is what one connection sends.
type httpAttack struct {
	group, attempt string
	uid            uint32
	groups         []uint32 // nil: those of both sockets for apps
	listener       string
	bytes          string
	want           string // of every answer in turn, "status code, …"; "no connection"
}

// httpAttacks is one world with a victim in it.
type httpAttacks struct {
	*world
	victim, session string // session is used, and fresh is not
	fresh           string
	nobody          []string // humanIds that must not be stored
	markers         []string
	store           [32]byte
}

// exchanged is the group whose attempts Human API is asked about: the store's file
// changes, and what it says of users must not.
const exchanged = "exchange"

const forgedID = "marker-request-id-of-the-caller"

// attackOverHTTP is what a local user may write to a socket of the daemon to get what
// is not theirs: refused, nothing handed out, nothing stored, and on record.
func attackOverHTTP(t *testing.T) (tried int) {
	h := newHTTPAttacks(t)
	var ended []attackRow
	var answers [][]refused
	for _, a := range h.table() {
		got := h.try(t, a)
		outcome := short(got)
		if got == nil {
			outcome = "no connection"
		}
		if outcome != a.want {
			t.Errorf("%s: %s: got %q, want %q", a.group, a.attempt, outcome, a.want)
		}
		ended, answers = append(ended, attackRow{a.group, a.attempt, outcome, ""}), append(answers, got)
	}
	h.controls(t)
	h.stop()
	log, err := os.ReadFile(h.path("log/audit.log"))
	must(t, err)
	if bytes.Contains(log, []byte(forgedID)) {
		t.Error("a caller's request id is in the audit log")
	}
	h.must("", "audit", "verify")
	on := readRecords(log)
	for i, a := range ended {
		a.record = recordedAs(t, on, a, answers[i])
		a.print(t)
	}
	return len(ended)
}

func newHTTPAttacks(t *testing.T) *httpAttacks {
	h := &httpAttacks{world: newWorld(t, options{rules: lendingRules, settings: "[sandbox]\nmode = \"require\"\n"})}
	h.victim = h.sim.NewHumanID()
	s := h.finishEvent(h.victim, "marker-victim@example.test")
	h.as(webUID, "public").do("POST", tokens, s.json(), jsonType).want(t, 200, "")
	h.session = s.sessionToken
	h.fresh = h.sim.NewSession(shop, h.victim, "marker-victim@example.test")
	access, public := h.sim.Current(shop, h.victim)
	h.markers = []string{access, public, h.session, h.fresh, shopSecret, clubSecret, h.victim, "marker-victim"}
	if slices.Contains(h.markers, "") {
		t.Fatal("the victim has no tokens")
	}
	h.store = h.stored(t)
	return h
}

func (h *httpAttacks) stored(t testing.TB) [32]byte {
	b, err := os.ReadFile(h.path("state/store.db"))
	must(t, err)
	return sha256.Sum256(b)
}

// try sends the bytes, and reads what comes until the daemon closes. nil: the
// kernel did not let the caller connect.
func (h *httpAttacks) try(t *testing.T, a httpAttack) []refused {
	t.Helper()
	conn, err := dialAs(context.Background(), h.socket(a.listener), a.uid, a.groups...)
	if errors.Is(err, syscall.EACCES) {
		return nil
	}
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	written := make(chan struct{})
	go func() { defer close(written); _, _ = io.WriteString(conn, a.bytes) }() // may be refused before it is read
	raw, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %s: the connection stays open after %d bytes", a.group, a.attempt, len(raw))
	}
	_ = conn.Close()
	<-written
	for i, m := range h.markers {
		if bytes.Contains(raw, []byte(m)) {
			t.Errorf("%s: %s: the answer has marker %d", a.group, a.attempt, i)
		}
	}
	if now := h.stored(t); now != h.store {
		if a.group != exchanged {
			t.Errorf("%s: %s: the store is not as it was", a.group, a.attempt)
		}
		h.store = now
	}
	return parseAnswers(t, a, raw)
}

// parseAnswers takes the answers apart; each has to be a refusal.
func parseAnswers(t *testing.T, a httpAttack, raw []byte) []refused {
	t.Helper()
	out := []refused{}
	for in := bufio.NewReader(bytes.NewReader(raw)); ; {
		if _, err := in.Peek(1); err != nil {
			return out
		}
		res, err := http.ReadResponse(in, &http.Request{Method: "GET"})
		if err != nil {
			t.Errorf("%s: %s: an answer is no HTTP", a.group, a.attempt)
			return out
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode < 400 {
			t.Errorf("%s: %s: answered %d, whole: %v", a.group, a.attempt, res.StatusCode, err == nil)
		}
		var e struct {
			Error, RequestID string
		}
		id := res.Header.Get("X-Request-Id")
		if id != "" {
			must(t, json.Unmarshal(body, &e))
		}
		if id != e.RequestID || id == forgedID {
			t.Errorf("%s: %s: the request id is not the daemon's", a.group, a.attempt)
		}
		out = append(out, refused{a.uid, id, res.StatusCode, e.Error})
	}
}

func short(answers []refused) string {
	out := make([]string, 0, len(answers))
	for _, r := range answers {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%d %s", r.status, r.code)))
	}
	if len(out) == 0 {
		return "closed"
	}
	return strings.Join(out, ", ")
}

// recordedAs looks every answer up in the log, also those that no handler gave.
func recordedAs(t *testing.T, on records, a attackRow, answers []refused) string {
	t.Helper()
	var out []string
	for _, r := range answers {
		where := on.take(r)
		if where == "" {
			t.Errorf("%s: %s: %d %s is on no record", a.group, a.attempt, r.status, r.code)
		}
		if !slices.Contains(out, where) {
			out = append(out, where)
		}
	}
	if len(out) == 0 {
		return nowhere
	}
	return strings.Join(out, ", ")
}

// controls: what the attacks were after is there for who may have it, by the same
// means; so they failed for no other reason.
func (h *httpAttacks) controls(t *testing.T) {
	access, public := h.sim.Current(shop, h.victim)
	if got := h.as(workerUID, "private").do("GET", h.accessPath(), "").want(t, 200, ""); got.field(t, "accessToken") != access {
		t.Error("the worker does not get the access token")
	}
	if got := h.as(webUID, "public").do("GET", h.userPath(), "").want(t, 200, ""); got.field(t, "publicToken") != public {
		t.Error("the web app does not get the publicToken")
	}
	for _, human := range append(h.nobody, "human-of-mallory") {
		h.as(webUID, "public").do("GET", "/v1/users/"+human+"?clientId="+shop, "").want(t, 404, "unknown_user")
	}
	if n := h.sim.Uses(h.fresh); n != 0 {
		t.Errorf("the session that nobody used was used %d times", n)
	}
}

func (h *httpAttacks) userPath() string { return "/v1/users/" + h.victim + "?clientId=" + shop }

func (h *httpAttacks) accessPath() string {
	return "/v1/users/" + h.victim + "/access-token?clientId=" + shop
}

// closing is a request that has the daemon close the connection. Headers are whole
// lines.
func closing(method, target, body string, headers ...string) string {
	if body != "" {
		headers = append(headers, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return head(method, target, append(headers, "Connection: close")...) + body
}

// head is a request's head with Host and these headers.
func head(method, target string, headers ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: localhost\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n"
}
