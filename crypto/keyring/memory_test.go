package keyring

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// recall opens with a memory, as after a restart.
func recall(t testing.TB, m *memory, w *transit, remembered Memory) (*Keyring, error) {
	t.Helper()
	k, err := Open(t.Context(), Config{
		Blob: m, Wrapper: w, Now: testNow, Memory: &remembered, Away: away, TooOld: tooOld,
	})
	if err == nil {
		t.Cleanup(k.Close)
	}
	return k, err
}

// same reports whether two keyrings are of one store and hold the same keys.
func same(t testing.TB, a, b *Keyring) bool {
	t.Helper()
	for _, c := range []Class{Public, Private, Intent} {
		idA, keyA, errA := a.Active(c)
		idB, keyB, errB := b.Active(c)
		if errA != nil || errB != nil || idA != idB || !keyA.Equal(keyB) {
			return false
		}
	}
	return a.StoreID() == b.StoreID() && a.HumanRow("app", "id") == b.HumanRow("app", "id") &&
		a.Signer().Equal(b.Signer()) && a.Subject().Equal(b.Subject()) && a.Info() == b.Info()
}

func TestRememberedWithoutWrapper(t *testing.T) {
	k, m, w := fresh(t)
	var old seal.KeyID
	advance(t, k, m, func(d *document) { old, _ = rotate(t, w, d, Private) })
	mustReload(t, k)
	remembered := k.Memory()
	if len(remembered.Keys) != 6 || remembered.StoreID != k.StoreID() {
		t.Fatalf("%d keys", len(remembered.Keys))
	}
	w.set(func(w *transit) { w.deny, w.calls = "unwrap", 0 })
	again, err := recall(t, m, w, remembered)
	if err != nil || w.calls != 0 {
		t.Fatalf("%v, after %d calls of the wrapper", err, w.calls)
	}
	if _, err := again.Key(Private, old); err != nil || !same(t, k, again) {
		t.Errorf("it holds other keys: %v", err)
	}
	remembered.Wipe()
	if !same(t, k, again) {
		t.Error("the memory's bytes are the keyring's")
	}
	if zero := secret.New(make([]byte, seal.KeySize)); !remembered.Keys[0].Key.Equal(zero) {
		t.Error("Wipe left a key")
	}
}

// TestWipedInMemory: what was wiped is not remembered, opens wiped while Vault is
// away, and comes back with it.
func TestWipedInMemory(t *testing.T) {
	k, m, w := fresh(t)
	k.Wipe(Private)
	remembered := k.Memory()
	if len(remembered.Keys) != 4 || slices.ContainsFunc(remembered.Keys, func(r RememberedKey) bool { return r.Class == Private }) {
		t.Fatalf("%d keys", len(remembered.Keys))
	}
	w.set(func(w *transit) { w.deny = "unwrap" })
	again, err := recall(t, m, w, remembered)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := again.Active(Private); !errors.Is(err, ErrWiped) {
		t.Errorf("private: %v", err)
	}
	activeID(t, again, Public)
	if err := again.Reload(t.Context()); !errors.Is(err, errTransit) {
		t.Errorf("reload in the outage: %v", err)
	}
	w.set(func(w *transit) { w.deny = "" })
	mustReload(t, again)
	mustReload(t, k)
	if !same(t, k, again) {
		t.Error("it did not come back")
	}
	if again, err := recall(t, m, w, remembered); err != nil || !same(t, k, again) {
		t.Errorf("with the wrapper there: %v", err)
	}
}

// TestAwayIsAskedOnce: each question may cost a timeout.
func TestAwayIsAskedOnce(t *testing.T) {
	k, m, w := fresh(t)
	k.Wipe(Private)
	k.Wipe(Intent)
	w.set(func(w *transit) { w.deny, w.calls = "unwrap", 0 })
	if _, err := recall(t, m, w, k.Memory()); err != nil || w.calls != 1 {
		t.Errorf("%v after %d calls", err, w.calls)
	}
}

