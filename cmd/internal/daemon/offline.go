package daemon

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/vault"
)

// offline is what a command has that works while no daemon runs: a login at Vault
// as the daemon's, and the configuration. Of its Config it uses Config, Now and
// Logger.
type offline struct {
	Config
	vault *vault.Client
}

// ErrWrapped is returned by offline commands when the daemon logs in with a wrapped
// secret id: its wrapping token works once, and whoever uses it up takes the login
// away from the daemon.
var ErrWrapped = errors.New("the daemon's secret id is wrapped, and unwrapping it here would take it from the daemon")

// NewVault builds the daemon's client of Vault, of c's Config, Now and Logger. It
// sends nothing.
func NewVault(c Config) (*vault.Client, error) { return newVault(c) }

func newOffline(ctx context.Context, c Config) (*offline, error) {
	if c.Config.Vault.Auth.Wrapped {
		return nil, ErrWrapped
	}
	client, err := newVault(c)
	if err != nil {
		return nil, err
	}
	if err := client.Login(ctx); err != nil {
		return nil, fmt.Errorf("log in at Vault: %w", err)
	}
	return &offline{c, client}, nil
}

// done revokes the token of a command that is over; without that it ends by itself.
func (o *offline) done() {
	ctx, cancel := context.WithTimeout(context.Background(), anchorAtStop)
	defer cancel()
	_ = o.vault.Logout(ctx)
}

// keys opens the keyring of a blob. It makes one where there is none.
func (o *offline) keys(ctx context.Context, blob keyring.Blob) (*keyring.Keyring, error) {
	keys, err := keyring.Open(ctx, keyring.Config{Blob: blob, Wrapper: o.vault, Now: o.Now, TooOld: tooOld})
	if err != nil {
		return nil, fmt.Errorf("unwrap the keys: %w", err)
	}
	return keys, nil
}

// becomeOwner gives root's rights up for good, and goes on as whoever the directory
// belongs to. What is made or opened in it from then on is the daemon's, at every
// moment; and nobody who can write there can lead root to a file elsewhere. What
// only root may read must have been read before. Whoever is not root stays the
// same.
func becomeOwner(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return nil
	}
	err = errors.Join(syscall.Setgroups([]int{int(st.Gid)}), syscall.Setgid(int(st.Gid)), syscall.Setuid(int(st.Uid)))
	if err != nil {
		return fmt.Errorf("become the user %d, whose %s is: %w", st.Uid, dir, err)
	}
	return nil
}

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
	o, err := newOffline(ctx, c)
	if err != nil {
		return check, err
	}
	defer o.done()
	keys, err := o.keys(ctx, driver)
	if err != nil {
		return check, err
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
	return asCheck(r), nil
}

func asCheck(r store.Report) api.StoreCheck {
	out := api.StoreCheck{
		OK: len(r.Problems) == 0, Counts: r.Counts, States: r.States, Ambiguous: r.Ambiguous,
		Problems: r.Problems, Omitted: r.Omitted,
	}
	if out.Problems == nil {
		out.Problems = []string{}
	}
	return out
}

// ReadAnchor returns what Vault remembers of the instance; vault.ErrNotFound when
// that is nothing.
func ReadAnchor(ctx context.Context, c Config) (vault.Anchor, error) {
	o, err := newOffline(ctx, c)
	if err != nil {
		return vault.Anchor{}, err
	}
	defer o.done()
	a, _, err := o.vault.ReadAnchor(ctx, c.Config.Instance)
	if err != nil {
		return vault.Anchor{}, fmt.Errorf("read the rollback anchor: %w", err)
	}
	return a, nil
}

// Behind says what of the store and the audit log on this machine is older than an
// anchor, or not what it names; found false is that Vault has none. It reads the
// files only, while no daemon runs: boltstore.ErrHeld else.
func Behind(ctx context.Context, c *config.Config, a vault.Anchor, found bool) (reasons []string, err error) {
	var here stand
	if _, err := os.Stat(c.Store.Path); !errors.Is(err, fs.ErrNotExist) {
		driver, err := boltstore.Open(ctx, boltstore.Config{Path: c.Store.Path, ReadOnly: true})
		if err != nil {
			return nil, storeError(c.Store.Path, err)
		}
		defer func() { err = errors.Join(err, driver.Close()) }()
		if here, err = standOf(ctx, driver); err != nil {
			return nil, err
		}
	}
	return here.behind(a, found, func(p audit.Position) (bool, error) { return audit.Holds(ctx, c.Audit.Path, p) })
}

// AuditOf is what an anchor says of the audit log: a line that the log must have,
// and the key that signs it.
func AuditOf(a vault.Anchor) (audit.Position, ed25519.PublicKey, error) {
	key, err := hex.DecodeString(a.AuditKey)
	if a.AuditSequence == 0 || err != nil || len(key) != ed25519.PublicKeySize {
		return audit.Position{}, nil, errors.New("what Vault remembers names no line of an audit log")
	}
	p, err := positionOf(a)
	if err != nil {
		return audit.Position{}, nil, fmt.Errorf("what Vault remembers of the audit log: %w", err)
	}
	return p, key, nil
}
