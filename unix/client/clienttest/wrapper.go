package clienttest

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"

	"golang.org/x/crypto/nacl/secretbox"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// memoryWrapper wraps keys under a key of its own, derived for each context: it
// is a keyring.Wrapper that lives as long as the test.
type memoryWrapper struct{ master [32]byte }

func newMemoryWrapper() *memoryWrapper {
	w := &memoryWrapper{}
	_, _ = rand.Read(w.master[:]) // never fails (crypto/rand)
	return w
}

func (w *memoryWrapper) derive(context []byte) *[32]byte {
	mac := hmac.New(sha256.New, w.master[:])
	mac.Write(context)
	return (*[32]byte)(mac.Sum(nil))
}

// Wrap seals key.
func (w *memoryWrapper) Wrap(_ context.Context, key secret.Text, context []byte) (string, error) {
	var nonce [24]byte
	_, _ = rand.Read(nonce[:])
	return base64.StdEncoding.EncodeToString(secretbox.Seal(nonce[:], key.Reveal(), &nonce, w.derive(context))), nil
}

// Unwrap opens what Wrap made for the same context.
func (w *memoryWrapper) Unwrap(_ context.Context, wrapped string, context []byte) (secret.Text, error) {
	b, err := base64.StdEncoding.DecodeString(wrapped)
	if err != nil || len(b) < 24 {
		return secret.Text{}, errors.New("unwrap a key: malformed")
	}
	key, ok := secretbox.Open(nil, b[24:], (*[24]byte)(b[:24]), w.derive(context))
	if !ok {
		return secret.Text{}, errors.New("unwrap a key: another key or context")
	}
	return secret.New(key), nil
}
