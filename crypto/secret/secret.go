// Package secret holds a secret that cannot be printed.
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
// BUG: the bytes live in the garbage-collected heap. [Text.Wipe] clears the one
// copy that a Text owns; copies made by Reveal's callers, by encoders and by
// TLS are not reached.
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
type Text struct{ bytes func() []byte }

// New returns a Text with a copy of b. The caller still owns b, and should
// clear it when it is the only other copy.
func New(b []byte) Text {
	if len(b) == 0 {
		return Text{}
	}
	own := make([]byte, len(b))
	copy(own, b)
	return Text{bytes: func() []byte { return own }}
}

// FromString is New for a string, which Go cannot clear.
func FromString(s string) Text { return New([]byte(s)) }

// Reveal returns the bytes themselves, not a copy: the caller must neither
// change nor keep them. It returns nil for an empty Text.
func (t Text) Reveal() []byte {
	if t.bytes == nil {
		return nil
	}
	return t.bytes()
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
func (t Text) Wipe() { clear(t.Reveal()) }

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
