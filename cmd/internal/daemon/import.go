package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault"
)

// Import seals the tokens that an app kept elsewhere until now, while no daemon
// runs. next gives some records at a time, and io.EOF after the last; done is told
// of each lot when it is durable, with what became of it. Records are wiped.
func Import(ctx context.Context, c Config, next func() ([]user.Record, error), done func(store.Imported)) (err error) {
	path := c.Config.Store.Path
	_, missing := os.Lstat(path)
	driver, err := boltstore.Open(ctx, boltstore.Config{Path: path, Reserve: int64(c.Config.Store.Reserve), Now: c.Now, Logger: c.Logger})
	if err != nil {
		return storeError(path, err)
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	if errors.Is(missing, fs.ErrNotExist) {
		if err := giveToOwner(filepath.Dir(path), path); err != nil {
			return fmt.Errorf("give the new store to the daemon's user: %w", err)
		}
	}
	o, err := newOffline(ctx, c)
	if err != nil {
		return err
	}
	here, err := standOf(ctx, driver)
	if err != nil {
		return err
	}
	keys, err := o.keys(ctx, driver)
	if err != nil {
		return err
	}
	defer keys.Close()
	if err := o.anchorNew(ctx, driver, here); err != nil {
		return err
	}
	s, err := store.Open(ctx, store.Config{Driver: driver, Keys: keys, Now: c.Now})
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return importAll(ctx, s, next, done)
}

// anchorNew writes the first anchor of a store that was made just now. One that
// has users and no anchor would be taken for a rollback at the next start.
func (o *offline) anchorNew(ctx context.Context, driver *boltstore.DB, before stand) error {
	_, version, err := o.vault.ReadAnchor(ctx, o.Config.Config.Instance)
	if err == nil {
		return nil // the start of the daemon compares
	}
	if !errors.Is(err, vault.ErrNotFound) {
		return fmt.Errorf("read the rollback anchor: %w", err)
	}
	if !before.isNew() {
		return errors.New("no rollback anchor is in Vault for this store: start the daemon, and see tokenvault status")
	}
	a, err := o.anchorOf(ctx, driver)
	if err != nil {
		return err
	}
	if _, err := o.vault.WriteAnchor(ctx, o.Config.Config.Instance, a, version); err != nil {
		return fmt.Errorf("write the rollback anchor: %w", err)
	}
	return nil
}

func importAll(ctx context.Context, s *store.Store, next func() ([]user.Record, error), done func(store.Imported)) error {
	for {
		records, err := next()
		if len(records) > 0 {
			result, failed := s.Import(ctx, records)
			for _, r := range records {
				r.AccessToken.Wipe()
			}
			if failed != nil {
				return fmt.Errorf("import: %w", failed)
			}
			done(result)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
