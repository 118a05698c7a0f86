package server

import (
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// appendSecret quotes a token into an answer, and makes no copy of it but there. It
// is the only file of the server that reveals one.
//
// BUG: net/http writes an answer through two buffers of its own, which it uses again
// for the next: each holds the last answer that went through it.
func appendSecret(b []byte, t secret.Text) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for text := t.Reveal(); len(text) > 0; {
		r, n := utf8.DecodeRune(text)
		switch c := text[0]; {
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...) // as encoding/json does
		case c == '"', c == '\\':
			b = append(b, '\\', c)
		case c < ' ', c == '<', c == '>', c == '&':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, text[:n]...)
		}
		text = text[n:]
	}
	return append(b, '"')
}
