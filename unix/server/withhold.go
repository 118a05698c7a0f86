package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// readAll is io.ReadAll that leaves no copy behind; size is a guess, or negative.
func readAll(r io.Reader, size int64) ([]byte, error) {
	b := make([]byte, 0, max(size+1, 512)) // one more, to see the end
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			clear(b)
			return nil, err
		case len(b) == cap(b):
			small := b
			b = append(make([]byte, 0, 2*cap(b)), b...)
			clear(small)
		}
	}
}

// withhold takes the session token out of a body, so that the decoders, which make
// strings that nobody can clear, see as many x instead. It does so where it is sure
// which one it is and that it is written as it is; else it returns the empty Text and
// leaves the body alone.
//
// BUG: of a token that is written with a backslash or a percent sign, as PHP writes a
// slash, or nested in a form, copies stay until their memory is used again.
func withhold(body []byte) secret.Text {
	token := inForm(body)
	if json.Valid(body) {
		token = inJSON(body)
	}
	held := secret.New(token)
	copy(token, bytes.Repeat([]byte("x"), len(token)))
	return held
}

// inForm finds the one sessionToken of a form. If there is another, written otherwise
// or nested, the form is refused.
func inForm(body []byte) (token []byte) {
	for pair := range bytes.SplitSeq(body, []byte("&")) {
		value, found := bytes.CutPrefix(pair, []byte("sessionToken="))
		if found && (token != nil || len(value) == 0 || bytes.ContainsAny(value, "%+;") || !plain(value)) {
			return nil
		}
		if found {
			token = value
		}
	}
	return token
}

// inJSON finds the one sessionToken of valid JSON, at whatever depth.
func inJSON(body []byte) (token []byte) {
	const space = " \t\r\n"
	key := []byte(`"sessionToken"`)
	if bytes.Contains(body, []byte(`\u00`)) { // by which the name can be written otherwise
		return nil
	}
	for rest := body; ; {
		i := bytes.Index(rest, key)
		if i < 0 {
			return token
		}
		inside := i > 0 && rest[i-1] == '\\'
		rest = rest[i+len(key):]
		after, isName := bytes.CutPrefix(bytes.TrimLeft(rest, space), []byte(":"))
		if inside || !isName {
			continue
		}
		after = bytes.TrimLeft(after, space)
		n := bytes.IndexAny(after[1:], `"\`)
		if token != nil || after[0] != '"' || n < 1 || after[1+n] == '\\' || !plain(after[1:1+n]) {
			return nil
		}
		token, rest = after[1:1+n], after[1+n:]
	}
}

// plain text is what the decoders hand on as it is, without looking into it for JSON.
func plain(b []byte) bool {
	return utf8.Valid(b) && !bytes.ContainsRune(b, utf8.RuneError) && !bytes.ContainsAny(b, "{[")
}
