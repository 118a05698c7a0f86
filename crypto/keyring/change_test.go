package keyring

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
)

func confirm(t testing.TB, k *Keyring, want int) {
	t.Helper()
	if n, err := k.Confirm(t.Context()); err != nil || n != want {
		t.Fatalf("%d keys were wrapped anew, not %d: %v", n, want, err)
	}
}

// raise has transit wrap with version 2, and open nothing older.
func raise(w *transit) { w.set(func(w *transit) { w.latest, w.minimum = 2, 2 }) }

func TestConfirmOfTheSame(t *testing.T) {
	k, m, w := fresh(t)
	w.set(func(w *transit) { w.calls = 0 })
	confirm(t, k, 0)
	if w.calls != 5 || m.stores != 1 {
		t.Errorf("%d keys were asked for, %d blobs written", w.calls, m.stores)
	}
}

func TestConfirmRewraps(t *testing.T) {
	k, m, w := fresh(t)
	advance(t, k, m, func(d *document) { rotate(t, w, d, Private) })
	advance(t, k, m, func(d *document) { old, _ := rotate(t, w, d, Public); remove(d, old) })
	mustReload(t, k)
	before := k.Info()
	raise(w)
	if _, err := tryOpen(t, m, w); !errors.Is(err, errTooOld) {
		t.Fatalf("the case itself is wrong: %v", err)
	}
	confirm(t, k, 6)
	after := k.Info()
	if after.Generation != before.Generation+1 || after.Version != before.Version+1 || after.Digest == before.Digest || k.Version() != after.Version {
		t.Errorf("%+v became %+v", before, after)
	}
	if again := mustOpen(t, m, w); !same(t, k, again) {
		t.Error("what opens now is something else")
	}
	for _, l := range k.List() {
		if l.State != Removed && wrappedBy(l.Wrapped) != 2 {
			t.Errorf("%s key is as it was", l.Class)
		}
	}
	confirm(t, k, 0)
	mustReload(t, k)
	confirm(t, k, 0)
}

// TestConfirmRewrapsSome: only what is too old, also when it came from memory.
func TestConfirmRewrapsSome(t *testing.T) {
	k, m, w := fresh(t)
	w.set(func(w *transit) { w.latest = 2 })
	advance(t, k, m, func(d *document) { rotate(t, w, d, Intent) })
	mustReload(t, k)
	raise(w)
	again, err := recall(t, m, w, k.Memory())
	if err != nil {
		t.Fatal(err)
	}
	confirm(t, again, 5) // all but the new one of six
	mustReload(t, k)
	if !same(t, k, again) {
		t.Error("they differ")
	}
}

func TestConfirmFindsAnotherKey(t *testing.T) {
	k, m, w := fresh(t)
	for n := 1; n <= 5; n++ {
		w.set(func(w *transit) {
			w.calls = 0
			w.spoil = func(b []byte) []byte {
				if w.calls == n {
					b[7] ^= 1
				}
				return b
			}
		})
		if _, err := k.Confirm(t.Context()); !errors.Is(err, ErrDamaged) {
			t.Errorf("key %d: %v", n, err)
		}
	}
	if m.stores != 1 {
		t.Error("a blob was written")
	}
}

// TestConfirmFails: whatever fails, and nothing is swapped in.
func TestConfirmFails(t *testing.T) {
	k, m, w := fresh(t)
	raise(w)
	for n := 1; n <= 15; n++ { // 5 to compare, 5 to wrap, 5 to unwrap again
		w.set(func(w *transit) { w.calls, w.failAt = 0, n })
		if _, err := k.Confirm(t.Context()); !errors.Is(err, errTransit) {
			t.Errorf("call %d failed, and Confirm said %v", n, err)
		}
	}
	w.set(func(w *transit) {
		w.failAt = 0
		w.spoil = func(b []byte) []byte { b[0] ^= 1; return b }
	})
	if _, err := k.Confirm(t.Context()); err == nil {
		t.Error("what was wrapped anew unwraps as something else, and it was taken")
	}
	broken := errors.New("disk says no")
	w.set(func(w *transit) { w.spoil = nil })
	m.swapErr = broken
	if _, err := k.Confirm(t.Context()); !errors.Is(err, broken) || k.Version() != 1 || m.stores != 1 {
		t.Errorf("%v, version %d, %d blobs", err, k.Version(), m.stores)
	}
	m.swapErrAfter = true
	if _, err := k.Confirm(t.Context()); !errors.Is(err, broken) || k.Version() != 1 {
		t.Errorf("%v, version %d", err, k.Version())
	}
	m.swapErr = nil
	confirm(t, k, 0) // it had taken effect; the conflict is seen, reloaded and fine
	if k.Version() != 2 || k.Info().Generation != 2 {
		t.Errorf("%+v", k.Info())
	}
}

