package keyring

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzDecode: what decodes is canonical (it encodes to the same bytes), and
// what does not is named as damaged.
func FuzzDecode(f *testing.F) {
	blob := unhex(f, readGolden(f).Blob)
	f.Add(blob)
	f.Add(blob[:len(blob)-1])
	f.Add(append(bytes.Clone(blob), 0))
	f.Add(append(bytes.Clone(blob[:100]), blob...))
	f.Add([]byte{})
	f.Add(append([]byte("TVKR\x01"), make([]byte, 80)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, body, mac, err := decode(in)
		if err != nil {
			if !errors.Is(err, ErrDamaged) || d != nil {
				t.Fatalf("document %t with error %v", d != nil, err)
			}
			return
		}
		if !bytes.Equal(append(d.body(), mac...), in) || !bytes.Equal(body, d.body()) {
			t.Fatal("it encodes to other bytes")
		}
	})
}

// FuzzOpen: no blob opens but those that the keyring wrote.
func FuzzOpen(f *testing.F) {
	g := readGolden(f)
	blob := unhex(f, g.Blob)
	f.Add(uint(0), byte(0))
	f.Add(uint(len(blob)-1), byte(1))
	f.Fuzz(func(t *testing.T, at uint, flip byte) {
		bad := bytes.Clone(blob)
		bad[at%uint(len(bad))] ^= flip
		k, err := tryOpen(t, &memory{blob: bad, version: 1}, newTransit(t, g.Passphrase))
		if (err == nil) != (flip == 0) {
			t.Fatalf("opened: %t", err == nil)
		}
		if err == nil {
			k.Close()
		}
	})
}
