package keyring

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

func mustReload(t testing.TB, k *Keyring) {
	t.Helper()
	if err := k.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestLifeOfAKey: active, decrypt-only, removed, seen by a keyring that was open
// all the time and by one that opens afterwards.
func TestLifeOfAKey(t *testing.T) {
	k, m, w := fresh(t)
	var old, now seal.KeyID
	first := activeID(t, k, Private)
	_, bytesOfOld, _ := k.Active(Private)
	advance(t, k, m, func(d *document) { old, now = rotate(t, w, d, Private) })
	if activeID(t, k, Private) != first || k.Version() != 1 {
		t.Error("it changed before Reload")
	}
	w.set(func(w *transit) { w.calls = 0 })
	mustReload(t, k)
	if w.calls != 1 {
		t.Errorf("%d keys were unwrapped, and one is new", w.calls)
	}
	for name, k := range map[string]*Keyring{"reloaded": k, "opened": mustOpen(t, m, w)} {
		opener, err := k.Key(Private, old)
		if old != first || activeID(t, k, Private) != now || err != nil || !opener.Equal(bytesOfOld) || k.Version() != 2 {
			t.Errorf("%s: the old key does not open, or still seals: %v", name, err)
		}
	}
	inside := k.snapshot().keys[old]
	advance(t, k, m, func(d *document) { remove(d, old) })
	mustReload(t, k)
	for name, k := range map[string]*Keyring{"reloaded": k, "opened": mustOpen(t, m, w)} {
		if _, err := k.Key(Private, old); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("%s: a removed key: %v", name, err)
		}
		if activeID(t, k, Private) != now || k.Version() != 3 {
			t.Errorf("%s: the active key changed", name)
		}
	}
	if inside.text.Equal(bytesOfOld) || opens(inside.prepared, k.StoreID()) {
		t.Error("a removed key is still in memory")
	}
}

func TestReloadOfTheSame(t *testing.T) {
	k, _, w := fresh(t)
	w.set(func(w *transit) { w.deny = "unwrap" })
	before := activeID(t, k, Public)
	mustReload(t, k) // asks Transit for nothing
	if activeID(t, k, Public) != before {
		t.Error("it changed")
	}
	if _, _, err := k.Active(Private); err != nil {
		t.Error(err)
	}
}

// TestReloadRefuses: what cannot have come from what was there. Everything stays
// as it was.
func TestReloadRefuses(t *testing.T) {
	for name, alter := range map[string]func(testing.TB, *transit, *document){
		"earlier generation": func(_ testing.TB, _ *transit, d *document) { d.generation = 1 },
		"same generation": func(_ testing.TB, _ *transit, d *document) {
			d.generation = 2
			d.entries[0].created++
			d.entries[0].since++
		},
		"incarnation": func(_ testing.TB, _ *transit, d *document) { d.incarnation++ },
		"revived": func(_ testing.TB, _ *transit, d *document) {
			for i := range d.entries {
				switch e := &d.entries[i]; {
				case e.class != Private:
				case e.state == Active:
					e.state = DecryptOnly
				default:
					e.state, e.since = Active, e.created
				}
			}
		},
		"forgotten": func(_ testing.TB, _ *transit, d *document) {
			d.entries = slices.DeleteFunc(d.entries, func(e entry) bool { return e.state == DecryptOnly })
		},
		"store":      func(_ testing.TB, _ *transit, d *document) { d.store[0] ^= 1 },
		"new index":  func(_ testing.TB, _ *transit, d *document) { d.find(indexID(d)).id = seal.KeyID{0xFF} },
		"other form": func(_ testing.TB, _ *transit, d *document) { d.entries[0].wrapped = "" },
	} {
		k, m, w := fresh(t)
		advance(t, k, m, func(d *document) { rotate(t, w, d, Private) })
		mustReload(t, k)
		active, version := activeID(t, k, Private), k.Version()
		advance(t, k, m, func(d *document) { alter(t, w, d) })
		if err := k.Reload(t.Context()); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if activeID(t, k, Private) != active || k.Version() != version {
			t.Errorf("%s: it changed all the same", name)
		}
	}
}

func indexID(d *document) seal.KeyID {
	return d.entries[slices.IndexFunc(d.entries, func(e entry) bool { return e.class == Index })].id
}

func TestReloadOfAnotherBlob(t *testing.T) {
	k, m, w := fresh(t)
	old := m.get()
	advance(t, k, m, func(d *document) { rotate(t, w, d, Public) })
	mustReload(t, k)
	d := content(t, m)
	d.generation++
	m.put(d.encode(secret.NewMAC(newKey())))
	if err := k.Reload(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("a blob under another MAC key: %v", err)
	}
	m.put(old)
	if err := k.Reload(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("an older blob: %v", err)
	}
	other := &memory{}
	mustOpen(t, other, w)
	m.put(other.get())
	if err := k.Reload(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("another store's blob: %v", err)
	}
	m.mu.Lock()
	m.blob, m.version = nil, 0
	m.mu.Unlock()
	if err := k.Reload(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("no blob: %v", err)
	}
	activeID(t, k, Public)
}

func TestReloadInAnOutage(t *testing.T) {
	k, m, w := fresh(t)
	before := activeID(t, k, Private)
	advance(t, k, m, func(d *document) { rotate(t, w, d, Private); rotate(t, w, d, Public) })
	w.set(func(w *transit) { w.deny = "unwrap" })
	if err := k.Reload(t.Context()); !errors.Is(err, errTransit) {
		t.Errorf("got %v", err)
	}
	if _, key, err := k.Active(Private); err != nil || key.IsZero() || activeID(t, k, Private) != before {
		t.Errorf("the old keys are gone: %v", err)
	}
	w.set(func(w *transit) { w.deny = "" })
	mustReload(t, k)
	if activeID(t, k, Private) == before {
		t.Error("the new key is not there")
	}
}

// TestSealingGoesOn while the keyring is reloaded and keys are removed: every
// key that comes out is whole, and what was sealed with it opens.
func TestSealingGoesOn(t *testing.T) {
	k, m, w := fresh(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			b := seal.Binding{Store: k.StoreID(), Purpose: seal.Private, Row: k.HumanRow("app", "id"), Revision: 1}
			for {
				select {
				case <-stop:
					return
				default:
				}
				id, key, err := k.Active(Private)
				if err != nil {
					t.Error(err)
					return
				}
				envelope, err := seal.Seal(key, id, b, nil)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = k.OpenBox(Private, b, envelope)
				if errors.Is(err, ErrUnknownKey) {
					continue // removed meanwhile
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 50 {
		var old seal.KeyID
		advance(t, k, m, func(d *document) { old, _ = rotate(t, w, d, Private) })
		mustReload(t, k)
		advance(t, k, m, func(d *document) { remove(d, old) })
		mustReload(t, k)
	}
	close(stop)
	wg.Wait()
}
