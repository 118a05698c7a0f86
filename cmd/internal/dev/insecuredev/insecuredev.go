// Package insecuredev stands in for Vault in a try-out on a machine that has
// none: it wraps keys under a key of its own and knows the clientSecrets that it
// was given.
//
// It trusts everybody: key and secrets live in this process's memory, and are
// gone with it. It never opens a connection or a file, imitates nothing of
// Vault's API, and is never wired into the daemon by anything but cmd/internal/dev.
package insecuredev

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault"
)

// Source wraps keys and gives clientSecrets. It may be used concurrently.
type Source struct {
	box  cipher.AEAD
	apps map[user.ClientID]secret.Text
}

// New returns a Source with a fresh key. It keeps apps.
func New(apps map[user.ClientID]secret.Text) (*Source, error) {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("make a cipher: %w", err)
	}
	box, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make a cipher: %w", err)
	}
	return &Source{box: box, apps: apps}, nil
}

// Wrap seals key so that only Unwrap with the same context opens it.
func (s *Source) Wrap(_ context.Context, key secret.Text, context []byte) (string, error) {
	return base64.StdEncoding.EncodeToString(s.box.Seal(nil, nil, key.Reveal(), context)), nil
}

// Unwrap opens what Wrap sealed. Errors match vault.ErrMalformed.
func (s *Source) Unwrap(_ context.Context, wrapped string, context []byte) (secret.Text, error) {
	sealed, err := base64.StdEncoding.DecodeString(wrapped)
	if err != nil {
		return secret.Text{}, fmt.Errorf("decode the wrapped key: %w", vault.ErrMalformed)
	}
	key, err := s.box.Open(nil, nil, sealed, context)
	if err != nil {
		return secret.Text{}, fmt.Errorf("open the wrapped key: %w", vault.ErrMalformed)
	}
	defer clear(key)
	return secret.New(key), nil
}

// ReadApp gives the app's clientSecret. An app without one is vault.ErrNotFound.
func (s *Source) ReadApp(_ context.Context, id user.ClientID) (vault.App, error) {
	text, known := s.apps[id]
	if !known {
		return vault.App{}, fmt.Errorf("read the clientSecret of an app: %w", vault.ErrNotFound)
	}
	return vault.App{ClientSecret: secret.New(text.Reveal()), Version: 1}, nil
}
