// Package keyring keeps the keys of one store: made once, wrapped by Vault's
// Transit, held in memory unwrapped.
//
// It trusts Transit to unwrap a key only under the context it was wrapped with,
// and the driver to keep a blob durably and to swap it atomically. It does not
// trust the blob's content: the wrapped keys are bound to store, class and key
// id, and an HMAC whose key is itself wrapped covers all of it.
//
// It never writes a key in clear, never shows the index key or the audit key,
// and never puts a removed key back to use. What it holds, and what is prepared of
// it, is in the locked region of [secret.Keep] and nowhere else; what it hands out as
// a copy is on the heap, until the caller wipes it.
package keyring

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Wrapper wraps keys: Vault's Transit. What was wrapped with one context must
// not unwrap with another. A wrapped form has 1 to 4096 bytes, and is not
// secret. Wrap does not keep the key; Unwrap yields a Text of its own every time,
// which the keyring wipes. Calls may be concurrent. Errors are passed on
// (wrapped), so that the caller can tell an outage from a refusal; their text
// must hold no secret.
type Wrapper interface {
	Wrap(ctx context.Context, key secret.Text, context []byte) (wrapped string, err error)
	Unwrap(ctx context.Context, wrapped string, context []byte) (secret.Text, error)
}

// Blob keeps one opaque blob. Calls may be concurrent, from other processes too.
type Blob interface {
	// LoadKeyring returns the blob and its version, or nil and 0 when none was
	// ever swapped in. The caller owns the bytes.
	LoadKeyring(ctx context.Context) (blob []byte, version uint64, err error)
	// SwapKeyring replaces the blob of version old (0: there is none) and returns
	// the new version, which was never one before. It is durable on return. When
	// another version is there now, nothing changes and the error matches
	// [ErrConflict]. Any other error leaves open whether it took effect.
	SwapKeyring(ctx context.Context, old uint64, blob []byte) (version uint64, err error)
}

var (
	// ErrConflict is returned by a [Blob] when the version to replace is not
	// the one that is there.
	ErrConflict = errors.New("keyring was changed by someone else")
	// ErrUnknownKey is returned when the keyring has no such key of that class
	// to open with: never had, or removed.
	ErrUnknownKey = errors.New("no such key")
	// ErrWiped is returned for the keys of a class after [Keyring.Wipe], and for
	// those that an Open from memory could not have unwrapped ([Config].Away), until
	// a [Keyring.Reload] has unwrapped them.
	ErrWiped = errors.New("keys were wiped from memory")
)

// Config is what [Open] needs.
type Config struct {
	Blob    Blob             // required
	Wrapper Wrapper          // required
	Now     func() time.Time // default time.Now; stands in the blob as the time a key was made

	// Memory is what [Keyring.Memory] gave before a restart; default none. Keys of
	// the same store, class and id are taken from it, and the Wrapper is asked for
	// the others only. The caller still owns it. Memory of another store, and any
	// where there is no keyring yet, is not looked at.
	Memory *Memory
	// Away reports whether an error of the Wrapper says that it cannot be reached,
	// and not that it refuses. Beside a Memory of the same store it leaves the data
	// keys that are missing in it wiped, until a Reload. Default: no error does.
	Away func(error) bool
	// TooOld reports whether an error of Unwrap says that the wrapped form is of a
	// version which is not opened any more ([Keyring.Confirm]). Default: no error
	// does.
	TooOld func(error) bool
}

// Keyring holds the unwrapped keys of one store. Its methods may be called
// concurrently, Close last: any other method panics after it, because a key
// that reads as zeros must never seal or name anything.
type Keyring struct {
	blob    Blob
	wrapper Wrapper
	tooOld  func(error) bool

	reload sync.Mutex // one change of held at a time, and Close waits for it

	mu   sync.RWMutex // guards what follows, and the bytes of the keys
	held *held        // nil once closed
}

// held is one version of the keyring, unwrapped.
type held struct {
	doc     *document
	version uint64
	sum     [sha256.Size]byte // of the blob
	derived derived
	active  map[Class]seal.KeyID
	keys    map[seal.KeyID]dataKey // those that are not removed
}

// dataKey is a data key as it came from Vault, and prepared for opening.
type dataKey struct {
	text     secret.Text
	prepared seal.Key
}

func (d dataKey) wipe() {
	d.text.Wipe()
	d.prepared.Wipe()
}

func (h *held) wipe() {
	h.derived.wipe()
	h.wipeKeys()
}

// use locks mu for reading and returns the keys. The caller has deferred the
// unlocking, which a panic here relies on too.
func (k *Keyring) use() *held {
	k.mu.RLock()
	if k.held == nil {
		panic("keyring: used after Close")
	}
	return k.held
}

// StoreID names the store that these keys belong to.
func (k *Keyring) StoreID() seal.StoreID {
	defer k.mu.RUnlock()
	return k.use().doc.store
}

// Incarnation is 1 for a new store, and grows whenever a backup becomes the live
// store. It does not change while a Keyring is in use: [Keyring.Succeed] comes
// before.
func (k *Keyring) Incarnation() uint64 {
	defer k.mu.RUnlock()
	return k.use().doc.incarnation
}

// Version is the version of the blob that the keys came from: the fence. Who
// seals for a write asks for Version before SealBox: then a key that goes out of
// use in between has the write refused, and not slip through.
func (k *Keyring) Version() uint64 {
	defer k.mu.RUnlock()
	return k.use().version
}