// TestMemoryWithoutWhatIsNeeded: index and audit key are needed, and who refuses is
// not away.
func TestMemoryWithoutWhatIsNeeded(t *testing.T) {
	k, m, w := fresh(t)
	w.set(func(w *transit) { w.deny = "unwrap" })
	for _, class := range []Class{Index, Audit} {
		remembered := k.Memory()
		remembered.Keys = slices.DeleteFunc(remembered.Keys, func(r RememberedKey) bool { return r.Class == class })
		if _, err := recall(t, m, w, remembered); !errors.Is(err, errTransit) {
			t.Errorf("without %s: %v", class, err)
		}
	}
	k.Wipe(Private)
	remembered := k.Memory()
	for name, is := range map[string]func(error) bool{"not away": tooOld, "default": nil} {
		c := Config{Blob: m, Wrapper: w, Memory: &remembered, Away: is}
		if _, err := Open(t.Context(), c); !errors.Is(err, errTransit) {
			t.Errorf("%s: %v", name, err)
		}
	}
	claimed := k.Memory()
	claimed.StoreID[0] ^= 1
	if _, err := recall(t, m, w, claimed); !errors.Is(err, errTransit) {
		t.Errorf("these keys as another store's memory: %v", err)
	}
	other, _, _ := fresh(t)
	if _, err := recall(t, m, w, other.Memory()); !errors.Is(err, errTransit) {
		t.Errorf("another store's memory: %v", err)
	}
	w.set(func(w *transit) { w.deny = "" })
	if again, err := recall(t, m, w, other.Memory()); err != nil || again.StoreID() != k.StoreID() {
		t.Errorf("another store's memory, with the wrapper there: %v", err)
	}
}

// TestMismatchIsDamage: a memory that is not as it was given opens nothing.
func TestMismatchIsDamage(t *testing.T) {
	k, m, w := fresh(t)
	for i, class := range classes {
		for name, alter := range map[string]func(*RememberedKey){
			"another key": func(r *RememberedKey) { r.Key = newKey() },
			"one bit": func(r *RememberedKey) {
				b := bytes.Clone(r.Key.Reveal())
				b[31] ^= 1
				r.Key = secret.New(b)
			},
			"short":   func(r *RememberedKey) { r.Key = secret.New(r.Key.Reveal()[:31]) },
			"nothing": func(r *RememberedKey) { r.Key = secret.Text{} },
		} {
			remembered := k.Memory()
			alter(&remembered.Keys[i])
			if _, err := recall(t, m, w, remembered); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s, %s: %v", class, name, err)
			}
		}
	}
	remembered := k.Memory()
	remembered.Keys[0].Check[0] ^= 1
	if _, err := recall(t, m, w, remembered); !errors.Is(err, ErrDamaged) {
		t.Errorf("check: %v", err)
	}
	remembered = k.Memory()
	remembered.Keys[0].Key, remembered.Keys[1].Key = remembered.Keys[1].Key, remembered.Keys[0].Key
	if _, err := recall(t, m, w, remembered); !errors.Is(err, ErrDamaged) {
		t.Errorf("swapped: %v", err)
	}
}

// TestAlteredBlobWithMemory: what is remembered opens no blob that was altered.
func TestAlteredBlobWithMemory(t *testing.T) {
	k, m, w := fresh(t)
	remembered := k.Memory()
	blob := m.get()
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		if k, err := recall(t, &memory{blob: bad, version: 1}, w, remembered); err == nil || k != nil {
			t.Errorf("offset %d: it opened", i)
		}
	}
}

func TestMemoryIsNoKeyring(t *testing.T) {
	k, _, w := fresh(t)
	m := &memory{}
	made, err := recall(t, m, w, k.Memory())
	if err != nil || made.StoreID() == k.StoreID() {
		t.Errorf("where there is no keyring: %v", err)
	}
}
