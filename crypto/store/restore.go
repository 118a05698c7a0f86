package store

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/tokenvault/tokenvault/crypto/keyring"
)

// Restore fills d, which must be empty, with a backup. The store that it becomes
// is of a new incarnation, which must be above the backup's and any that the store
// had since. So the intents that come along are of another incarnation: they were
// sent, or not, by a store that has gone on without them, and are never sent again.
// Until d's keyring is there, which comes last, and after everything was found to
// be whole and authentic, d is no store: one that failed halfway is thrown away.
//
// The error matches [ErrBackup] when the backup is damaged, or is open's or the
// driver's. Boxes are not opened: [ReadBackup] does before, or Check afterwards.
func Restore(ctx context.Context, r io.Reader, d Driver, open OpenKeyring, incarnation uint64) (Backup, error) {
	in := newBackupReader(r)
	b, arrival, blob, err := in.header(ctx)
	if err != nil {
		return Backup{}, fmt.Errorf("restore a backup: %w", err)
	}
	if incarnation <= b.Incarnation {
		return b, fmt.Errorf("restore a backup of incarnation %d: incarnation %d is not above it", b.Incarnation, incarnation)
	}
	held := &heldBlob{blob: blob, version: 1}
	keys, err := open(ctx, held)
	if err != nil {
		return b, fmt.Errorf("restore a backup: open its keyring: %w", err)
	}
	defer keys.Close()
	// In memory, before d knows of any keyring: there is no moment at which d is a
	// store of the old incarnation.
	if err := keys.Succeed(ctx, incarnation); err != nil {
		return b, fmt.Errorf("restore a backup: %w", err)
	}
	if blob, _, err = held.LoadKeyring(ctx); err != nil {
		return b, fmt.Errorf("restore a backup: %w", err)
	}
	next := func() (Table, Row, bool, error) {
		h, value, ok, err := in.next()
		if err != nil || ok {
			return tableOf(h), Row{Key: h.key, Revision: h.revision, Value: value}, ok, err
		}
		tail, err := in.end(&b)
		if err == nil {
			err = tail.authentic(keys)
		}
		return 0, Row{}, false, err
	}
	if err := d.Load(ctx, Image{Blob: blob, Arrival: arrival, Next: next}); err != nil {
		return b, fmt.Errorf("restore a backup: %w", err)
	}
	return b, nil
}

// tableOf is the table of a head that was read; Users for none.
func tableOf(h rowHead) Table { return backupTables[max(h.code, 1)-1] }

// heldBlob is a keyring's blob that stands in memory.
type heldBlob struct {
	mu      sync.Mutex
	blob    []byte
	version uint64
}

// LoadKeyring implements keyring.Blob.
func (h *heldBlob) LoadKeyring(context.Context) (blob []byte, version uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.blob), h.version, nil
}

// SwapKeyring implements keyring.Blob.
func (h *heldBlob) SwapKeyring(_ context.Context, old uint64, blob []byte) (version uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old != h.version {
		return 0, keyring.ErrConflict
	}
	h.blob, h.version = slices.Clone(blob), old+1
	return h.version, nil
}
