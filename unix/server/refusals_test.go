package server

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/unix/peer"
)

// sender returns what sends the same request of uid again and again.
func (f *flooded) sender(uid uint32, path string) func() {
	r := httptest.NewRequest("GET", path, nil)
	// The longest that a caller can make its lines.
	groups := make([]uint32, 64)
	for i := range groups {
		groups[i] = 1<<32 - 1
	}
	c := &conn{server: f.server, listener: "public", slot: &slot{}, caller: peer.Caller{
		UID: uid, GID: 1, PID: 1 << 22, Groups: groups, Unit: strings.Repeat("u", 255) + ".service", Label: strings.Repeat("l", 128),
	}}
	r = r.WithContext(withConn(r.Context(), c))
	return func() { f.server.ServeHTTP(nowhere{}, r) }
}

// nowhere is an answer that nobody reads.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) WriteHeader(int)             {}
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

// TestAMillionRefusals: one uid that is refused as often as it can ask for an
// hour leaves a kilobyte a second behind at first, and then what its budget
// gives it, in the file itself. Another uid's refusals are on record all the time.
func TestAMillionRefusals(t *testing.T) {
	f := newFlooded(t)
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := audit.Open(t.Context(), audit.Config{
		Path: path, Instance: "main", Incarnation: 1, Signer: ed25519.NewKeyFromSeed(make([]byte, 32)),
		SubjectKey: secret.FromString("marker-subject-key-of-32-bytes--"),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.server.Open(Services{Audit: log})
	const requests, seconds = storm, 3600
	send, other := f.sender(7, "/v1/nothing"), f.sender(8, "/v1/nothing")
	for second := range seconds {
		for range requests / seconds {
			send()
		}
		if second%60 == 0 {
			other()
		}
		f.now = f.now.Add(time.Second)
		f.server.refusals.flush(f.server, log)
	}
	for range requests % seconds {
		send()
	}
	f.server.refusals.write(f.server, log, true)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	lines, bytes, answers := ofUID(t, path, 7)
	t.Logf("uid 7 was refused %d times in %d s: %d lines of %d bytes in the audit log", answers, seconds, lines, bytes)
	if answers != requests {
		t.Errorf("%d refusals are on record, want %d", answers, requests)
	}
	if most := uidBytes + uidBytes*seconds/3600 + 4096; bytes > most {
		t.Errorf("%d bytes of one uid, at most %d", bytes, most)
	}
	if lines > uidBurst+2*(seconds+1) {
		t.Errorf("%d lines of one uid in %d s", lines, seconds)
	}
	if n, _, answers := ofUID(t, path, 8); answers != seconds/60 || n != seconds/60 {
		t.Errorf("the other uid has %d lines about %d refusals, want %d", n, answers, seconds/60)
	}
}

// ofUID counts lines, their bytes, and the answers that they stand for.
func ofUID(t *testing.T, path string, uid uint32) (lines, bytes, answers int) {
	t.Helper()
	err := audit.Walk(t.Context(), audit.WalkConfig{Path: path}, func(l audit.Line) error {
		if l.UID != nil && *l.UID == uid {
			lines++
			bytes += len(l.Raw) + 1
			answers += max(1, l.Count)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines, bytes, answers
}

// TestByteBudgets: when a uid's bytes are used up its note waits, counts on, and is
// written when there is budget or at the end; what was done is on record at once.
func TestByteBudgets(t *testing.T) {
	f := newFlooded(t)
	r := &f.server.refusals
	big := audit.Event{UID: new(uint32), Unit: strings.Repeat("u", 16<<10)}
	*big.UID = 7
	for r.lined(&big, f.now) {
		f.now = f.now.Add(time.Second)
	}
	key := noteKey{uid: 7, status: 403, code: "unknown_caller"}
	for range 3 {
		r.keep(key, counted{n: 1, listener: "public"})
		if r.pays(key, 16<<10, f.now); f.log.notes != 0 {
			t.Fatal("there is no budget, and a note")
		}
	}
	for n := 0; r.pays(key, 200, f.now); n++ { // what is left of it
		if n > uidBytes/200 {
			t.Fatal("there is no end to the budget")
		}
	}
	r.keep(noteKey{uid: 7, status: 200, outcome: "reload"}, counted{n: 1})
	r.keep(noteKey{uid: 7, unrecorded: true}, counted{n: 1})
	r.flush(f.server, f.log)
	if f.log.notes != 2 || f.log.events[0].Refusal || f.log.events[1].Refusal {
		t.Fatalf("%d notes, want those of the administrator and of what was unrecorded", f.log.notes)
	}
	f.now = f.now.Add(10 * time.Second)
	r.flush(f.server, f.log)
	if f.log.notes != 3 || f.log.events[2].Count != 3 || *f.log.events[2].UID != 7 {
		t.Fatalf("%d notes after ten seconds: %+v", f.log.notes, f.log.events)
	}
	for r.pays(key, 200, f.now) {
	}
	r.keep(key, counted{n: 5})
	r.flush(f.server, f.log)
	r.write(f.server, f.log, true)
	if f.log.notes != 4 || f.log.events[3].Count != 5 {
		t.Fatalf("at the end: %d notes", f.log.notes)
	}
}

// TestSparedRefusals: while the log leaves its reserve to what is granted a refusal
// is answered as ever, counted, and on record when there is room.
func TestSparedRefusals(t *testing.T) {
	f := newFlooded(t)
	var said strings.Builder
	f.server.log = slog.New(slog.NewTextHandler(&said, nil))
	f.open()
	f.server.services.Load().Users = noUsers{}
	f.log.fail = fmt.Errorf("%w: %w: %w", audit.ErrUnavailable, audit.ErrFull, audit.ErrSpared)
	for range 5 {
		if code := f.send(9, 1, "GET", "/v1/nothing"); code != 403 {
			t.Fatalf("a refusal: got %d", code)
		}
	}
	if code := f.send(9, 2, "GET", "/v1/users/x"); code != 404 || f.log.lines != 1 {
		t.Fatalf("a lookup: got %d, and %d lines", code, f.log.lines)
	}
	for range 3 {
		f.server.refusals.flush(f.server, f.log)
	}
	f.log.fail = nil
	f.server.refusals.flush(f.server, f.log)
	if f.log.notes != 1 || f.log.counted != 5 {
		t.Fatalf("%d notes with a count of %d", f.log.notes, f.log.counted)
	}
	if got := said.String(); strings.Count(got, "only counted for now") != 1 || strings.Count(got, "has room again") != 1 {
		t.Errorf("the daemon's log does not say once when it began and ended: %s", got)
	}
}

// TestBytesOfAll: all uids together have a budget too, and one that has used up its
// own takes nothing of it.
func TestBytesOfAll(t *testing.T) {
	var r refusals
	now := time.Unix(1000, 0)
	const size = 1 << 10
	for range 100 * uidBytes / size {
		r.pays(noteKey{uid: 1, code: "not_found"}, size, now)
	}
	if left := r.all.bytes.TokensAt(now); left != allBytes-uidBytes {
		t.Fatalf("one uid leaves %v bytes, want %d", left, allBytes-uidBytes)
	}
	written := 0
	for uid := range uint32(100) {
		for range uidBytes / size {
			if r.pays(noteKey{uid: uid + 2, code: "not_found"}, size, now) {
				written += size
			}
		}
	}
	if written != allBytes-uidBytes || r.pays(noteKey{many: true, code: "not_found"}, size, now) {
		t.Fatalf("%d bytes of the others, want %d", written, allBytes-uidBytes)
	}
}