// Active returns the key of that class which seals now. The Text is the
// caller's own copy, on the heap: whoever needs its bytes wipes it as soon as he can.
// To seal, [Keyring.SealBox] is enough. Only data classes have one: Public, Private,
// Intent.
func (k *Keyring) Active(class Class) (seal.KeyID, secret.Text, error) {
	defer k.mu.RUnlock()
	id, key, err := k.use().seals(class)
	if err != nil {
		return seal.KeyID{}, secret.Text{}, err
	}
	return id, clone(key.text), nil
}

// Ready is nil when [Keyring.SealBox] of that class has a key. The error matches
// [ErrWiped], or says that it is no class of data keys.
func (k *Keyring) Ready(class Class) error {
	defer k.mu.RUnlock()
	_, _, err := k.use().seals(class)
	return err
}

// SealBox seals under the active key of class, which stays in here; b.Store need not
// be set. The error is one of [Keyring.Ready], or of [seal.Seal].
func (k *Keyring) SealBox(class Class, b seal.Binding, plaintext []byte) ([]byte, error) {
	defer k.mu.RUnlock()
	h := k.use()
	id, key, err := h.seals(class)
	if err != nil {
		return nil, err
	}
	b.Store = h.doc.store
	return key.prepared.Seal(id, b, plaintext)
}

func (h *held) seals(class Class) (seal.KeyID, dataKey, error) {
	if !class.data() {
		return seal.KeyID{}, dataKey{}, fmt.Errorf("active %s key: not a class of data keys", class)
	}
	id := h.active[class]
	key, ok := h.keys[id]
	if !ok {
		return seal.KeyID{}, dataKey{}, fmt.Errorf("active %s key: %w", class, ErrWiped)
	}
	return id, key, nil
}

// OpenBox opens an envelope under the key of that class which it names, active or
// decrypt-only. The key stays in here; b.Store need not be set. The error matches
// [ErrUnknownKey] or [ErrWiped], or is one of [seal.Open].
func (k *Keyring) OpenBox(class Class, b seal.Binding, envelope []byte) ([]byte, error) {
	defer k.mu.RUnlock()
	h := k.use()
	header, err := seal.ParseHeader(envelope)
	if err != nil {
		return nil, err
	}
	key, err := h.find(class, header.Key)
	if err != nil {
		return nil, err
	}
	b.Store = h.doc.store
	return key.prepared.Open(b, envelope)
}

func (h *held) find(class Class, id seal.KeyID) (dataKey, error) {
	e := h.doc.find(id)
	if e == nil || e.class != class || !class.data() || e.state == Removed {
		return dataKey{}, fmt.Errorf("%s key %s: %w", class, id, ErrUnknownKey)
	}
	key, ok := h.keys[id]
	if !ok {
		return dataKey{}, fmt.Errorf("%s key %s: %w", class, id, ErrWiped)
	}
	return key, nil
}

// Wipe clears the data keys of one class from memory, as is due when Vault was
// not heard for too long. A [Keyring.Reload] that reaches Vault brings them back.
// Other classes go on; of Index and Audit nothing is wiped.
func (k *Keyring) Wipe(class Class) {
	k.reload.Lock() // a Reload must not be copying what is wiped
	defer k.reload.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		return
	}
	for _, e := range k.held.doc.entries {
		if e.class == class {
			k.held.keys[e.id].wipe()
			delete(k.held.keys, e.id)
		}
	}
}

// HumanRow is the row of a user, by humanId.
func (k *Keyring) HumanRow(clientID user.ClientID, humanID user.HumanID) seal.RowID {
	defer k.mu.RUnlock()
	return k.use().derived.row(kindHuman, clientID, string(humanID))
}

// ClientUserRow is the row of a user of the newer flow, who is known by
// clientUserId alone.
func (k *Keyring) ClientUserRow(clientID user.ClientID, id user.ClientUserID) seal.RowID {
	defer k.mu.RUnlock()
	return k.use().derived.row(kindClientUser, clientID, string(id))
}

// IndexRow is the entry of the index by clientUserId.
func (k *Keyring) IndexRow(clientID user.ClientID, id user.ClientUserID) seal.RowID {
	defer k.mu.RUnlock()
	return k.use().derived.row(kindIndex, clientID, string(id))
}

// SessionRow is the session id of a session token.
func (k *Keyring) SessionRow(clientID user.ClientID, token secret.Text) seal.RowID {
	defer k.mu.RUnlock()
	return k.use().derived.session(clientID, token)
}

// Subject is the HMAC key of 32 bytes under which the audit log names users. The
// Text is the caller's own copy, on the heap, for it to wipe.
func (k *Keyring) Subject() secret.Text {
	defer k.mu.RUnlock()
	return clone(k.use().derived.subject)
}

// Signer is the key that signs the audit log's checkpoints. It is the caller's
// own copy.
//
// BUG: it is on the heap, and so is what crypto/ed25519 makes of it when it signs, for
// as long as it is in use and until the memory is used again: Go has no way to sign
// from elsewhere (its cache of prepared keys goes by pointers into the heap). Who has
// it can sign a forged audit log; it opens nothing.
func (k *Keyring) Signer() ed25519.PrivateKey {
	defer k.mu.RUnlock()
	return k.use().derived.signer()
}

// Close wipes every key, after a Reload that is under way has ended. A second
// Close does nothing.
func (k *Keyring) Close() {
	k.reload.Lock()
	defer k.reload.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held != nil {
		k.held.wipe()
		k.held = nil
	}
}
