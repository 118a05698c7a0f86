package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

var update = flag.Bool("update", false, "write the golden file of the current version")

// format is one plaintext: its name, an encoding, and decoding and encoding again.
type format struct {
	name  string
	bytes []byte
	again func([]byte) ([]byte, error)
}

func through[T any](decode func([]byte) (T, error), encode func(T) []byte) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v, err := decode(b)
		if err != nil {
			return nil, err
		}
		return encode(v), nil
	}
}

func rowAgain(b []byte) ([]byte, error) {
	public, private, err := decodeRow(b)
	if err != nil {
		return nil, err
	}
	return encodeRow(public, private), nil
}

// formats are examples of every format, with every field used at least once.
func formats() []format {
	at := time.Unix(1_800_000_000, 0)
	one, two := seal.RowID{1}, seal.RowID{31: 2}
	return []format{
		{"row", encodeRow([]byte("public envelope"), []byte("private envelope")), rowAgain},
		{"public", encodeRecord(record{Public: user.Public{ClientID: "app", HumanID: "human", ClientUserID: "id\x00é", PublicToken: "public", CreatedAt: at, UpdatedAt: at.Add(time.Hour), Arrival: 7}, doubt: 9}), through(decodeRecord, encodeRecord)},
		{"public-empty", encodeRecord(record{}), through(decodeRecord, encodeRecord)},
		{"private", encodePrivate(user.Private{AccessToken: secret.FromString("marker-access"), ExpiresAt: at}), through(decodePrivate, encodePrivate)},
		{"private-empty", encodePrivate(user.Private{}), through(decodePrivate, encodePrivate)},
		{"index", encodeIndex(indexEntry{preferred: noneChosen, rows: []seal.RowID{two, one}}), through(decodeIndex, encodeIndex)},
		{"index-preferred", encodeIndex(indexEntry{preferred: 1, rows: []seal.RowID{one, two}}), through(decodeIndex, encodeIndex)},
		{"session", encodeSession(session{outcome: user.Rejected, failure: user.UserMismatch, row: one, finished: at}), through(decodeSession, encodeSession)},
		{"intent", encodeIntent(user.Intent{RequestID: "request", Rule: "rule", ClientID: "app", HumanID: "human", SessionToken: secret.FromString("marker-session"), Expected: "id", ExpectedSet: true, BodyUserID: "body id", BodyUserIDSet: true, ReceivedAt: at.Add(5), Incarnation: 2, Arrival: 3}), through(decodeIntent, encodeIntent)},
		{"intent-empty", encodeIntent(user.Intent{}), through(decodeIntent, encodeIntent)},
	}
}

// TestGolden holds today's encodings to the files of every released version.
func TestGolden(t *testing.T) {
	const path = "testdata/v1.golden"
	var now strings.Builder
	for _, f := range formats() {
		fmt.Fprintln(&now, f.name, hex.EncodeToString(f.bytes))
	}
	fmt.Fprintln(&now, "mark", hex.EncodeToString(markIndeterminate))
	if *update {
		if err := os.WriteFile(path, []byte(now.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(golden) != now.String() {
		t.Fatalf("the encodings are no longer those of %s", path)
	}
}

func TestCanonical(t *testing.T) {
	for _, f := range formats() {
		again, err := f.again(f.bytes)
		if err != nil || !bytes.Equal(again, f.bytes) {
			t.Errorf("%s: %v, or another encoding", f.name, err)
		}
		for n := range f.bytes {
			if _, err := f.again(f.bytes[:n]); !errors.Is(err, errFormat) {
				t.Errorf("%s cut to %d bytes: got %v", f.name, n, err)
			}
		}
		if _, err := f.again(append(bytes.Clone(f.bytes), 0)); !errors.Is(err, errFormat) {
			t.Errorf("%s with a byte more: got %v", f.name, err)
		}
		if _, err := f.again(append([]byte{2}, f.bytes[1:]...)); !errors.Is(err, errFormat) {
			t.Errorf("%s of version 2: got %v", f.name, err)
		}
	}
}

func TestRefusedPlaintexts(t *testing.T) {
	id := make([]byte, 32)
	other := append(make([]byte, 31), 1)
	many := make([]byte, 0, 32*256)
	for n := range 256 {
		many = append(append(many, make([]byte, 31)...), byte(n))
	}
	late := number(maxSeconds + 1)
	for name, err := range map[string]error{
		"index without rows": last(decodeIndex(pack([]byte{noneChosen}, nil))), "index with a row twice": last(decodeIndex(pack([]byte{noneChosen}, append(id[:32:32], id...)))),
		"index with too many": last(decodeIndex(pack([]byte{noneChosen}, many))), "index with half a row": last(decodeIndex(pack([]byte{noneChosen}, id[:16]))),
		"index that prefers none of its": last(decodeIndex(pack([]byte{2}, append(other[:32:32], id...)))), "index with a long preferred": last(decodeIndex(pack([]byte{0, 0}, id))),
		"session of no outcome": last(decodeSession(pack([]byte("else"), nil, id, number(1)))), "session that was unsent": last(decodeSession(pack([]byte("unsent"), nil, id, number(1)))),
		"session without a row": last(decodeSession(pack([]byte("stored"), nil, nil, number(1)))), "session of the year 10000": last(decodeSession(pack([]byte("stored"), nil, id, late))),
		"public of the year 10000": last(decodeRecord(pack(nil, nil, nil, nil, late, number(1), number(1), number(1)))), "public with a short number": last(decodeRecord(pack(nil, nil, nil, nil, number(1), number(1), number(1), []byte{1}))),
		"private with a short time": last(decodePrivate(pack(nil, []byte{0}))), "intent with a flag of 2": last(decodeIntent(pack(nil, nil, nil, nil, nil, nil, []byte{2}, nil, []byte{0}, number(1), number(1), number(1)))),
		"intent with another flag of 2": last(decodeIntent(pack(nil, nil, nil, nil, nil, nil, []byte{0}, nil, []byte{2}, number(1), number(1), number(1)))),
	} {
		if !errors.Is(err, errFormat) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func last[T any](_ T, err error) error { return err }

func TestState(t *testing.T) {
	for _, c := range []struct {
		arrival, doubt uint64
		want           user.State
	}{{0, 0, user.Active}, {5, 0, user.Active}, {5, 5, user.Active}, {0, 1, user.Indeterminate}, {5, 6, user.Indeterminate}, {6, 5, user.Active}} {
		r, err := decodeRecord(encodeRecord(record{Public: user.Public{Arrival: c.arrival}, doubt: c.doubt}))
		if err != nil || r.State != c.want {
			t.Errorf("arrival %d, doubt %d: %s, %v", c.arrival, c.doubt, r.State, err)
		}
	}
}

// FuzzFormats holds every decoder to this: what it takes, encoding writes.
func FuzzFormats(f *testing.F) {
	decoders := formats()
	for i, d := range decoders {
		f.Add(uint8(i), d.bytes)
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		d := decoders[int(which)%len(decoders)]
		again, err := d.again(b)
		if err == nil && !bytes.Equal(again, b) {
			t.Fatalf("%s: an encoding that we would not write was taken", d.name)
		}
		if err != nil && !errors.Is(err, errFormat) {
			t.Fatalf("%s: %v", d.name, err)
		}
	})
}
