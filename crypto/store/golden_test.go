package store_test

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
)

const goldenFile = "testdata/v1.db.gz"

// writeGolden packs a file with one of everything in it.
func writeGolden(t *testing.T) {
	f, _ := peopled(t)
	f.close()
	data, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(goldenFile, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestGoldenFile opens a whole file that version 1 wrote, under the wrapping key
// of these tests, and goes on with it.
func TestGoldenFile(t *testing.T) {
	if flag.Lookup("update").Value.String() == "true" {
		writeGolden(t)
	}
	packed, err := os.Open(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	r, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	f.close()
	f.path = filepath.Join(t.TempDir(), "v1.db")
	if err := os.WriteFile(f.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f.open(boltstore.Config{Path: f.path})
	f.clean()
	f.holds("h1", 1, user.Active)
	f.holds("h2", 2, user.Indeterminate)
	if got, _ := f.session("h1", "1"); got.Outcome != user.Stored {
		t.Errorf("session: %+v", got)
	}
	all, err := f.Intents(f.ctx())
	if err != nil || len(all) != 1 || all[0].Arrival != 4 || !all[0].SessionToken.Equal(intent("h1", "4").SessionToken) {
		t.Fatalf("%d intents, %v", len(all), err)
	}
	f.commit(all[0], "c1")
	f.holds("h1", 4, user.Active)
}
