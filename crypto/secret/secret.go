// Package secret holds a secret that cannot be printed, and keeps those that live
// long outside the garbage-collected heap.
//
// It trusts nothing and nobody: a [Text] shows "[secret]" to fmt, slog,
// encoding/json, encoding/gob and every other reader of Go values, because its
// bytes stand behind a func field, which reflection cannot look into.
// (A String method over a byte slice leaks through unexported fields, %#v and
// %x; that was measured, and is why the representation is this one.)
//
// It never compares with ==, never marshals its bytes, and never writes them
// anywhere. Bytes come out through [Text.Reveal] alone, and the list of files
// that call it is pinned by a test.
//
// # Where the bytes are
//
// [New] puts them on the heap: for what lives as long as a request. [Keep] puts them
// into one region of the process ([Region]) that is locked into memory, stands
// between two pages that cannot be touched, and is in no core dump and no child:
// memfd_secret(2) where the kernel gives it, which not even root reads from outside.
// That is for keys, credentials and whatever else lives long. Wipe clears a place in
// it, and for a minute nobody else gets it.
//
// An attacker who can run code in this process reads all of it. The region is against
// swap, core dumps, /proc/PID/mem, and copies that nobody knows of.
//
// BUG: what [Text.Reveal]'s callers, encoders and TLS copy is not reached by Wipe.
// Registers and stacks keep parts of what was computed until they are used again: of
// a [MAC], nothing that is the key byte for byte.
package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const placeholder = "[secret]"

// Text is a secret byte string. The zero Text is empty. Copies of a Text share
// the same bytes: wiping one wipes all.
type Text struct{ held func() ([]byte, *place) }

// New returns a Text with a copy of b, on the heap. The caller still owns b, and
// should clear it when it is the only other copy.
func New(b []byte) Text {
	if len(b) == 0 {
		return Text{}
	}
	own := make([]byte, len(b))
	copy(own, b)
	return Text{held: func() ([]byte, *place) { return own, nil }}
}

// Keep is New with the copy in the locked region, until Wipe: a kept Text that is
// dropped without one holds its place as long as the process lives. It never fails:
// what finds no room in the region, or no region, is on the heap, and
// [RegionStatus].Spilled counts it.
func Keep(b []byte) Text { return theRegion().keep(b) }

func (r *region) keep(b []byte) Text {
	if len(b) == 0 {
		return Text{}
	}
	p := r.put(b)
	return Text{held: func() ([]byte, *place) { return p.reveal(), p }}
}

// FromString is New for a string, which Go cannot clear.
func FromString(s string) Text { return New([]byte(s)) }

// Reveal returns the bytes themselves, not a copy: the caller must neither
// change nor keep them, and after Wipe they are zeros, or for a kept Text may be, a
// minute later, another secret's. It returns nil for an empty Text.
func (t Text) Reveal() []byte {
	if t.held == nil {
		return nil
	}
	b, _ := t.held()
	return b
}

// Len is the number of bytes.
func (t Text) Len() int { return len(t.Reveal()) }

// IsZero reports whether t is empty.
func (t Text) IsZero() bool { return t.Len() == 0 }

// Equal compares in time that depends on the lengths only.
func (t Text) Equal(o Text) bool {
	return subtle.ConstantTimeCompare(t.Reveal(), o.Reveal()) == 1
}

// Wipe overwrites the bytes with zeros. Every copy of t reads zeros afterwards.
func (t Text) Wipe() {
	if t.held == nil {
		return
	}
	if b, p := t.held(); p != nil {
		p.wipe()
	} else {
		clear(b)
	}
}

// String returns "[secret]".
func (t Text) String() string { return placeholder }

// GoString returns "[secret]".
func (t Text) GoString() string { return placeholder }

// Format prints "[secret]" for every verb.
func (t Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, placeholder) }

// LogValue is "[secret]".
func (t Text) LogValue() slog.Value { return slog.StringValue(placeholder) }

// MarshalText yields "[secret]", and so does every encoder that asks it.
func (t Text) MarshalText() ([]byte, error) { return []byte(placeholder), nil }

// MarshalBinary yields "[secret]" (encoding/gob asks it).
func (t Text) MarshalBinary() ([]byte, error) { return []byte(placeholder), nil }

// ErrUnmarshal is returned when something tries to decode into a Text: a
// decoder that holds the secret should say New itself, where it can be seen.
var ErrUnmarshal = errors.New("a secret is not decoded implicitly")

// UnmarshalText always fails with [ErrUnmarshal].
func (t *Text) UnmarshalText([]byte) error { return ErrUnmarshal }

// UnmarshalBinary always fails with [ErrUnmarshal].
func (t *Text) UnmarshalBinary([]byte) error { return ErrUnmarshal }
