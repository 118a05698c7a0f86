package keyring

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// Open loads the keyring and unwraps its keys, one call of the Wrapper each, but
// for those that Config.Memory has. What comes from memory is believed only if the
// blob's HMAC, and the check of each key, fit the index key in it.
// Where there is no blob it makes a store id and keys, and swaps them in only
// after they were unwrapped again and found whole: a Transit that wraps and does
// not unwrap leaves nothing behind. When someone else made the keyring at the
// same time, the one that was swapped in first is the one that both load.
//
// The error matches [ErrDamaged], or wraps the Blob's or the Wrapper's.
func Open(ctx context.Context, c Config) (*Keyring, error) {
	if c.Blob == nil || c.Wrapper == nil {
		return nil, errors.New("open keyring: Blob and Wrapper are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Away == nil {
		c.Away = never
	}
	if c.TooOld == nil {
		c.TooOld = never
	}
	h, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	return &Keyring{blob: c.Blob, wrapper: c.Wrapper, tooOld: c.TooOld, held: h}, nil
}

func never(error) bool { return false }

func open(ctx context.Context, c Config) (*held, error) {
	l, err := load(ctx, c.Blob)
	if err != nil {
		return nil, err
	}
	if l == nil {
		h, err := create(ctx, c)
		if !errors.Is(err, ErrConflict) {
			return h, err
		}
		if l, err = load(ctx, c.Blob); err != nil {
			return nil, err
		}
		if l == nil {
			return nil, fmt.Errorf("load keyring: made by someone else, and gone again: %w", ErrConflict)
		}
	}
	if c.Memory != nil && c.Memory.StoreID == l.doc.store {
		return l.unlock(ctx, &recalled{memory: c.Memory, wrapper: viaWrapper{c.Wrapper}, away: c.Away})
	}
	return l.unlock(ctx, viaWrapper{c.Wrapper})
}

// create makes the keyring of a new store.
func create(ctx context.Context, c Config) (*held, error) {
	blob, err := compose(ctx, c)
	if err != nil {
		return nil, err
	}
	l, err := parse(blob, 0)
	if err != nil {
		return nil, fmt.Errorf("create keyring: %w", err)
	}
	h, err := l.unlock(ctx, viaWrapper{c.Wrapper})
	if err != nil {
		return nil, fmt.Errorf("create keyring: the new keys do not unwrap: %w", err)
	}
	// The commit point: the keys exist from here on.
	if h.version, err = c.Blob.SwapKeyring(ctx, 0, blob); err != nil {
		h.wipe()
		return nil, fmt.Errorf("create keyring: %w", err)
	}
	return h, nil
}

// compose returns the blob of a new store: a key of each class, wrapped.
func compose(ctx context.Context, c Config) ([]byte, error) {
	now, err := unixSeconds(c.Now())
	if err != nil {
		return nil, fmt.Errorf("create keyring: %w", err)
	}
	d := &document{incarnation: 1, generation: 1}
	rand.Read(d.store[:])
	var sub derived
	defer func() { sub.wipe() }()
	for _, class := range classes {
		e := entry{class: class, state: Active, created: now, since: now}
		rand.Read(e.id[:])
		key := newKey()
		e.wrapped, err = c.Wrapper.Wrap(ctx, key, wrapContext(d.store, class, e.id))
		if err == nil && class == Index {
			sub.fromIndexKey(key, d.store)
		}
		key.Wipe()
		if err != nil {
			return nil, fmt.Errorf("create keyring: wrap the %s key: %w", class, err)
		}
		d.entries = append(d.entries, e)
	}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("create keyring: %w", err)
	}
	return d.encode(sub.mac), nil
}

// encode is the blob of d, which check has passed.
func (d *document) encode(mac secret.MAC) []byte {
	body := d.body()
	sum := mac.Sum(body)
	return append(body, sum[:]...)
}

func (d *document) find(id seal.KeyID) *entry {
	i := slices.IndexFunc(d.entries, func(e entry) bool { return e.id == id })
	if i < 0 {
		return nil
	}
	return &d.entries[i]
}

// loaded is a blob whose form is right and whose MAC is not checked yet.
type loaded struct {
	doc       *document
	body, mac []byte
	version   uint64
	sum       [sha256.Size]byte
}

// load returns nil when there is no blob.
func load(ctx context.Context, b Blob) (*loaded, error) {
	blob, version, err := b.LoadKeyring(ctx)
	if err != nil {
		return nil, fmt.Errorf("load keyring: %w", err)
	}
	if (version == 0) != (len(blob) == 0) {
		return nil, fmt.Errorf("load keyring: %w: %d bytes of version %d", ErrDamaged, len(blob), version)
	}
	if version == 0 {
		return nil, nil
	}
	l, err := parse(blob, version)
	if err != nil {
		return nil, fmt.Errorf("load keyring: %w", err)
	}
	return l, nil
}

func parse(blob []byte, version uint64) (*loaded, error) {
	d, body, mac, err := decode(blob)
	if err != nil {
		return nil, err
	}
	return &loaded{doc: d, body: body, mac: mac, version: version, sum: sha256.Sum256(blob)}, nil
}

// authentic checks the MAC.
func (l *loaded) authentic(key secret.MAC) error {
	if sum := key.Sum(l.body); !hmac.Equal(sum[:], l.mac) {
		return fmt.Errorf("%w: its HMAC does not match", ErrDamaged)
	}
	return nil
}

