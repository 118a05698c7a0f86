package vault

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// This file is where secrets become request bodies and headers, and the only one
// of the package that reveals any.

// setToken makes every further request of the conn carry the token.
func (c *conn) setToken(token secret.Text) { c.api.SetToken(string(token.Reveal())) }

// appRoleCredentials returns role id and secret id as vault/api wants them.
func (k credentials) appRole() (roleID, secretID string) {
	return string(k.roleID.Reveal()), string(k.secretID.Reveal())
}

// keyPair returns the client certificate with its key.
func (k credentials) keyPair() (tls.Certificate, error) {
	return tls.X509KeyPair(k.cert.Reveal(), k.key.Reveal())
}

// jwtBody is the body of a login with a JWT.
func jwtBody(role string, jwt secret.Text) ([]byte, error) {
	token, err := secretJSON(jwt)
	if err != nil {
		return nil, err
	}
	defer clear(token)
	return json.Marshal(map[string]any{"role": role, "jwt": token})
}

// tokenBody is the body of sys/wrapping/lookup.
func tokenBody(token secret.Text) ([]byte, error) {
	encoded, err := secretJSON(token)
	if err != nil {
		return nil, err
	}
	defer clear(encoded)
	return json.Marshal(map[string]any{"token": encoded})
}

// ownCopy returns a Text of its own: wiping either leaves the other.
func ownCopy(t secret.Text) secret.Text { return secret.New(t.Reveal()) }

// encryptBody is the body of transit/encrypt.
func encryptBody(plaintext secret.Text, context []byte) []byte {
	return transitBody("plaintext", base64.StdEncoding.AppendEncode(nil, plaintext.Reveal()), context)
}

// decryptBody is the body of transit/decrypt and transit/rewrap.
func decryptBody(wrapped string, context []byte) []byte {
	return transitBody("ciphertext", []byte(wrapped), context)
}

// transitBody writes the JSON by hand, so that the secret becomes no string.
// value must need no escaping in JSON.
func transitBody(field string, value, context []byte) []byte {
	b := append([]byte(`{"`+field+`":"`), value...)
	b = base64.StdEncoding.AppendEncode(append(b, `","context":"`...), context)
	return append(b, `"}`...)
}

// secretJSON is the secret as a JSON string.
func secretJSON(t secret.Text) (json.RawMessage, error) {
	return json.Marshal(string(t.Reveal()))
}

// tokenString is the token as vault/api's watcher wants it.
func (s session) tokenString() string { return string(s.token.Reveal()) }
