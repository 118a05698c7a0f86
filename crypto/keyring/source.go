package keyring

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// source is where unwrapped keys come from. key yields a Text of 32 bytes that is
// the caller's. vouch is called with the memory MAC key of a blob whose HMAC was
// found right, before any key but the index key is asked for.
type source interface {
	key(ctx context.Context, d *document, e entry) (secret.Text, error)
	vouch(secret.MAC)
}

// viaWrapper asks the Wrapper for every key. Its context binds each to its place.
type viaWrapper struct{ Wrapper }

func (viaWrapper) vouch(secret.MAC) {}

func (w viaWrapper) key(ctx context.Context, d *document, e entry) (secret.Text, error) {
	key, err := w.Unwrap(ctx, e.wrapped, wrapContext(d.store, e.class, e.id))
	if err != nil {
		return secret.Text{}, fmt.Errorf("unwrap %s key %s of store %s: %w", e.class, e.id, d.store, err)
	}
	if key.Len() != seal.KeySize {
		key.Wipe()
		return secret.Text{}, fmt.Errorf("unwrap %s key %s of store %s: %w: it has not %d bytes", e.class, e.id, d.store, ErrDamaged, seal.KeySize)
	}
	return key, nil
}

// errAway is returned by a source for a data key that can do without.
var errAway = errors.New("the key is not in memory, and the wrapper is away")

// recalled takes keys from memory first. Once the Wrapper was away it is not asked
// again: each question may cost its timeout.
type recalled struct {
	memory  *Memory
	wrapper viaWrapper
	away    func(error) bool

	mac  *secret.MAC // nil until vouch
	gone error       // why the Wrapper is away
}

func (r *recalled) vouch(mac secret.MAC) { r.mac = &mac }

func (r *recalled) key(ctx context.Context, d *document, e entry) (secret.Text, error) {
	for _, m := range r.memory.Keys {
		if m.Class == e.class && m.ID == e.id {
			return r.checked(d, m)
		}
	}
	if r.gone == nil {
		key, err := r.wrapper.key(ctx, d, e)
		if err == nil || !r.away(err) {
			return key, err
		}
		r.gone = err
	}
	if e.class.data() {
		return secret.Text{}, errAway
	}
	return secret.Text{}, fmt.Errorf("the %s key is not in memory: %w", e.class, r.gone)
}

// checked is a copy of m's key. The index key is proved by the blob's HMAC, and
// all others by what the index key said of them.
func (r *recalled) checked(d *document, m RememberedKey) (secret.Text, error) {
	if m.Key.Len() != seal.KeySize {
		return secret.Text{}, fmt.Errorf("recall %s key %s of store %s: %w: it has not %d bytes", m.Class, m.ID, d.store, ErrDamaged, seal.KeySize)
	}
	if r.mac != nil {
		if sum := m.sum(*r.mac); !hmac.Equal(sum[:], m.Check[:]) {
			return secret.Text{}, fmt.Errorf("recall %s key %s of store %s: %w: it is not the one that was remembered", m.Class, m.ID, d.store, ErrDamaged)
		}
	}
	return clone(m.Key), nil
}
