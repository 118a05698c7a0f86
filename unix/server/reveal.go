package server

import "github.com/tokenvault/tokenvault/crypto/secret"

// appendSecret quotes a token into an answer. It is the only file of the server
// that reveals one.
func appendSecret(b []byte, t secret.Text) []byte {
	return appendString(b, string(t.Reveal()))
}
