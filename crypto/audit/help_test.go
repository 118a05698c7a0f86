package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

func testKey(seed string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte((seed + strings.Repeat("-", ed25519.SeedSize))[:ed25519.SeedSize]))
}

var signer = testKey("marker-signer")

// publicKey is that of the logs in these tests.
func publicKey() ed25519.PublicKey { return signer.Public().(ed25519.PublicKey) }

// ticking is a clock that moves a millisecond at every look.
func ticking() func() time.Time {
	t := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return func() time.Time {
		t = t.Add(time.Millisecond)
		return t
	}
}

func testConfig(path string) Config {
	return Config{
		Path: path, Instance: "main", Incarnation: 1, Signer: signer,
		SubjectKey: secret.FromString("marker-subject-key-of-32-bytes--"), Now: ticking(),
	}
}

func mustOpen(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mustWrite(t testing.TB, l *Log, e Event) {
	t.Helper()
	if err := l.Write(e); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// lookup is an event of about the usual size.
func lookup(request string) Event {
	uid, gid := uint32(33), uint32(33)
	return Event{
		Kind: Outcome, RequestID: request, Listener: "public", UID: &uid, GID: &gid, PID: 4711,
		Unit: "shop.service", Rule: "shop-web", Grant: "lookup", App: "shop",
		Route: "GET /v1/users/{humanId}", Subject: strings.Repeat("5a", 32), Status: 200,
	}
}

func verify(t testing.TB, path string) Report {
	t.Helper()
	r, err := Verify(context.Background(), VerifyConfig{Path: path, PublicKey: publicKey()})
	if err != nil {
		t.Fatal(err)
	}
	if r.Consistent != (r.Problem == "") {
		t.Fatalf("consistent is %v and the problem is %q", r.Consistent, r.Problem)
	}
	return r
}

func mustVerify(t testing.TB, path string) Report {
	t.Helper()
	r := verify(t, path)
	if !r.Consistent {
		t.Fatalf("%s:%d: %s", filepath.Base(r.File), r.Line, r.Problem)
	}
	return r
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, fileMode); err != nil {
		t.Fatal(err)
	}
}

// objects decodes a log file with another decoder than ours.
func objects(t testing.TB, path string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range bytes.Lines(read(t, path)) {
		var o map[string]any
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatalf("line %d: %v", len(all)+1, err)
		}
		all = append(all, o)
	}
	return all
}

func kinds(t testing.TB, path string) string {
	t.Helper()
	var k []string
	for _, o := range objects(t, path) {
		k = append(k, o["kind"].(string))
	}
	return strings.Join(k, " ")
}
