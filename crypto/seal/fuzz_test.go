package seal_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
)

func seeds(f *testing.F) {
	for _, g := range readGolden(f) {
		e := unhex(f, g.Envelope)
		f.Add(e)
		f.Add(e[:len(e)-1])
		f.Add(append(bytes.Clone(e[:27]), e...))
	}
	f.Add([]byte{})
	f.Add([]byte("TV\x02"))
	f.Add(make([]byte, seal.Overhead))
}

// FuzzParseHeader: what it accepts has the length and the prefix of an envelope,
// and the fields that stand there.
func FuzzParseHeader(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := seal.ParseHeader(in)
		if err != nil {
			if !errors.Is(err, seal.ErrMalformed) || h != (seal.Header{}) {
				t.Fatalf("header %v with error %v", h, err)
			}
			return
		}
		if len(in) < seal.Overhead || !bytes.HasPrefix(in, []byte("TV\x01")) || !bytes.Equal(h.Key[:], in[3:19]) {
			t.Fatalf("accepted %d bytes", len(in))
		}
	})
}

// FuzzOpen: nothing opens but what Seal made, and what it made opens only
// unaltered.
func FuzzOpen(f *testing.F) {
	seeds(f)
	key, id, b := keyOf('k'), seal.KeyID{9}, binding()
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := seal.Open(key, b, in); err == nil {
			t.Fatal("opened what was never sealed")
		}
		if len(in) > seal.MaxPlaintext {
			return
		}
		envelope := mustSeal(t, key, id, b, in)
		out, err := seal.Open(key, b, envelope)
		if err != nil || !bytes.Equal(in, out) {
			t.Fatalf("does not come back: %v", err)
		}
		envelope[len(in)%len(envelope)] ^= 0x10
		if _, err := seal.Open(key, b, envelope); err == nil {
			t.Fatal("opened an altered envelope")
		}
	})
}
