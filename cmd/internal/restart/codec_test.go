package restart

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault"
)

// golden is a slot of version 1, as it stands in the area. It is never written
// again: another version gets a file of its own.
func golden(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/slot-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	slot, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

func TestGolden(t *testing.T) {
	m, slot := newMachine(), golden(t)
	want := sample(m, 4, 2)
	if sequence := whole(slot); sequence != 9 {
		t.Fatalf("sequence %d", sequence)
	}
	if c := mustDecode(t, content(slot), m.moment()); !equal(c, want) {
		t.Errorf("it holds %+v", bare(c))
	}
	written := make([]byte, len(slot))
	fill(written, 9, want, m.moment())
	if !bytes.Equal(written, slot) {
		t.Error("version 1 is written in another way")
	}
}

func TestContentsComeBack(t *testing.T) {
	m := newMachine()
	for name, c := range map[string]Contents{
		"all":         sample(m, 1, 3),
		"no apps":     sample(m, 70000, 0),
		"nothing":     {Anchor: vault.Anchor{Time: time.Time{}.UTC()}},
		"never ends":  {Vault: vault.Memory{Since: m.wall, LastWord: m.wall}, Anchor: vault.Anchor{Time: m.wall}},
		"odd strings": {Instance: "\x00\xff", Anchor: vault.Anchor{Host: strings.Repeat("x", 300), Time: m.wall}},
	} {
		if got := mustDecode(t, encoded(c, m.moment()), m.moment()); !equal(got, c) {
			t.Errorf("%s: %+v is not %+v", name, bare(got), bare(c))
		}
	}
}

// TestEveryFlippedBit of a slot is found, and every length that it is cut to.
func TestEveryFlippedBit(t *testing.T) {
	slot := golden(t)
	for i := range slot {
		bad := bytes.Clone(slot)
		bad[i] ^= 1 << (i % 8)
		if n := whole(bad); n != 0 {
			t.Errorf("offset %d: whole, sequence %d", i, n)
		}
		if n := whole(slot[:i]); n != 0 {
			t.Errorf("cut to %d: whole, sequence %d", i, n)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	m := newMachine()
	body := encoded(sample(m, 1, 1), m.moment())
	for n := range body {
		if _, err := decode(body[:n], m.moment()); err == nil {
			t.Errorf("cut to %d: it decodes", n)
		}
	}
	if _, err := decode(append(bytes.Clone(body), 0), m.moment()); !errors.Is(err, errMalformed) {
		t.Errorf("longer: %v", err)
	}
	renewable := bytes.Index(body, []byte("marker-secret-id-1")) + len("marker-secret-id-1")
	for name, alter := range map[string]func([]byte){
		"flag":        func(b []byte) { b[renewable] = 2 },
		"time flag":   func(b []byte) { b[renewable+1] = 0 },
		"far time":    func(b []byte) { b[renewable+2] ^= 0x80 },
		"future word": func(b []byte) { copy(b[renewable+20:], b[renewable+11:renewable+19]) }, // last word at expires
	} {
		bad := bytes.Clone(body)
		alter(bad)
		if _, err := decode(bad, m.moment()); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode: what decodes is canonical, and the rest leaves nothing behind.
func FuzzDecode(f *testing.F) {
	m := newMachine()
	f.Add(content(golden(f)))
	f.Add(encoded(sample(m, 1, 0), m.moment()))
	f.Add(encoded(Contents{}, m.moment()))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := decode(body, m.moment())
		if err != nil {
			if len(secrets(c)) != 2 || !c.Vault.Token.IsZero() {
				t.Fatal("contents with an error")
			}
			return
		}
		again := encoded(c, m.moment())
		at := 4 + len(m.boot)
		binary.BigEndian.PutUint64(again[at:], binary.BigEndian.Uint64(body[at:])) // when it was saved is not kept
		if !bytes.Equal(again, body) {
			t.Fatal("it encodes to other bytes")
		}
	})
}

// FuzzSlot: no bytes make it look outside them, and what is whole was written so.
func FuzzSlot(f *testing.F) {
	f.Add(golden(f))
	f.Add(golden(f)[:100])
	f.Add([]byte(slotMagic))
	f.Fuzz(func(t *testing.T, slot []byte) {
		if whole(slot) == 0 {
			return
		}
		body := content(slot)
		if len(body) > len(slot)-slotSize(0) {
			t.Fatalf("a body of %d bytes in a slot of %d", len(body), len(slot))
		}
		_, _ = decode(body, newMachine().moment())
	})
}
