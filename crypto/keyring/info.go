package keyring

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// Info is what a blob says without its keys.
type Info struct {
	Exists      bool // false: there is no keyring yet, and all else is zero
	StoreID     seal.StoreID
	Incarnation uint64
	Generation  uint64            // from 1, +1 with every change of the keyring
	Version     uint64            // of the blob, as the driver counts
	Digest      [sha256.Size]byte // SHA-256 of the blob
}

// Peek reads the blob without Vault, and so without proof: its HMAC is not
// checked, and whoever can write the store can write what Peek says. The error
// matches [ErrDamaged] when the blob is no keyring.
func Peek(ctx context.Context, b Blob) (Info, error) {
	l, err := load(ctx, b)
	if err != nil || l == nil {
		return Info{}, err
	}
	return info(l.doc, l.version, l.sum), nil
}

func info(d *document, version uint64, sum [sha256.Size]byte) Info {
	return Info{
		Exists:      true,
		StoreID:     d.store,
		Incarnation: d.incarnation,
		Generation:  d.generation,
		Version:     version,
		Digest:      sum,
	}
}

// Info is of the blob that the keys came from, whose HMAC was checked.
func (k *Keyring) Info() Info {
	defer k.mu.RUnlock()
	h := k.use()
	return info(h.doc, h.version, h.sum)
}

// WrappedKey is one key as it stands in the blob. Nothing of it is secret.
type WrappedKey struct {
	Class   Class
	ID      seal.KeyID
	State   State
	Wrapped string    // by the Wrapper; "" when the key is removed
	Created time.Time // to the second
	Since   time.Time // when it came into its state; to the second
}

// List names all keys of the blob, removed ones too, in the order of class and id.
func (k *Keyring) List() []WrappedKey {
	defer k.mu.RUnlock()
	entries := k.use().doc.entries
	out := make([]WrappedKey, len(entries))
	for i, e := range entries {
		out[i] = WrappedKey{
			Class: e.class, ID: e.id, State: e.state, Wrapped: e.wrapped,
			Created: time.Unix(e.created, 0).UTC(), Since: time.Unix(e.since, 0).UTC(),
		}
	}
	return out
}

// MAC is HMAC-SHA256 under a key of its own for that purpose, derived from the
// index key: it lives as long as the store, and goes with its backups. The same
// purpose has the same key, "backup" is in use. The MAC is the caller's to wipe.
func (k *Keyring) MAC(purpose string) secret.MAC {
	defer k.mu.RUnlock()
	h := k.use()
	return submac(h.derived.index, h.doc.store, labelMAC, purpose, secret.NewMAC)
}
