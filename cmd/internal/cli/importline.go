package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Lines of an import. Each is one JSON object, with exactly these fields:
//
//	humanId       required
//	clientUserId  the app's own id; may be left out
//	publicToken   may be left out: it is fetched when somebody asks for it
//	accessToken   required
//	expiresAt     of the access token, as in RFC 3339; may be left out
//
// All are strings. What may be left out may also be null. A line that is empty but
// for white space is skipped.
const (
	maxImportLine  = 64 << 10
	maxImportID    = 1024    // bytes, as over the sockets
	maxImportToken = 8 << 10 // bytes, as from Human API
)

// importField is one that a line may have.
type importField struct {
	name     string
	max      int
	required bool
	put      func(*user.Record, []byte) error
}

var importFields = []importField{
	{"humanId", maxImportID, true, func(r *user.Record, v []byte) error { r.HumanID = user.HumanID(v); return nil }},
	{"clientUserId", maxImportID, false, func(r *user.Record, v []byte) error { r.ClientUserID = user.ClientUserID(v); return nil }},
	{"publicToken", maxImportToken, false, func(r *user.Record, v []byte) error { r.PublicToken = user.PublicToken(v); return nil }},
	{"accessToken", maxImportToken, true, func(r *user.Record, v []byte) error { r.AccessToken = secret.New(v); return nil }},
	{"expiresAt", 64, false, putExpiry},
}

func putExpiry(r *user.Record, v []byte) error {
	t, err := time.Parse(time.RFC3339, string(v))
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		return errors.New("is no time as in RFC 3339, such as 2030-01-31T12:00:00Z")
	}
	r.ExpiresAt = t.UTC().Truncate(time.Second)
	return nil
}

// lineError is what is wrong with a line. It holds nothing out of it but the name
// of a field that is known.
type lineError struct {
	line int // from 1
	why  string
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.why) }

// parseImportLine decodes a line. Values are copied out of it, so that the caller
// can clear it; on an error the record holds nothing.
func parseImportLine(line []byte) (r user.Record, why string) {
	defer func() {
		if why != "" {
			r.AccessToken.Wipe()
			r = user.Record{}
		}
	}()
	if !utf8.Valid(line) {
		return r, "it is not valid UTF-8"
	}
	if !json.Valid(line) {
		return r, "it is not valid JSON"
	}
	if line = bytes.Trim(line, " \t\r\n"); line[0] != '{' {
		return r, "it is no JSON object"
	}
	seen := map[string]bool{}
	for i := skipSpace(line, 1); line[i] != '}'; {
		end := i + quotedLen(line[i:])
		name, err := unquoted(line[i:end])
		i = skipSpace(line, skipSpace(line, end)+1) // over the colon
		end = i + plainLen(line[i:])
		if why := takeField(&r, seen, string(name), err, line[i:end]); why != "" {
			return r, why
		}
		if i = skipSpace(line, end); line[i] == ',' {
			i = skipSpace(line, i+1)
		}
	}
	for _, f := range importFields {
		if f.required && !seen[f.name] {
			return r, f.name + " is missing"
		}
	}
	return r, ""
}

// takeField puts one value into the record, or says why not.
func takeField(r *user.Record, seen map[string]bool, name string, malformed error, raw []byte) string {
	for _, f := range importFields {
		switch {
		case name != f.name && strings.EqualFold(strings.TrimSpace(name), f.name):
			return "a field differs from " + f.name + " in case or spaces only: names are exact"
		case malformed != nil || name != f.name:
			continue
		case seen[f.name]:
			return f.name + " stands there twice"
		}
		seen[f.name] = true
		if string(raw) == "null" && !f.required {
			return ""
		}
		if why := f.value(r, raw); why != "" {
			return f.name + " " + why
		}
		return ""
	}
	return "it has a field that is none of an import"
}

func (f importField) value(r *user.Record, raw []byte) string {
	if raw[0] != '"' {
		return "is no string"
	}
	v, err := unquoted(raw)
	defer clear(v)
	switch {
	case err != nil:
		return err.Error()
	case len(v) == 0:
		return "is empty"
	case len(v) > f.max:
		return fmt.Sprintf("is longer than %d bytes", f.max)
	case bytes.ContainsFunc(v, func(c rune) bool { return unicode.IsControl(c) || c == utf8.RuneError }):
		return "has a control character, or U+FFFD"
	}
	if err := f.put(r, v); err != nil {
		return err.Error()
	}
	return ""
}

// What follows reads JSON that is known to be valid, and makes no copy of a value
// that could not be cleared.

// skipSpace is the index of the first byte at or after i that is no white space.
func skipSpace(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n' {
		i++
	}
	return i
}

// quotedLen is the length of the string that b begins with, quotes included.
func quotedLen(b []byte) int {
	for i := 1; ; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// plainLen is the length of the value that b begins with. Of an object or array it
// is that of its bracket: no field takes one.
func plainLen(b []byte) int {
	switch b[0] {
	case '"':
		return quotedLen(b)
	case '{', '[':
		return 1
	}
	return bytes.IndexAny(b, ",} \t\r\n")
}

var errHalfSurrogate = errors.New("has half a surrogate pair")

// unquoted decodes a string. A surrogate without its other half is an error:
// encoding/json replaces it, and two values would look alike.
func unquoted(s []byte) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for s = s[1 : len(s)-1]; len(s) > 0; {
		switch {
		case s[0] != '\\':
			out, s = append(out, s[0]), s[1:]
		case s[1] != 'u':
			out, s = append(out, "\"\\/\b\f\n\r\t"[strings.IndexByte(`"\/bfnrt`, s[1])]), s[2:]
		default:
			r, n := escapedRune(s)
			if n == 0 {
				return out, errHalfSurrogate
			}
			out, s = utf8.AppendRune(out, r), s[n:]
		}
	}
	return out, nil
}

// escapedRune decodes \uXXXX, or two of them; n is 0 for half a pair.
func escapedRune(s []byte) (r rune, n int) {
	if r = hexRune(s[2:6]); !utf16.IsSurrogate(r) {
		return r, 6
	}
	if len(s) < 12 || s[6] != '\\' || s[7] != 'u' {
		return 0, 0
	}
	if r = utf16.DecodeRune(r, hexRune(s[8:12])); r == unicode.ReplacementChar {
		return 0, 0
	}
	return r, 12
}

func hexRune(digits []byte) (r rune) {
	for _, d := range bytes.ToLower(digits) {
		r = r<<4 | rune(strings.IndexByte("0123456789abcdef", d))
	}
	return r
}
