package keyring

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// golden is a blob of a released format version and what must come out of it:
// five active keys, a decrypt-only and a removed one. The files are never
// written again: a new version gets a file of its own.
type golden struct {
	Passphrase               string // of the wrapper of these tests
	Blob                     string // hex
	StoreID                  string
	Incarnation, Generation  uint64
	Active                   map[Class]string // key ids
	DecryptOnly, Removed     string           // key ids of class private
	Box                      string           // "marker-access-token", sealed under DecryptOnly for HumanRow, revision 3
	HumanRow, ClientUserRow  string           // of "golden-app", "golden-id"
	IndexRow, SessionRow     string           // the same
	SubjectMAC, SignerPublic string           // HMAC(subject key, "golden"); the signer's public key
}

func readGolden(t testing.TB) (g golden) {
	t.Helper()
	file, err := os.ReadFile("testdata/keyring-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openGolden(t testing.TB, g golden) (*Keyring, *memory) {
	t.Helper()
	m := &memory{blob: unhex(t, g.Blob), version: 5}
	return mustOpen(t, m, newTransit(t, g.Passphrase)), m
}

func TestGoldenOpens(t *testing.T) {
	g := readGolden(t)
	k, m := openGolden(t, g)
	info, err := Peek(t.Context(), m)
	if err != nil || info.StoreID.String() != g.StoreID || info.Incarnation != g.Incarnation || info.Generation != g.Generation {
		t.Errorf("%+v, %v", info, err)
	}
	for _, class := range []Class{Public, Private, Intent} {
		if activeID(t, k, class).String() != g.Active[class] {
			t.Errorf("%s: another active key", class)
		}
	}
	if _, err := k.Key(Private, seal.KeyID(unhex(t, g.Removed))); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("removed key: %v", err)
	}
	b := seal.Binding{Store: k.StoreID(), Purpose: seal.Private, Row: k.HumanRow("golden-app", "golden-id"), Revision: 3}
	if out, err := k.OpenBox(Private, b, unhex(t, g.Box)); err != nil || string(out) != "marker-access-token" {
		t.Errorf("the box does not open: %v", err)
	}
}

func TestGoldenDerives(t *testing.T) {
	g := readGolden(t)
	k, _ := openGolden(t, g)
	subject := secret.NewMAC(k.Subject()).Sum([]byte("golden"))
	for name, c := range map[string]struct{ got, want string }{
		"human row":       {k.HumanRow("golden-app", "golden-id").String(), g.HumanRow},
		"client-user row": {k.ClientUserRow("golden-app", "golden-id").String(), g.ClientUserRow},
		"index row":       {k.IndexRow("golden-app", "golden-id").String(), g.IndexRow},
		"session row":     {k.SessionRow("golden-app", secret.FromString("golden-id")).String(), g.SessionRow},
		"subject":         {hex.EncodeToString(subject[:]), g.SubjectMAC},
		"signer":          {hex.EncodeToString(k.Signer().Public().(ed25519.PublicKey)), g.SignerPublic},
	} {
		if c.got != c.want {
			t.Errorf("%s is %s, not %s", name, c.got, c.want)
		}
	}
}

// TestGoldenIsWritten: the same content is written as the same bytes.
func TestGoldenIsWritten(t *testing.T) {
	g := readGolden(t)
	k, m := openGolden(t, g)
	if !bytes.Equal(content(t, m).encode(k.snapshotMAC()), unhex(t, g.Blob)) {
		t.Error("version 1 is written in another way")
	}
}
