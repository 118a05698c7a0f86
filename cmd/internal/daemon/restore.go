package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/vault"
)

// BackupReport is what a look at a backup brought.
type BackupReport struct {
	Backup store.Backup
	Check  api.StoreCheck
	// WrappedUnder is the lowest version of the Transit key that one of its keys is
	// wrapped under: once Transit's min_decryption_version is above it, the backup
	// opens no longer. MinDecryption and Latest are Transit's now.
	WrappedUnder, MinDecryption, Latest int
	// Anchor is what Vault remembers of the instance; Anchored false: nothing.
	Anchor   vault.Anchor
	Anchored bool
	// Next is the incarnation that a store restored from the backup begins.
	Next uint64
}

// ErrBackupDead is returned for a backup whose keys Vault opens no longer.
var ErrBackupDead = errors.New("the backup opens no longer: its keys are wrapped under a version of the Transit key below min_decryption_version")

// VerifyBackup proves that a backup opens: every box in it, with the keys that
// Vault unwraps. It touches no store.
func VerifyBackup(ctx context.Context, c Config, r io.ReaderAt) (BackupReport, error) {
	o, err := newOffline(ctx, c)
	if err != nil {
		return BackupReport{}, err
	}
	defer o.done()
	report, _, err := o.verify(ctx, r)
	return report, err
}

func (o *offline) verify(ctx context.Context, r io.ReaderAt) (out BackupReport, version int, err error) {
	lowest := 0
	backup, report, err := store.ReadBackup(ctx, r, func(ctx context.Context, blob keyring.Blob) (*keyring.Keyring, error) {
		keys, err := o.keys(ctx, blob)
		if err == nil {
			lowest = oldest(keys)
		}
		return keys, err
	})
	if tooOld(err) {
		return out, 0, fmt.Errorf("%w: %w", ErrBackupDead, err)
	}
	if err != nil {
		return out, 0, fmt.Errorf("read the backup: %w", err)
	}
	out = BackupReport{Backup: backup, Check: asCheck(report), WrappedUnder: lowest}
	state, err := o.vault.TransitState(ctx)
	if err != nil {
		return out, 0, fmt.Errorf("ask about the Transit key: %w", err)
	}
	out.MinDecryption, out.Latest = state.MinDecryption, state.Latest
	a, version, err := o.vault.ReadAnchor(ctx, o.Config.Config.Instance)
	if err != nil && !errors.Is(err, vault.ErrNotFound) {
		return out, 0, fmt.Errorf("read the rollback anchor: %w", err)
	}
	out.Anchor, out.Anchored = a, err == nil
	out.Next = max(backup.Incarnation, a.Incarnation) + 1
	return out, version, nil
}

// Restore makes the store of the configuration out of the backup in a file, as a
// new incarnation: what the backup had under way is never sent. It refuses when
// there is a store already. The backup is verified first, and agree is asked with
// what that brought; an error of its ends the restoring before anything is made.
func Restore(ctx context.Context, c Config, backup *os.File, agree func(BackupReport) error) (restored store.Backup, err error) {
	path := c.Config.Store.Path
	if err := noStore(path); err != nil {
		return restored, err
	}
	o, err := newOffline(ctx, c)
	if err != nil {
		return restored, err
	}
	if err := becomeOwner(filepath.Dir(path)); err != nil {
		return restored, err
	}
	report, version, err := o.verify(ctx, backup)
	if err != nil {
		return restored, err
	}
	if !report.Check.OK {
		return restored, fmt.Errorf("the backup has problems (tokenvault store verify shows them): %d", len(report.Check.Problems)+report.Check.Omitted)
	}
	if err := agree(report); err != nil {
		return restored, err
	}
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return restored, fmt.Errorf("read the backup again: %w", err)
	}
	return o.restore(ctx, backup, report.Next, version)
}

// ErrStoreExists is returned by Restore where there is a store already.
var ErrStoreExists = errors.New("there is a store already, which is never overwritten")

func noStore(path string) error {
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return fmt.Errorf("%s: %w", path, ErrStoreExists)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for a store: %w", err)
	}
	return nil
}

func (o *offline) restore(ctx context.Context, backup io.Reader, incarnation uint64, anchorVersion int) (restored store.Backup, err error) {
	path := o.Config.Config.Store.Path
	beside := path + ".restoring"
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return restored, fmt.Errorf("remove what an earlier try left: %w", err)
	}
	driver, err := boltstore.Open(ctx, boltstore.Config{Path: beside, Now: o.Now, Logger: o.Logger})
	if err != nil {
		return restored, fmt.Errorf("make the store: %w", err)
	}
	var anchored vault.Anchor
	restored, err = store.Restore(ctx, backup, driver, o.keys, incarnation)
	if err == nil {
		anchored, err = o.anchorOf(ctx, driver)
	}
	if err = errors.Join(err, driver.Close()); err != nil {
		_ = os.Remove(beside)
		return restored, fmt.Errorf("restore the store: %w", err)
	}
	if err := publish(beside, path); err != nil {
		return restored, fmt.Errorf("put the restored store in its place: %w", err)
	}
	if _, err := o.vault.WriteAnchor(ctx, o.Config.Config.Instance, anchored, anchorVersion); err != nil {
		return restored, fmt.Errorf("the store is restored, but its rollback anchor was not written: the daemon will ask for `tokenvault store accept`: %w", err)
	}
	return restored, nil
}

// anchorOf is the anchor of a store that no daemon has served yet: it names no
// line of an audit log.
func (o *offline) anchorOf(ctx context.Context, driver *boltstore.DB) (vault.Anchor, error) {
	info, err := keyring.Peek(ctx, driver)
	if err != nil {
		return vault.Anchor{}, fmt.Errorf("look at the keys: %w", err)
	}
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	return vault.Anchor{
		StoreID: hex.EncodeToString(info.StoreID[:]), Incarnation: info.Incarnation, Generation: info.Generation,
		KeyringDigest: hex.EncodeToString(info.Digest[:]), Time: now().UTC().Truncate(time.Second), Host: host(),
	}, nil
}

// publish gives a finished file its name, unless that is taken.
func publish(file, name string) error {
	if err := os.Link(file, name); err != nil { // not rename(2): it replaces
		return err
	}
	if err := os.Remove(file); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