// TestConfirmWhileChanged: somebody rotates between comparing and swapping.
func TestConfirmWhileChanged(t *testing.T) {
	k, m, w := fresh(t)
	other := mustOpen(t, m, w)
	raise(w)
	once := false
	w.set(func(w *transit) {
		w.beside = func() {
			if !once {
				once = true
				advance(t, other, m, func(d *document) { rotate(t, w, d, Private) })
			}
		}
	})
	confirm(t, k, 5)
	if again := mustOpen(t, m, w); !same(t, k, again) || k.Info().Generation != 3 || len(k.List()) != 6 {
		t.Errorf("%+v, %d keys", k.Info(), len(k.List()))
	}
}

// TestConfirmOfTheWiped: what is not held is not compared, but has to open.
func TestConfirmOfTheWiped(t *testing.T) {
	k, _, w := fresh(t)
	k.Wipe(Private)
	confirm(t, k, 0)
	if _, _, err := k.Active(Private); !errors.Is(err, ErrWiped) {
		t.Errorf("private: %v", err)
	}
	raise(w)
	if _, err := k.Confirm(t.Context()); !errors.Is(err, errTooOld) {
		t.Errorf("a key that nobody has any more: %v", err)
	}
}

func TestSucceed(t *testing.T) {
	k, m, w := fresh(t)
	blob := m.get()
	for _, n := range []uint64{0, 1} {
		if err := k.Succeed(t.Context(), n); err == nil {
			t.Errorf("incarnation %d after 1", n)
		}
	}
	if !bytes.Equal(m.get(), blob) {
		t.Error("it was written all the same")
	}
	if err := k.Succeed(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if i := k.Info(); i.Incarnation != 7 || k.Incarnation() != 7 || i.Generation != 2 || i.Version != 2 {
		t.Errorf("%+v", i)
	}
	if again := mustOpen(t, m, w); !same(t, k, again) {
		t.Error("what opens now is something else")
	}
	m.put(m.get())
	if err := k.Succeed(t.Context(), 8); !errors.Is(err, ErrConflict) || k.Incarnation() != 7 {
		t.Errorf("over another version: %v", err)
	}
	advance(t, k, m, func(d *document) { d.incarnation-- })
	if err := k.Reload(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("back to an earlier incarnation: %v", err)
	}
}

func TestListAndInfo(t *testing.T) {
	k, m, w := fresh(t)
	var old, now seal.KeyID
	advance(t, k, m, func(d *document) { old, now = rotate(t, w, d, Private) })
	advance(t, k, m, func(d *document) { remove(d, old) })
	mustReload(t, k)
	peeked, err := Peek(t.Context(), m)
	if err != nil || k.Info() != peeked {
		t.Errorf("%+v is not %+v", k.Info(), peeked)
	}
	list := k.List()
	if len(list) != 6 {
		t.Fatalf("%d keys", len(list))
	}
	for _, l := range list {
		want := WrappedKey{Class: l.Class, ID: l.ID, State: Active, Wrapped: l.Wrapped, Created: testTime, Since: testTime}
		switch l.ID {
		case old:
			want.Class, want.State, want.Wrapped, want.Since = Private, Removed, "", testTime.Add(time.Second)
		case now:
			want.Created, want.Since = testTime.Add(time.Second), testTime.Add(time.Second)
		}
		if l != want || (l.Wrapped == "") != (l.State == Removed) {
			t.Errorf("%+v", l)
		}
	}
}

// TestMACs: one key for a purpose, in every life of the store.
func TestMACs(t *testing.T) {
	k, m, w := fresh(t)
	again := mustOpen(t, m, w)
	other, _, _ := fresh(t)
	sum := k.MAC("backup").Sum(nil)
	if again.MAC("backup").Sum(nil) != sum {
		t.Error("another key after reopening")
	}
	if k.MAC("other").Sum(nil) == sum || other.MAC("backup").Sum(nil) == sum {
		t.Error("one key for two things")
	}
	k.MAC("backup").Wipe()
	if k.MAC("backup").Sum(nil) != sum {
		t.Error("a caller wiped the keyring's own")
	}
}
