package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// confirmTries bounds how often Confirm starts over because someone else changed
// the keyring meanwhile.
const confirmTries = 3

// Confirm asks the Wrapper for every key that is not removed and compares with
// what is held: after an Open from memory this is the Wrapper's first word, and
// later it shows whether it still opens them. A key whose wrapped form is too old
// ([Config].TooOld) and which is held is wrapped anew, unwrapped again to be sure,
// and swapped in under a higher generation, all such keys at once. rewrapped says
// how many; 0 with an error, which leaves open whether the swap took effect only
// when it is the Blob's.
//
// The error matches [ErrDamaged] when a key is another than the one held: nothing
// is to be sealed any more. Otherwise it wraps the Wrapper's or the Blob's, and
// everything stays as it was. Wipe and Reload wait for it.
func (k *Keyring) Confirm(ctx context.Context) (rewrapped int, err error) {
	for range confirmTries {
		rewrapped, err = k.confirm(ctx)
		if !errors.Is(err, ErrConflict) {
			return rewrapped, err
		}
		if err := k.Reload(ctx); err != nil {
			return 0, fmt.Errorf("confirm: %w", err)
		}
	}
	return 0, err
}

func (k *Keyring) confirm(ctx context.Context) (int, error) {
	k.reload.Lock()
	defer k.reload.Unlock()
	h := k.snapshot()
	old, err := k.compare(ctx, h)
	if err != nil || len(old) == 0 {
		return 0, err
	}
	next := h.doc.clone()
	for _, e := range old {
		if next.find(e.id).wrapped, err = k.wrapAnew(ctx, h, e); err != nil {
			return 0, err
		}
	}
	if err := k.swap(ctx, h, next); err != nil {
		return 0, fmt.Errorf("confirm keyring of store %s: %w", h.doc.store, err)
	}
	return len(old), nil
}

// compare returns the entries that are too old for the Wrapper.
func (k *Keyring) compare(ctx context.Context, h *held) (old []entry, err error) {
	for _, e := range h.doc.entries {
		if e.state == Removed {
			continue
		}
		own, held := h.text(e)
		key, err := viaWrapper{k.wrapper}.key(ctx, h.doc, e)
		if err != nil {
			if held && k.tooOld(err) {
				old = append(old, e)
				continue
			}
			return nil, fmt.Errorf("confirm: %w", err)
		}
		same := !held || key.Equal(own)
		key.Wipe()
		if !same {
			return nil, fmt.Errorf("confirm %s key %s of store %s: %w: it is not the one that is held", e.class, e.id, h.doc.store, ErrDamaged)
		}
	}
	return old, nil
}

// wrapAnew returns a wrapped form of e's key that was seen to unwrap.
func (k *Keyring) wrapAnew(ctx context.Context, h *held, e entry) (string, error) {
	own, _ := h.text(e)
	wrapped, err := k.wrapper.Wrap(ctx, own, wrapContext(h.doc.store, e.class, e.id))
	if err != nil {
		return "", fmt.Errorf("wrap %s key %s of store %s anew: %w", e.class, e.id, h.doc.store, err)
	}
	e.wrapped = wrapped
	key, err := viaWrapper{k.wrapper}.key(ctx, h.doc, e)
	if err != nil {
		return "", fmt.Errorf("wrapped anew: %w", err)
	}
	defer key.Wipe()
	if !key.Equal(own) {
		return "", fmt.Errorf("wrap %s key %s of store %s anew: another key unwraps", e.class, e.id, h.doc.store)
	}
	return wrapped, nil
}

// Succeed gives the store a higher incarnation: a backup, or a store that an
// administrator accepted, becomes the live one, and what was under way in the
// other is not gone on with. It comes before any store or audit log is opened over
// this keyring. An error leaves the keyring as it was, and open whether the blob is
// when it is the Blob's.
func (k *Keyring) Succeed(ctx context.Context, incarnation uint64) error {
	k.reload.Lock()
	defer k.reload.Unlock()
	h := k.snapshot()
	if incarnation <= h.doc.incarnation {
		return fmt.Errorf("succeed keyring of store %s: incarnation %d does not come after %d", h.doc.store, incarnation, h.doc.incarnation)
	}
	next := h.doc.clone()
	next.incarnation = incarnation
	if err := k.swap(ctx, h, next); err != nil {
		return fmt.Errorf("succeed keyring of store %s: %w", h.doc.store, err)
	}
	return nil
}

func (d *document) clone() *document {
	c := *d
	c.entries = slices.Clone(d.entries)
	return &c
}

// swap replaces the blob with one of the next generation, and what is held with
// it: the same keys under a document that differs in nothing that a key hangs on.
// The caller holds k.reload.
func (k *Keyring) swap(ctx context.Context, h *held, next *document) error {
	next.generation++
	if err := next.check(); err != nil {
		return err
	}
	blob := next.encode(h.derived.mac)
	l, err := parse(blob, 0)
	if err != nil {
		return err
	}
	// The commit point: whoever loads the keyring finds this one from here on.
	version, err := k.blob.SwapKeyring(ctx, h.version, blob)
	if err != nil {
		return err
	}
	now := *h
	now.doc, now.version, now.sum = l.doc, version, l.sum
	k.mu.Lock()
	k.held = &now
	k.mu.Unlock()
	return nil
}
