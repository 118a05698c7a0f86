package insecuredev

import (
	"errors"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault"
)

func TestSource(t *testing.T) {
	s, err := New(map[user.ClientID]secret.Text{"app": secret.FromString("marker-client-secret")})
	if err != nil {
		t.Fatal(err)
	}
	key := secret.FromString("marker-key-of-thirty-two-bytes!!")
	wrapped, err := s.Wrap(t.Context(), key, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Unwrap(t.Context(), wrapped, []byte("a")); err != nil || !got.Equal(key) {
		t.Errorf("unwrapped wrongly: %v", err)
	}
	for _, c := range []struct{ wrapped, context string }{{wrapped, "b"}, {"x" + wrapped[1:], "a"}, {"!", "a"}, {"", "a"}} {
		if c.wrapped == wrapped && c.context == "a" {
			continue
		}
		if _, err := s.Unwrap(t.Context(), c.wrapped, []byte(c.context)); !errors.Is(err, vault.ErrMalformed) {
			t.Errorf("another context or other bytes: %v", err)
		}
	}
	if app, err := s.ReadApp(t.Context(), "app"); err != nil || app.Version != 1 || app.ClientSecret.IsZero() {
		t.Errorf("read the app: %v", err)
	}
	if _, err := s.ReadApp(t.Context(), "other"); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("another app: %v", err)
	}
}
