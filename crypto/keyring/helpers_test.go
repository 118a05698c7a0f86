package keyring

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// transit wraps in this process as Transit does in Vault: AES-256-GCM, the
// context bound as associated data.
type transit struct {
	aead cipher.AEAD

	mu      sync.Mutex
	calls   int
	failAt  int    // fail this call and every later one; 0 never
	deny    string // "wrap" or "unwrap" always fail
	wrapped [][]byte
	spoil   func([]byte) []byte // changes what Unwrap yields
	latest  int                 // the version that Wrap wraps with
	minimum int                 // the lowest that Unwrap opens
	beside  func()              // called by Wrap, with nothing locked
	given   []secret.Text       // what Unwrap yielded
}

var (
	errTransit = errors.New("transit says no")
	errTooOld  = fmt.Errorf("%w: too old", errTransit)
)

func tooOld(err error) bool { return errors.Is(err, errTooOld) }
func away(err error) bool   { return errors.Is(err, errTransit) && !tooOld(err) }

func newTransit(t testing.TB, passphrase string) *transit {
	t.Helper()
	block, err := aes.NewCipher([]byte((passphrase + strings.Repeat(".", 32))[:32]))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return &transit{aead: aead, latest: 1, minimum: 1}
}

func (w *transit) call(what string) error {
	w.calls++
	if w.deny == what || w.failAt > 0 && w.calls >= w.failAt {
		return errTransit
	}
	return nil
}

func (w *transit) Wrap(_ context.Context, key secret.Text, ctx []byte) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.beside != nil {
		w.mu.Unlock()
		w.beside()
		w.mu.Lock()
	}
	if err := w.call("wrap"); err != nil {
		return "", err
	}
	w.wrapped = append(w.wrapped, bytes.Clone(key.Reveal()))
	nonce := make([]byte, w.aead.NonceSize())
	rand.Read(nonce)
	return fmt.Sprintf("test:v%d:", w.latest) + base64.StdEncoding.EncodeToString(w.aead.Seal(nonce, nonce, key.Reveal(), ctx)), nil
}

func (w *transit) Unwrap(_ context.Context, wrapped string, ctx []byte) (secret.Text, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.call("unwrap"); err != nil {
		return secret.Text{}, err
	}
	if wrappedBy(wrapped) < w.minimum {
		return secret.Text{}, errTooOld
	}
	b, err := base64.StdEncoding.DecodeString(wrapped[strings.LastIndex(wrapped, ":")+1:])
	if err != nil || len(b) < w.aead.NonceSize() {
		return secret.Text{}, errTransit
	}
	out, err := w.aead.Open(nil, b[:w.aead.NonceSize()], b[w.aead.NonceSize():], ctx)
	if err != nil {
		return secret.Text{}, errTransit
	}
	if w.spoil != nil {
		out = w.spoil(out)
	}
	w.given = append(w.given, secret.New(out))
	return w.given[len(w.given)-1], nil
}

// allWiped fails unless everything that Unwrap yielded was wiped.
func (w *transit) allWiped(t testing.TB, after string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.given) == 0 {
		t.Errorf("%s: nothing was unwrapped", after)
	}
	for i, key := range w.given {
		if !bytes.Equal(key.Reveal(), make([]byte, key.Len())) {
			t.Errorf("%s: key %d of %d was not wiped", after, i, len(w.given))
		}
	}
	w.given = nil
}

// wrappedBy is the version in a wrapped form; a large one where there is none.
func wrappedBy(wrapped string) int {
	var n int
	if _, err := fmt.Sscanf(wrapped, "test:v%d:", &n); err != nil {
		return 1 << 30
	}
	return n
}

func (w *transit) set(change func(*transit)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// memory keeps the blob in memory, with compare-and-swap.
type memory struct {
	mu      sync.Mutex
	blob    []byte
	version uint64

	loadErr       error
	swapErr       error
	swapErrAfter  bool   // swapErr, but the swap took effect
	afterLoad     func() // called with nothing locked
	loads, stores int
}

func (m *memory) LoadKeyring(context.Context) ([]byte, uint64, error) {
	m.mu.Lock()
	blob, version, err, after := bytes.Clone(m.blob), m.version, m.loadErr, m.afterLoad
	m.loads++
	m.mu.Unlock()
	if after != nil {
		after()
	}
	return blob, version, err
}

func (m *memory) SwapKeyring(_ context.Context, old uint64, blob []byte) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.swapErr != nil && !m.swapErrAfter {
		return 0, m.swapErr
	}
	if old != m.version {
		return 0, ErrConflict
	}
	m.blob, m.version = bytes.Clone(blob), m.version+1
	m.stores++
	return m.version, m.swapErr
}

func (m *memory) put(blob []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blob, m.version = bytes.Clone(blob), m.version+1
}

func (m *memory) get() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.blob)
}

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testNow() time.Time { return testTime }

func tryOpen(t testing.TB, m *memory, w *transit) (*Keyring, error) {
	t.Helper()
	return Open(t.Context(), Config{Blob: m, Wrapper: w, Now: testNow, TooOld: tooOld})
}

func mustOpen(t testing.TB, m *memory, w *transit) *Keyring {
	t.Helper()
	k, err := tryOpen(t, m, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func fresh(t testing.TB) (*Keyring, *memory, *transit) {
	t.Helper()
	m, w := &memory{}, newTransit(t, "passphrase-of-the-test")
	return mustOpen(t, m, w), m, w
}

// content is the document in m.
func content(t testing.TB, m *memory) *document {
	t.Helper()
	d, _, _, err := decode(m.get())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// advance writes a later document with a right MAC, as a rotation will.
func advance(t testing.TB, k *Keyring, m *memory, change func(*document)) {
	t.Helper()
	d := content(t, m)
	d.generation++
	change(d)
	m.put(d.encode(k.snapshotMAC()))
}

func (k *Keyring) snapshotMAC() secret.MAC {
	k.reload.Lock()
	defer k.reload.Unlock()
	return k.snapshot().derived.mac
}

// rotate makes a new active key of class; the old one only opens from then on.
func rotate(t testing.TB, w *transit, d *document, class Class) (old, fresh seal.KeyID) {
	t.Helper()
	e := entry{class: class, state: Active, created: testTime.Unix() + 1, since: testTime.Unix() + 1}
	rand.Read(e.id[:])
	var err error
	if e.wrapped, err = w.Wrap(t.Context(), newKey(), wrapContext(d.store, class, e.id)); err != nil {
		t.Fatal(err)
	}
	place := 0
	for i := range d.entries {
		o := &d.entries[i]
		if o.class == class && o.state == Active {
			old, o.state, o.since = o.id, DecryptOnly, e.since
		}
		if o.before(e) {
			place = i + 1
		}
	}
	d.entries = append(d.entries[:place:place], append([]entry{e}, d.entries[place:]...)...)
	return old, e.id
}

func remove(d *document, id seal.KeyID) {
	e := d.find(id)
	e.state, e.wrapped = Removed, ""
}

// Key is a copy of the key that OpenBox would open with.
func (k *Keyring) Key(class Class, id seal.KeyID) (secret.Text, error) {
	defer k.mu.RUnlock()
	key, err := k.use().find(class, id)
	if err != nil {
		return secret.Text{}, err
	}
	return clone(key.text), nil
}

func activeID(t testing.TB, k *Keyring, class Class) seal.KeyID {
	t.Helper()
	id, _, err := k.Active(class)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
