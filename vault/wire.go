package vault

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// This file is where secrets become request bodies and headers, and the only one
// of the package that reveals any.

// with gives f the token, which must be printable ASCII to stand in a header
// (RFC 9110, section 5.5); none when h is nil or holds none.
func (h *heldToken) with(f func(token []byte) ([]byte, error)) ([]byte, error) {
	if h == nil {
		return f(nil)
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	token := h.text.Reveal()
	for _, c := range token {
		if c <= ' ' || c > '~' {
			return nil, &noAnswer{why: "the token has a character that no token has, and was not sent"}
		}
	}
	return f(token)
}

// keyPair returns the client certificate with its key.
func (k credentials) keyPair() (tls.Certificate, error) {
	return tls.X509KeyPair(k.cert.Reveal(), k.key.Reveal())
}

// jwtBody is the body of a login with a JWT.
func jwtBody(role string, jwt secret.Text) ([]byte, error) {
	return stringsBody(member{"role", secret.FromString(role)}, member{"jwt", jwt})
}

// appRoleBody is the body of a login with AppRole.
func appRoleBody(roleID, secretID secret.Text) ([]byte, error) {
	return stringsBody(member{"role_id", roleID}, member{"secret_id", secretID})
}

// tokenBody is the body of sys/wrapping/lookup.
func tokenBody(token secret.Text) ([]byte, error) { return stringsBody(member{"token", token}) }

type member struct {
	name  string // needs no escaping
	value secret.Text
}

// errNotText is returned for what JSON cannot carry as it is.
var errNotText = errors.New("it is not valid UTF-8")

// stringsBody is a JSON object of strings, for the caller to clear. There is no
// other copy of it.
func stringsBody(members ...member) ([]byte, error) {
	room := len("{}")
	for _, m := range members {
		if !utf8.Valid(m.value.Reveal()) {
			return nil, errNotText
		}
		room += len(m.name) + len(`"":,`) + maxQuoted(m.value.Len())
	}
	b := append(make([]byte, 0, room), '{')
	for i, m := range members {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), m.name...), `":`...)
		b = appendQuoted(b, m.value.Reveal())
	}
	return append(b, '}'), nil
}

// ownCopy returns a Text of its own, to be wiped soon: wiping either leaves the
// other. It is on the heap: places in the locked region rest after each use, and
// are too few for what is handed out for every exchange.
func ownCopy(t secret.Text) secret.Text { return secret.New(t.Reveal()) }

// kept is ownCopy for what is held long.
func kept(t secret.Text) secret.Text { return secret.Keep(t.Reveal()) }

// encryptBody is the body of transit/encrypt, for the caller to clear.
func encryptBody(plaintext secret.Text, context []byte) []byte {
	encoded := base64.StdEncoding.AppendEncode(make([]byte, 0, base64.StdEncoding.EncodedLen(plaintext.Len())), plaintext.Reveal())
	defer clear(encoded)
	return transitBody("plaintext", encoded, context)
}

// decryptBody is the body of transit/decrypt and transit/rewrap.
func decryptBody(wrapped string, context []byte) []byte {
	return transitBody("ciphertext", []byte(wrapped), context)
}

// transitBody writes the JSON by hand, so that the secret becomes no string, and
// there is one copy of it. value must need no escaping in JSON.
func transitBody(field string, value, context []byte) []byte {
	room := len(`{"":"","context":""}`) + len(field) + len(value) + base64.StdEncoding.EncodedLen(len(context))
	b := append(make([]byte, 0, room), `{"`+field+`":"`...)
	b = append(b, value...)
	b = base64.StdEncoding.AppendEncode(append(b, `","context":"`...), context)
	return append(b, `"}`...)
}

// secretJSON is the secret as a JSON string, for the caller to clear.
func secretJSON(t secret.Text) json.RawMessage {
	return appendQuoted(make([]byte, 0, maxQuoted(t.Len())), t.Reveal())
}

// isText reports whether t can be a JSON string as it is.
func isText(t secret.Text) bool { return utf8.Valid(t.Reveal()) }
