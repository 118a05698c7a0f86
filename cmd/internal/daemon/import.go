package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Importing is what is to be imported.
type Importing struct {
	App string // the app's name, for the audit log
	// Next gives some records at a time, and io.EOF after the last or with it.
	// Another error ends the import once the records beside it are stored.
	Next func() ([]user.Record, error)
	// Done is told of each lot that Next gave what became of it. It is durable then.
	Done func(store.Imported)
	// DryRun: nothing is stored, recorded or made. Two lots that name the same user
	// do not know of each other then.
	DryRun bool
}

// Import seals the tokens that an app kept elsewhere until now, while no daemon
// runs (boltstore.ErrHeld where one does). That it began, and how many users were
// stored, stands in the audit log. A store that is not at or ahead of its rollback
// anchor is refused: the import would hide that it is older. Access tokens are
// wiped.
//
// Root becomes the user whose the store's directory is (see becomeOwner) once Vault
// has let it in.
func Import(ctx context.Context, c Config, im Importing) error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if im.DryRun {
		return importDry(ctx, c, im)
	}
	who := audit.Event{Kind: audit.Note, UID: number(os.Getuid()), GID: number(os.Getgid()), PID: int32(os.Getpid()), App: im.App}
	if err := notHeld(ctx, c); err != nil {
		return err
	}
	o, err := newOffline(ctx, c)
	if err != nil {
		return err
	}
	if err := becomeOwner(filepath.Dir(c.Config.Store.Path)); err != nil {
		return err
	}
	alive, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- o.vault.Run(alive) }() // millions of users take longer than a token lives
	err = o.importInto(ctx, who, im)
	end()
	return errors.Join(err, <-ended)
}

func number(n int) *uint32 {
	u := uint32(n)
	return &u
}

// notHeld fails where a daemon runs, before Vault is asked.
func notHeld(ctx context.Context, c Config) error {
	path := c.Config.Store.Path
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	driver, err := boltstore.Open(ctx, boltstore.Config{Path: path, ReadOnly: true, Now: c.Now, Logger: c.Logger})
	if err != nil {
		return storeError(path, err)
	}
	return driver.Close()
}

// importInto imports into the store of the configuration, between two notes in the
// audit log and two writings of the anchor.
func (o *offline) importInto(ctx context.Context, who audit.Event, im Importing) (err error) {
	d := &daemon{Config: o.Config, cfg: o.Config.Config, log: o.Logger}
	d.source = Source{Keys: o.vault, Apps: o.vault, Session: o.vault, Anchors: o.vault}
	path := d.cfg.Store.Path
	d.driver, err = boltstore.Open(ctx, boltstore.Config{Path: path, Reserve: int64(d.cfg.Store.Reserve), Now: o.Now, Logger: o.Logger})
	if err != nil {
		return storeError(path, err)
	}
	defer func() { err = errors.Join(err, d.driver.Close()) }()
	if err := d.fitsNow(ctx); err != nil {
		return err
	}
	s := &services{}
	if s.keys, err = o.keys(ctx, d.driver); err != nil {
		return err
	}
	defer s.keys.Close()
	who.Outcome = "importing"
	if s.audit, err = d.openAudit(ctx, s.keys, who); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.audit.Close()) }()
	if s.store, err = store.Open(ctx, store.Config{Driver: d.driver, Keys: s.keys, Now: o.Now}); err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, s.store.Close()) }()
	return d.record(ctx, s, who, im)
}

// ErrRolledBack is returned by Import for a store, log or keyring that is not at or
// ahead of what Vault remembers.
var ErrRolledBack = errors.New("the store is not what Vault remembers")

// fitsNow is fits without waiting for anybody.
func (d *daemon) fitsNow(ctx context.Context) error {
	there, err := d.readAnchor(ctx)
	if err != nil {
		return fmt.Errorf("read the rollback anchor: %w", err)
	}
	here, err := standOf(ctx, d.driver)
	if err != nil {
		return err
	}
	reasons, err := here.behind(there.content, there.found, d.holdsLine(ctx))
	if err != nil {
		return err
	}
	if len(reasons) > 0 {
		return fmt.Errorf("%w: %s", ErrRolledBack, strings.Join(reasons, "; "))
	}
	d.setAnchored(there)
	return nil
}

// record imports, and records it. The anchor is written before: a store that has
// users and no anchor would be taken for a rollback.
func (d *daemon) record(ctx context.Context, s *services, who audit.Event, im Importing) error {
	if err := d.writeAnchor(ctx, s); err != nil {
		return err
	}
	err := importAll(ctx, s.store, im, func(r store.Imported) {
		who.Count += r.Stored
		im.Done(r)
	})
	who.Outcome = "imported"
	ctx = context.WithoutCancel(ctx) // what was stored is recorded
	if err = errors.Join(err, s.audit.Write(who), s.audit.Sign(ctx)); err != nil {
		return err
	}
	if err := d.writeAnchor(ctx, s); err != nil { // the one of before still holds
		d.log.Warn("everything is imported, but the rollback anchor is not up to date", "error", err)
	}
	return nil
}

func importAll(ctx context.Context, s *store.Store, im Importing, done func(store.Imported)) error {
	for {
		records, err := im.Next()
		if len(records) > 0 {
			result, failed := s.Import(ctx, records)
			wipe(records)
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

func wipe(records []user.Record) {
	for _, r := range records {
		r.AccessToken.Wipe()
	}
}

// importDry holds the records against the store, where there is one.
func importDry(ctx context.Context, c Config, im Importing) (err error) {
	path := c.Config.Store.Path
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return importNowhere(im)
	}
	driver, err := boltstore.Open(ctx, boltstore.Config{Path: path, ReadOnly: true, Now: c.Now, Logger: c.Logger})
	if err != nil {
		return storeError(path, err)
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	info, err := keyring.Peek(ctx, driver)
	if err != nil {
		return fmt.Errorf("look at the keys: %w", err)
	}
	if !info.Exists {
		return importNowhere(im)
	}
	o, err := newOffline(ctx, c)
	if err != nil {
		return err
	}
	keys, err := o.keys(ctx, driver)
	if err != nil {
		return err
	}
	defer keys.Close()
	s, err := store.Open(ctx, store.Config{Driver: idle{driver}, Keys: keys, Now: c.Now})
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return importAll(ctx, s, im, im.Done)
}

// idle is a driver that keeps nothing.
type idle struct{ store.Driver }

func (idle) Apply(context.Context, store.Batch) error { return nil }

// importNowhere reads the records for a store that is not there yet.
func importNowhere(im Importing) error {
	for {
		records, err := im.Next()
		wipe(records)
		if len(records) > 0 {
			im.Done(store.Imported{Stored: len(records)})
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
