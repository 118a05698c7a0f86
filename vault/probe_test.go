package vault_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// A probe says how far it came; a login that is over leaves no token.
func TestProbe(t *testing.T) {
	s := vaulttest.Start(t)
	c := vault.Config{Address: s.Addr, UnsafePlainHTTP: true, Timeout: 2 * time.Second}
	seen, err := vault.Probe(t.Context(), c)
	if err != nil || !seen.Dialled || !seen.Secured || !seen.Serves || seen.Encrypted || time.Since(seen.Clock).Abs() > 5*time.Second {
		t.Errorf("%+v, %v", seen, err)
	}
	c.Address = "http://127.0.0.1:1"
	if seen, err = vault.Probe(t.Context(), c); !errors.Is(err, vault.ErrUnreachable) || seen.Dialled {
		t.Errorf("nobody there: %+v, %v", seen, err)
	}
	c.Address = "https" + s.Addr[len("http"):]
	if seen, err = vault.Probe(t.Context(), c); !errors.Is(err, vault.ErrUnreachable) || !seen.Dialled || seen.Secured {
		t.Errorf("no TLS there: %+v, %v", seen, err)
	}
	c.Address = "http://vault.test" // plain, and not loopback
	if _, err = vault.Probe(t.Context(), c); err == nil || errors.Is(err, vault.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}
