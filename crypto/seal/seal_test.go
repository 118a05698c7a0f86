package seal_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

const marker = "marker-access-token"

func keyOf(c byte) secret.Text { return secret.New(bytes.Repeat([]byte{c}, seal.KeySize)) }

func binding() seal.Binding {
	return seal.Binding{
		Store:    seal.StoreID{1, 2, 3},
		Purpose:  seal.Private,
		Row:      seal.RowID{4, 5, 6},
		Revision: 7,
	}
}

func mustSeal(t testing.TB, key secret.Text, id seal.KeyID, b seal.Binding, plaintext []byte) []byte {
	t.Helper()
	envelope, err := seal.Seal(key, id, b, plaintext)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func TestRoundTrip(t *testing.T) {
	key, id, b := keyOf('k'), seal.KeyID{9}, binding()
	for _, n := range []int{0, 1, 15, 16, 17, 64, 65, 4096, seal.MaxPlaintext} {
		in := bytes.Repeat([]byte{0xA5}, n)
		envelope := mustSeal(t, key, id, b, in)
		if len(envelope) != n+seal.Overhead {
			t.Errorf("%d bytes became %d, and Overhead is %d", n, len(envelope), seal.Overhead)
		}
		out, err := seal.Open(key, b, envelope)
		if err != nil || !bytes.Equal(in, out) {
			t.Errorf("%d bytes do not come back: %v", n, err)
		}
		h, err := seal.ParseHeader(envelope)
		if err != nil || h != (seal.Header{Key: id, Revision: 7}) {
			t.Errorf("header of %d bytes: %+v, %v", n, h, err)
		}
	}
}

func TestSealsOfTheSameDiffer(t *testing.T) {
	key, id, b := keyOf('k'), seal.KeyID{9}, binding()
	seen := map[string]bool{}
	for range 100 {
		nonce := string(mustSeal(t, key, id, b, []byte(marker))[27:51])
		if seen[nonce] {
			t.Fatal("a nonce came twice")
		}
		seen[nonce] = true
	}
}

// TestBound moves a box to every other place that it could be put.
func TestBound(t *testing.T) {
	key, id, home := keyOf('k'), seal.KeyID{9}, binding()
	envelope := mustSeal(t, key, id, home, []byte(marker))
	for name, move := range map[string]func(*seal.Binding){
		"store":        func(b *seal.Binding) { b.Store[15] ^= 1 },
		"row":          func(b *seal.Binding) { b.Row[31] ^= 1 },
		"earlier":      func(b *seal.Binding) { b.Revision-- },
		"later":        func(b *seal.Binding) { b.Revision++ },
		"high bit":     func(b *seal.Binding) { b.Revision ^= 1 << 63 },
		"to public":    func(b *seal.Binding) { b.Purpose = seal.Public },
		"to intent":    func(b *seal.Binding) { b.Purpose = seal.Intent },
		"to index":     func(b *seal.Binding) { b.Purpose = seal.Index },
		"to session":   func(b *seal.Binding) { b.Purpose = seal.Session },
		"nowhere":      func(b *seal.Binding) { *b = seal.Binding{Purpose: seal.Private} },
		"store as row": func(b *seal.Binding) { copy(b.Row[:], b.Store[:]); b.Store = seal.StoreID{} },
	} {
		b := home
		move(&b)
		refused(t, name, key, b, envelope, seal.ErrTampered)
		// Also when the header is made to agree with the new place.
		forged := bytes.Clone(envelope)
		binary.BigEndian.PutUint64(forged[19:], b.Revision)
		refused(t, name+" with its header", key, b, forged, seal.ErrTampered)
	}
	refused(t, "other key", keyOf('o'), home, envelope, seal.ErrTampered)
}

// TestKeyIDIsBound: the same key bytes under another id are another key.
func TestKeyIDIsBound(t *testing.T) {
	key, b := keyOf('k'), binding()
	envelope := mustSeal(t, key, seal.KeyID{9}, b, []byte(marker))
	copy(envelope[3:], make([]byte, 16))
	refused(t, "other id", key, b, envelope, seal.ErrTampered)
}

// TestSwapped exchanges whole boxes and nonces between two good envelopes.
func TestSwapped(t *testing.T) {
	key, id, a := keyOf('k'), seal.KeyID{9}, binding()
	b := a
	b.Row[0] ^= 1
	one, two := mustSeal(t, key, id, a, []byte("of one")), mustSeal(t, key, id, b, []byte("of two"))
	refused(t, "whole", key, a, two, seal.ErrTampered)
	refused(t, "box", key, a, append(bytes.Clone(one[:51]), two[51:]...), seal.ErrTampered)
	refused(t, "nonce and box", key, a, append(bytes.Clone(one[:27]), two[27:]...), seal.ErrTampered)
}

func TestEveryAlteredByteIsRefused(t *testing.T) {
	key, b := keyOf('k'), binding()
	envelope := mustSeal(t, key, seal.KeyID{9}, b, []byte(marker))
	for i := range envelope {
		for bit := range 8 {
			bad := bytes.Clone(envelope)
			bad[i] ^= 1 << bit
			want := seal.ErrTampered
			if i < 3 {
				want = seal.ErrMalformed
			}
			refused(t, fmt.Sprintf("offset %d bit %d", i, bit), key, b, bad, want)
		}
	}
	for n := range envelope {
		want := seal.ErrTampered
		if n < seal.Overhead {
			want = seal.ErrMalformed
		}
		refused(t, fmt.Sprintf("cut to %d", n), key, b, envelope[:n], want)
	}
	refused(t, "longer", key, b, append(bytes.Clone(envelope), 0), seal.ErrTampered)
	refused(t, "far too long", key, b, append(bytes.Clone(envelope), make([]byte, seal.MaxPlaintext)...), seal.ErrMalformed)
	refused(t, "nil", key, b, nil, seal.ErrMalformed)
}

func refused(t *testing.T, name string, key secret.Text, b seal.Binding, envelope []byte, want error) {
	t.Helper()
	out, err := seal.Open(key, b, envelope)
	if out != nil || !errors.Is(err, want) {
		t.Errorf("%s: opened=%t, error %v, want %v", name, out != nil, err, want)
	}
	if err != nil && strings.Contains(err.Error(), marker) {
		t.Errorf("%s: the error shows the content", name)
	}
}

func TestCallersMistakes(t *testing.T) {
	b := binding()
	good := mustSeal(t, keyOf('k'), seal.KeyID{9}, b, nil)
	for _, n := range []int{0, 16, 31, 33} {
		key := secret.New(make([]byte, n))
		if _, err := seal.Seal(key, seal.KeyID{9}, b, nil); err == nil {
			t.Errorf("sealed with a key of %d bytes", n)
		}
		if _, err := seal.Open(key, b, good); err == nil || errors.Is(err, seal.ErrTampered) {
			t.Errorf("opened with a key of %d bytes: %v", n, err)
		}
	}
	b.Purpose = "Public"
	if _, err := seal.Seal(keyOf('k'), seal.KeyID{9}, b, nil); err == nil {
		t.Error("sealed for a purpose that does not exist")
	}
	if _, err := seal.Seal(keyOf('k'), seal.KeyID{9}, binding(), make([]byte, seal.MaxPlaintext+1)); err == nil {
		t.Error("sealed more than MaxPlaintext")
	}
}

func TestEnc(t *testing.T) {
	got := seal.Enc([]byte("ab"), nil, []byte("c"))
	if want := "\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x01c"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	lists := [][][]byte{{}, {nil}, {nil, nil}, {[]byte("ab")}, {[]byte("a"), []byte("b")}, {[]byte("ab"), nil}, {nil, []byte("ab")}, {[]byte("\x00\x00\x00\x00")}}
	seen := map[string]int{}
	for i, l := range lists {
		if j, ok := seen[string(seal.Enc(l...))]; ok {
			t.Errorf("lists %d and %d encode alike", i, j)
		}
		seen[string(seal.Enc(l...))] = i
	}
}

func TestIDsPrintAsHex(t *testing.T) {
	got := []string{seal.KeyID{1}.String(), seal.StoreID{2}.String(), seal.RowID{3}.String()}
	want := []string{"01" + strings.Repeat("00", 15), "02" + strings.Repeat("00", 15), "03" + strings.Repeat("00", 31)}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v", got)
	}
}

