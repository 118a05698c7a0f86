package exchange

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxField bounds every field that we take. Access tokens of 260 and of some
// 700 characters have been seen.
const maxField = 8 << 10

// want is a field that we take from an answer, under exactly this name.
type want struct {
	name     string
	required bool // else it may be absent or null
	empty    bool // "" is a value
}

// Replies to tokens grew over the years: clientId and clientUserId may be absent.
var (
	tokensWanted = []want{{name: "humanId", required: true}, {name: "publicToken", required: true},
		{name: "accessToken", required: true}, {name: "clientId"}, {name: "clientUserId", empty: true}}
	publicTokensWanted = []want{{name: "humanId", required: true}, {name: "publicToken", required: true}, {name: "clientId"}}
)

var (
	errInvalid   = errors.New("the answer does not fit")
	errOtherUser = fmt.Errorf("%w: it is about another user", errInvalid)
	errNoObject  = errors.New("the answer is no JSON object")
	errEmpty     = errors.New("the answer is empty")
	errTooLarge  = errors.New("the answer is too large")
	errSurrogate = errors.New("has half a surrogate pair")
)

func invalid(name, what string) error { return fmt.Errorf("%w: %s %s", errInvalid, name, what) }

// parse takes the wanted fields from an answer's body. The body as a whole must
// be one JSON object in valid UTF-8 (RFC 8259); whatever else it holds is
// ignored. An error matches errInvalid when it is such an object. The values
// are copies, which the caller clears; on error they are cleared already.
func parse(body []byte, wanted []want) (values map[string][]byte, err error) {
	body = bytes.Trim(body, " \t\r\n")
	switch {
	case len(body) == 0:
		return nil, errEmpty
	case body[0] != '{' || !utf8.Valid(body) || !json.Valid(body):
		return nil, errNoObject
	}
	values = make(map[string][]byte, len(wanted))
	defer func() {
		if err != nil {
			answer{values: values}.clear()
			values = nil
		}
	}()
	seen := make(map[string]bool, len(wanted))
	for w, raw := range members(body, wanted) {
		if seen[w.name] {
			return values, invalid(w.name, "stands there twice")
		}
		seen[w.name] = true
		if err := take(values, w, raw); err != nil {
			return values, err
		}
	}
	for _, w := range wanted {
		if _, ok := values[w.name]; w.required && !ok {
			return values, invalid(w.name, "is missing")
		}
	}
	return values, nil
}

// take checks one value and puts it in.
func take(values map[string][]byte, w want, raw []byte) error {
	if string(raw) == "null" && !w.required {
		return nil
	}
	if raw[0] != '"' {
		return invalid(w.name, "is no string")
	}
	v, err := unquote(raw)
	if err == nil {
		err = checkValue(v, w)
	}
	if err != nil {
		clear(v)
		return invalid(w.name, err.Error())
	}
	values[w.name] = v
	return nil
}

func checkValue(v []byte, w want) error {
	switch {
	case len(v) == 0 && !w.empty:
		return errors.New("is empty")
	case len(v) > maxField:
		return errors.New("is too long")
	case bytes.ContainsFunc(v, unicode.IsControl):
		return errors.New("has a control character")
	}
	return nil
}

// members yields the members of an object that are wanted, values as they stand
// there. The object must be valid JSON: nothing is checked again.
func members(object []byte, wanted []want) func(yield func(want, []byte) bool) {
	return func(yield func(want, []byte) bool) {
		for i := next(object, 1); object[i] == '"'; {
			end := i + stringLen(object[i:])
			name, err := unquote(object[i:end])
			i = next(object, next(object, end)+1) // over the colon
			start := i
			i += valueLen(object[i:])
			for _, w := range wanted {
				if err == nil && string(name) == w.name && !yield(w, object[start:i]) {
					return
				}
			}
			if i = next(object, i); object[i] == ',' {
				i = next(object, i+1)
			}
		}
	}
}

// next is the index of the first byte at or after i that is no white space.
func next(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n' {
		i++
	}
	return i
}

// stringLen is the length of the string that b begins with, quotes included.
func stringLen(b []byte) int {
	for i := 1; ; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// valueLen is the length of the value that b begins with. After a value there
// is always a byte, as the object is not over.
func valueLen(b []byte) int {
	depth := 0
	for i := 0; ; i++ {
		switch b[i] {
		case '"':
			i += stringLen(b[i:]) - 1
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth == 0 { // the end of the object that a number or literal stands in
				return i
			}
			depth--
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			return i + 1
		}
	}
}

// unquote decodes a valid JSON string. A surrogate without its other half is an
// error: encoding/json would silently replace it, and the value would not be
// what was sent.
func unquote(s []byte) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for s = s[1 : len(s)-1]; len(s) > 0; {
		if s[0] != '\\' {
			out, s = append(out, s[0]), s[1:]
			continue
		}
		if s[1] != 'u' {
			out, s = append(out, unescape(s[1])), s[2:]
			continue
		}
		r := hex4(s[2:6])
		s = s[6:]
		if utf16.IsSurrogate(r) {
			if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
				return out, errSurrogate
			}
			if r = utf16.DecodeRune(r, hex4(s[2:6])); r == unicode.ReplacementChar {
				return out, errSurrogate
			}
			s = s[6:]
		}
		out = utf8.AppendRune(out, r)
	}
	return out, nil
}

func unescape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c // quote, backslash, slash
}

func hex4(b []byte) (r rune) {
	for _, c := range b[:4] {
		switch {
		case c <= '9':
			r = r<<4 | rune(c-'0')
		default:
			r = r<<4 | rune(c|0x20-'a'+10)
		}
	}
	return r
}
