package broker

import (
	"crypto/rand"
	"crypto/sha256"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// sessionName names an app's session token in this process's memory: an HMAC
// under a key that is made at start and kept nowhere, so that the token itself
// is no map key.
type sessionName [sha256.Size]byte

// userName names a user's line.
type userName struct {
	app   user.ClientID
	human user.HumanID
}

func newSalt() secret.MAC {
	var salt [32]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	return secret.NewMAC(secret.New(salt[:]))
}

func (b *Broker) sessionName(in user.Intent) sessionName {
	app := sha256.Sum256([]byte(in.ClientID)) // of fixed length: the two fields cannot run into each other
	message := append(make([]byte, 0, len(app)+in.SessionToken.Len()), app[:]...)
	message = append(message, in.SessionToken.Reveal()...)
	defer clear(message)
	return b.salt.Sum(message)
}

// owned is a copy of a caller's session token: the caller may wipe its own when it
// leaves, while the exchange goes on. settle wipes it.
func owned(token secret.Text) secret.Text { return secret.New(token.Reveal()) }