// TestAsSpecified opens an envelope with nothing but the text of the
// specification: HKDF by hand (RFC 5869), offsets as numbers.
func TestAsSpecified(t *testing.T) {
	key, id, b := keyOf('k'), seal.KeyID{9, 8, 7}, binding()
	e := mustSeal(t, key, id, b, []byte(marker))
	if string(e[:3]) != "TV\x01" || !bytes.Equal(e[3:19], id[:]) || !bytes.Equal(e[19:27], []byte{0, 0, 0, 0, 0, 0, 0, 7}) {
		t.Fatalf("header is %x", e[:27])
	}
	info := "\x00\x00\x00\x11tokenvault/seal/1" + "\x00\x00\x00\x10" + string(id[:]) + "\x00\x00\x00\x07private" +
		"\x00\x00\x00\x20" + string(b.Row[:]) + "\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x07"
	prk := mac(b.Store[:], bytes.Repeat([]byte{'k'}, 32))
	okm := mac(prk, []byte(info+"\x01"))
	out, ok := secretbox.Open(nil, e[51:], (*[24]byte)(e[27:51]), (*[32]byte)(okm))
	if !ok || string(out) != marker {
		t.Error("it does not open as specified")
	}
}

func mac(key, message []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return h.Sum(nil)
}

// golden is one envelope of a released format version. The files are never
// written again: a new version gets a file of its own.
type golden struct {
	Key, KeyID, Store, Row string // hex
	Purpose                seal.Purpose
	Revision               uint64
	Plaintext, Envelope    string // hex
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readGolden(t testing.TB) (all []golden) {
	t.Helper()
	file, err := os.ReadFile("testdata/envelope-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestGoldenEnvelopesOpen(t *testing.T) {
	seen := map[seal.Purpose]bool{}
	for _, g := range readGolden(t) {
		seen[g.Purpose] = true
		b := seal.Binding{
			Store:    seal.StoreID(unhex(t, g.Store)),
			Purpose:  g.Purpose,
			Row:      seal.RowID(unhex(t, g.Row)),
			Revision: g.Revision,
		}
		h, err := seal.ParseHeader(unhex(t, g.Envelope))
		if err != nil || h.Key.String() != g.KeyID || h.Revision != g.Revision {
			t.Errorf("%s: header %v, %v", g.Purpose, h, err)
		}
		out, err := seal.Open(secret.New(unhex(t, g.Key)), b, unhex(t, g.Envelope))
		if err != nil || hex.EncodeToString(out) != g.Plaintext {
			t.Errorf("%s: does not open: %v", g.Purpose, err)
		}
	}
	if len(seen) != 5 {
		t.Errorf("golden envelopes for %d purposes of 5", len(seen))
	}
}
