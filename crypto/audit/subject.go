package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Subject is how a user is named in the log: 64 hex digits of
// HMAC-SHA256(subject key, enc("human", clientId, humanId)). The same user always
// has the same, and without the key it tells nothing.
func (l *Log) Subject(client user.ClientID, human user.HumanID) string {
	return hex.EncodeToString(l.subject([]byte("human"), []byte(client), []byte(human)))
}

func subjectMAC(key secret.Text) func(fields ...[]byte) []byte {
	return func(fields ...[]byte) []byte {
		h := hmac.New(sha256.New, key.Reveal())
		h.Write(enc(fields...))
		return h.Sum(nil)
	}
}
