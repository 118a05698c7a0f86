package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/unix/api"
)

// CheckOffline walks the store of a daemon that is not running: it logs in at
// Vault as the daemon would, and writes nothing. Of c it uses Config, Now and
// Logger. It fails with boltstore.ErrHeld while a daemon runs.
func CheckOffline(ctx context.Context, c Config) (check api.StoreCheck, err error) {
	path := c.Config.Store.Path
	driver, err := boltstore.Open(ctx, boltstore.Config{Path: path, ReadOnly: true, Now: c.Now, Logger: c.Logger})
	if err != nil {
		return check, storeError(path, err)
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	info, err := keyring.Peek(ctx, driver)
	if err != nil {
		return check, fmt.Errorf("look at the keys: %w", err)
	}
	if !info.Exists {
		return check, fmt.Errorf("the store %s is empty: no daemon was ever ready on it", path)
	}
	vault, err := newVault(c)
	if err != nil {
		return check, err
	}
	if err := vault.Login(ctx); err != nil {
		return check, fmt.Errorf("log in at Vault: %w", err)
	}
	keys, err := keyring.Open(ctx, keyring.Config{Blob: driver, Wrapper: vault, Now: c.Now})
	if err != nil {
		return check, fmt.Errorf("unwrap the keys: %w", err)
	}
	defer keys.Close()
	s, err := store.Open(ctx, store.Config{Driver: driver, Keys: keys, Now: c.Now})
	if err != nil {
		return check, fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return checkStore(ctx, s)
}

func checkStore(ctx context.Context, s *store.Store) (api.StoreCheck, error) {
	r, err := s.Check(ctx)
	if err != nil {
		return api.StoreCheck{}, err
	}
	out := api.StoreCheck{OK: len(r.Problems) == 0, Counts: r.Counts, Problems: r.Problems, Omitted: r.Omitted}
	if out.Problems == nil {
		out.Problems = []string{}
	}
	return out, nil
}