// unlock unwraps the index key, checks the MAC with it, and only then unwraps
// the others.
func (l *loaded) unlock(ctx context.Context, from source) (*held, error) {
	h := &held{doc: l.doc, version: l.version, sum: l.sum}
	if err := l.unlockInto(ctx, from, h); err != nil {
		h.wipe()
		return nil, err
	}
	return h, nil
}

func (l *loaded) unlockInto(ctx context.Context, from source, h *held) error {
	if err := l.withKey(ctx, from, Index, h.derived.fromIndexKey); err != nil {
		return err
	}
	if err := l.authentic(h.derived.mac); err != nil {
		return fmt.Errorf("open keyring of store %s: %w", l.doc.store, err)
	}
	from.vouch(h.derived.memory)
	if err := l.withKey(ctx, from, Audit, h.derived.fromAuditKey); err != nil {
		return err
	}
	return h.fill(ctx, from, nil)
}

// withKey unwraps the only key of a class for as long as use takes.
func (l *loaded) withKey(ctx context.Context, from source, class Class, use func(secret.Text, seal.StoreID)) error {
	key, err := from.key(ctx, l.doc, l.doc.only(class))
	if err != nil {
		return err
	}
	defer key.Wipe()
	use(key, l.doc.store)
	return nil
}

// only is the entry of a class that has one; check saw to that.
func (d *document) only(class Class) entry {
	return d.entries[slices.IndexFunc(d.entries, func(e entry) bool { return e.class == class })]
}

// fill gets the data keys of h.doc, those that have does not hold already. What
// have holds is copied. What is away is left out, and so is wiped. On an error h
// has what came before it.
func (h *held) fill(ctx context.Context, from source, have map[seal.KeyID]dataKey) error {
	h.active, h.keys = map[Class]seal.KeyID{}, map[seal.KeyID]dataKey{}
	for _, e := range h.doc.entries {
		if !e.class.data() || e.state == Removed {
			continue
		}
		if e.state == Active {
			h.active[e.class] = e.id
		}
		if err := h.get(ctx, from, e, have); err != nil && !errors.Is(err, errAway) {
			return err
		}
	}
	return nil
}

// get keeps the key of e: of have, else from the source, whose copy it wipes.
func (h *held) get(ctx context.Context, from source, e entry, have map[seal.KeyID]dataKey) error {
	if old, ok := have[e.id]; ok {
		return h.add(e, old.text)
	}
	key, err := from.key(ctx, h.doc, e)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return h.add(e, key)
}

// add keeps a copy of key, which has the right length.
func (h *held) add(e entry, key secret.Text) error {
	prepared, err := seal.KeepKey(key, h.doc.store)
	if err != nil {
		return fmt.Errorf("%s key %s of store %s: %w", e.class, e.id, h.doc.store, err)
	}
	h.keys[e.id] = dataKey{text: keep(key), prepared: prepared}
	return nil
}

// Reload loads the blob again, after a write was refused because the keyring is
// no longer of [Keyring.Version]. It asks the Wrapper only for keys that are new
// to it. Until it succeeds everything stays as it was.
//
// The error matches [ErrDamaged] when what is there now cannot have come from
// what was there before: another store or incarnation, an earlier generation, a
// key that is missing or went back in its life.
func (k *Keyring) Reload(ctx context.Context) error {
	k.reload.Lock()
	defer k.reload.Unlock()
	old := k.snapshot()
	l, err := load(ctx, k.blob)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if l == nil {
		return fmt.Errorf("reload keyring of store %s: %w: it is gone", old.doc.store, ErrDamaged)
	}
	if err := old.precedes(l); err != nil {
		return fmt.Errorf("reload keyring of store %s: %w", old.doc.store, err)
	}
	next := &held{doc: l.doc, version: l.version, sum: l.sum, derived: old.derived}
	if err := next.fill(ctx, viaWrapper{k.wrapper}, old.keys); err != nil {
		next.wipeKeys()
		return fmt.Errorf("reload: %w", err)
	}
	k.mu.Lock()
	k.held = next
	old.wipeKeys() // nobody reads them now: every reader holds mu
	k.mu.Unlock()
	return nil
}

// snapshot is what is held. Only a holder of k.reload may use it without k.mu.
func (k *Keyring) snapshot() *held {
	defer k.mu.RUnlock()
	return k.use()
}

func (h *held) wipeKeys() {
	for _, key := range h.keys {
		key.wipe()
	}
}

// precedes reports why l cannot be a later keyring of the same store.
func (h *held) precedes(l *loaded) error {
	if err := l.authentic(h.derived.mac); err != nil {
		return err
	}
	was, is := h.doc, l.doc
	switch {
	case is.store != was.store:
		return fmt.Errorf("%w: it is store %s", ErrDamaged, is.store)
	case is.incarnation != was.incarnation:
		return fmt.Errorf("%w: incarnation %d became %d", ErrDamaged, was.incarnation, is.incarnation)
	case is.generation < was.generation, is.generation == was.generation && l.sum != h.sum:
		return fmt.Errorf("%w: generation %d became another %d", ErrDamaged, was.generation, is.generation)
	}
	for _, e := range was.entries {
		now := is.find(e.id)
		if now == nil || now.class != e.class || !e.state.MayBecome(now.state) {
			return fmt.Errorf("%w: %s key %s is missing or went back from %s", ErrDamaged, e.class, e.id, e.state)
		}
	}
	return nil
}
