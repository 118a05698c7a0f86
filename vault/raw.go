package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// What holds a secret is read where it lies: encoding/json makes strings, and
// copies of what is decoded later, which nobody can clear.

// fields splits a JSON object into its members, whose values are slices of b. A
// name that stands there twice, or under which nothing can be found because it is
// no text, makes it no object.
func fields(b []byte) (map[string][]byte, error) {
	if !utf8.Valid(b) || !json.Valid(b) {
		return nil, ErrMalformed
	}
	rest := trimmed(b)
	if rest[0] != '{' {
		return nil, ErrMalformed
	}
	members := map[string][]byte{}
	rest = trimmed(rest[1:])
	for rest[0] != '}' {
		end := valueEnd(rest)
		name, ok := unquoted(bytes.Clone(rest[:end]))
		if _, twice := members[string(name)]; twice || !ok {
			return nil, ErrMalformed
		}
		rest = trimmed(trimmed(rest[end:])[1:]) // the colon
		end = valueEnd(rest)
		members[string(name)] = rest[:end]
		if rest = trimmed(rest[end:]); rest[0] == ',' {
			rest = trimmed(rest[1:])
		}
	}
	return members, nil
}

func trimmed(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

// valueEnd is where the value that valid JSON begins with ends.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += stringEnd(b[i:]) - 1
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth == 0 {
				return i // of what the value stands in
			}
			depth--
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
			continue
		default:
			continue // within a number or a word
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(b)
}

// stringEnd is where the string that b begins with ends, its quotes included.
func stringEnd(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// unquoted decodes a valid JSON string where it lies: what it returns is a part of
// raw, which is no JSON any more. false: it is no string, or holds half a
// surrogate pair (RFC 8259, section 8.2), of which no bytes can be made.
func unquoted(raw []byte) ([]byte, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, false
	}
	in, out := raw[1:len(raw)-1], raw[1:1]
	for len(in) > 0 {
		if in[0] != '\\' {
			out, in = append(out, in[0]), in[1:] // never longer than what was read
			continue
		}
		if plain := strings.IndexByte(`"\/bfnrt`, in[1]); plain >= 0 {
			out, in = append(out, "\"\\/\b\f\n\r\t"[plain]), in[2:]
			continue
		}
		r := hex4(in[2:6])
		in = in[6:]
		if utf16.IsSurrogate(r) {
			if len(in) < 6 || in[0] != '\\' || in[1] != 'u' {
				return nil, false
			}
			r = utf16.DecodeRune(r, hex4(in[2:6]))
			in = in[6:]
			if r == utf8.RuneError {
				return nil, false
			}
		}
		out = utf8.AppendRune(out, r)
	}
	return out, true
}

// hex4 is the number of four hexadecimal digits.
func hex4(digits []byte) (r rune) {
	for _, d := range digits {
		switch {
		case d <= '9':
			d -= '0'
		default:
			d = d | 0x20 - 'a' + 10
		}
		r = r<<4 | rune(d)
	}
	return r
}

// textOf makes a kept Text of a JSON string, and clears it. Of "" it makes the
// empty Text.
func textOf(raw []byte) (secret.Text, bool) {
	defer clear(raw)
	text, ok := unquoted(raw)
	if !ok {
		return secret.Text{}, false
	}
	defer overwriteRegisters(256)
	return secret.Keep(text), true
}

// overwriteRegisters copies n zeros as the runtime's memmove does, through the
// vector registers: those hold what was copied last, and the frame of a signal, as
// the runtime sends for preemption, keeps it in memory.
//
// BUG: that is by the way memmove works on amd64, and a signal may come before.
//
//go:noinline
func overwriteRegisters(n int) {
	var from, to [256]byte
	copy(to[:n], from[:n])
}

// bytesOf makes a Text of a JSON string in base64, and clears it.
func bytesOf(raw []byte) (secret.Text, bool) {
	defer clear(raw)
	text, ok := unquoted(raw)
	if !ok || bytes.ContainsAny(text, "\r\n") { // which encoding/base64 would skip
		return secret.Text{}, false
	}
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	defer clear(b)
	n, err := base64.StdEncoding.Strict().Decode(b, text)
	if err != nil {
		return secret.Text{}, false
	}
	defer overwriteRegisters(256)
	return secret.Keep(b[:n]), true
}

// appendQuoted appends b as a JSON string. b is valid UTF-8.
func appendQuoted(to, b []byte) []byte {
	const hex = "0123456789abcdef"
	to = append(to, '"')
	for _, c := range b {
		switch {
		case c == '"', c == '\\':
			to = append(to, '\\', c)
		case c < ' ':
			to = append(to, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			to = append(to, c)
		}
	}
	return append(to, '"')
}

// maxQuoted is how long appendQuoted can make n bytes.
func maxQuoted(n int) int { return 6*n + 2 }

// decode is json.Unmarshal for what holds no secret, with names that must differ
// in more than the case of their letters: encoding/json takes the last of them.
func decode(raw []byte, into any) error {
	if members, err := fields(raw); err == nil {
		folded := map[string]bool{}
		for name := range members {
			name = strings.ToLower(name)
			if folded[name] {
				return ErrMalformed
			}
			folded[name] = true
		}
	}
	if json.Unmarshal(raw, into) != nil {
		return ErrMalformed // its error quotes what it read
	}
	return nil
}

// decodeMember decodes a member that holds no secret; into stays as it is when
// there is none.
func decodeMember(members map[string][]byte, name string, into any) error {
	raw, ok := members[name]
	if !ok {
		return nil
	}
	return decode(raw, into)
}
