package keyring

import (
	"crypto/sha256"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// Memory is the unwrapped keys of a store, for an [Open] that cannot ask the
// Wrapper. It is as secret as everything in the store, and is to be kept only
// where nothing outlives the machine's power.
type Memory struct {
	StoreID seal.StoreID
	Keys    []RememberedKey // in the order of class and id
}

// RememberedKey is one unwrapped key.
type RememberedKey struct {
	Class Class
	ID    seal.KeyID
	Key   secret.Text // 32 bytes
	// Check binds the key to the index key, which the blob's HMAC proves: a memory
	// that was put together of parts, or damaged, does not open, and nothing is
	// sealed under a key that would be gone with it. It is
	// HMAC(memory MAC key, enc(class, id, key)).
	Check [sha256.Size]byte
}

// Wipe clears the keys.
func (m Memory) Wipe() {
	for _, k := range m.Keys {
		k.Key.Wipe()
	}
}

// Memory returns copies of all keys that are held, to be wiped by the caller.
// Wiped classes are left out; index and audit are always there.
func (k *Keyring) Memory() Memory {
	defer k.mu.RUnlock()
	h := k.use()
	m := Memory{StoreID: h.doc.store}
	for _, e := range h.doc.entries {
		key, ok := h.text(e)
		if !ok {
			continue
		}
		r := RememberedKey{Class: e.class, ID: e.id, Key: clone(key)}
		r.Check = r.sum(h.derived.memory)
		m.Keys = append(m.Keys, r)
	}
	return m
}

// text is the key of an entry, as it is held; false when it is not.
func (h *held) text(e entry) (secret.Text, bool) {
	switch e.class {
	case Index:
		return h.derived.index, true
	case Audit:
		return h.derived.audit, true
	}
	key, ok := h.keys[e.id]
	return key.text, ok
}
