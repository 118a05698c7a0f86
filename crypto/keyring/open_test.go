package keyring

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

func TestCreatedOnceAndReopened(t *testing.T) {
	k, m, w := fresh(t)
	again := mustOpen(t, m, w)
	if k.StoreID() != again.StoreID() || k.StoreID() == (seal.StoreID{}) || k.Incarnation() != 1 || k.Version() != 1 || again.Version() != 1 {
		t.Error("the second Open found another store")
	}
	if m.stores != 1 {
		t.Errorf("%d blobs were written", m.stores)
	}
	seen := []secret.Text{}
	for _, c := range []Class{Public, Private, Intent} {
		id, key, err := k.Active(c)
		if err != nil || key.Len() != seal.KeySize {
			t.Fatalf("%s: %v", c, err)
		}
		other, err := again.Key(c, id)
		if err != nil || !other.Equal(key) {
			t.Errorf("%s: another key after reopening: %v", c, err)
		}
		for _, s := range seen {
			if s.Equal(key) {
				t.Errorf("%s: a key of two classes", c)
			}
		}
		seen = append(seen, key)
	}
	if k.HumanRow("app", "human") != again.HumanRow("app", "human") || !k.Signer().Equal(again.Signer()) || !k.Subject().Equal(again.Subject()) {
		t.Error("what is derived changed with reopening")
	}
	other, _, _ := fresh(t)
	if other.StoreID() == k.StoreID() || other.HumanRow("app", "human") == k.HumanRow("app", "human") {
		t.Error("two stores are alike")
	}
}

func TestBlobHoldsNoKey(t *testing.T) {
	_, m, w := fresh(t)
	if len(w.wrapped) != 5 {
		t.Fatalf("%d keys were wrapped", len(w.wrapped))
	}
	for _, key := range w.wrapped {
		if len(key) != seal.KeySize || bytes.Contains(m.get(), key) {
			t.Error("a key stands in the blob in clear")
		}
	}
}

func TestTwoCreateAtOnce(t *testing.T) {
	m, w := &memory{}, newTransit(t, "passphrase-of-the-test")
	// Both have seen that there is none before either goes on.
	var both sync.WaitGroup
	both.Add(2)
	var first sync.Mutex
	left := 2
	m.afterLoad = func() {
		first.Lock()
		wait := left > 0
		left--
		first.Unlock()
		if wait {
			both.Done()
			both.Wait()
		}
	}
	opened := make([]*Keyring, 2)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range opened {
		wg.Go(func() { opened[i], errs[i] = tryOpen(t, m, w) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	defer opened[0].Close()
	defer opened[1].Close()
	_, a, _ := opened[0].Active(Private)
	_, b, _ := opened[1].Active(Private)
	if opened[0].StoreID() != opened[1].StoreID() || !a.Equal(b) || m.stores != 1 || m.loads != 3 {
		t.Errorf("the loser did not load the winner's: %d blobs, %d loads", m.stores, m.loads)
	}
}

// TestTransitFailsHalfWay: at whichever call, nothing is left behind, and the
// next Open makes the keyring.
func TestTransitFailsHalfWay(t *testing.T) {
	for n := 1; n <= 10; n++ {
		m, w := &memory{}, newTransit(t, "passphrase-of-the-test")
		w.failAt = n
		if _, err := tryOpen(t, m, w); !errors.Is(err, errTransit) {
			t.Fatalf("call %d failed and Open said %v", n, err)
		}
		if m.version != 0 {
			t.Errorf("call %d failed and left a blob", n)
		}
		w.set(func(w *transit) { w.failAt = 0 })
		mustOpen(t, m, w)
	}
}

func TestTransitThatDoesNotUnwrap(t *testing.T) {
	m, w := &memory{}, newTransit(t, "passphrase-of-the-test")
	w.deny = "unwrap"
	if _, err := tryOpen(t, m, w); !errors.Is(err, errTransit) || m.version != 0 {
		t.Errorf("error %v, version %d", err, m.version)
	}
	w.deny = ""
	w.spoil = func(b []byte) []byte { return b[:31] }
	if _, err := tryOpen(t, m, w); !errors.Is(err, ErrDamaged) || m.version != 0 {
		t.Errorf("short keys: error %v, version %d", err, m.version)
	}
	w.calls = 0
	w.spoil = func(b []byte) []byte { return b[:31+min(1, max(0, 8-w.calls))] } // only data keys
	if _, err := tryOpen(t, m, w); !errors.Is(err, ErrDamaged) || m.version != 0 {
		t.Errorf("short data keys: error %v, version %d", err, m.version)
	}
	w.spoil = func(b []byte) []byte { b[0] ^= 1; return b }
	if _, err := tryOpen(t, m, w); !errors.Is(err, ErrDamaged) || m.version != 0 {
		t.Errorf("other keys: error %v, version %d", err, m.version)
	}
}

func TestBlobFails(t *testing.T) {
	broken := errors.New("disk says no")
	m, w := &memory{loadErr: broken}, newTransit(t, "passphrase-of-the-test")
	if _, err := tryOpen(t, m, w); !errors.Is(err, broken) || w.calls != 0 {
		t.Errorf("load: %v after %d calls of Transit", err, w.calls)
	}
	for _, after := range []bool{false, true} {
		m, w := &memory{swapErr: broken, swapErrAfter: after}, newTransit(t, "passphrase-of-the-test")
		if _, err := tryOpen(t, m, w); !errors.Is(err, broken) {
			t.Errorf("swap, took effect %t: %v", after, err)
		}
		m.swapErr = nil
		mustOpen(t, m, w)
		if m.stores != 1 {
			t.Errorf("swap, took effect %t: %d blobs", after, m.stores)
		}
	}
}

func TestOtherTransitKey(t *testing.T) {
	_, m, _ := fresh(t)
	before := m.get()
	if _, err := tryOpen(t, m, newTransit(t, "another-passphrase")); !errors.Is(err, errTransit) {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(before, m.get()) {
		t.Error("a keyring that does not open was overwritten")
	}
}

func TestConfig(t *testing.T) {
	w := newTransit(t, "passphrase-of-the-test")
	for name, c := range map[string]Config{
		"nothing":    {},
		"no wrapper": {Blob: &memory{}},
		"no blob":    {Wrapper: w},
		"clock":      {Blob: &memory{}, Wrapper: w, Now: func() time.Time { return time.Time{} }},
	} {
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	k, err := Open(t.Context(), Config{Blob: &memory{}, Wrapper: w})
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
}

func TestPeek(t *testing.T) {
	m := &memory{}
	if info, err := Peek(t.Context(), m); err != nil || info != (Info{}) {
		t.Errorf("nothing there: %+v, %v", info, err)
	}
	k := mustOpen(t, m, newTransit(t, "passphrase-of-the-test"))
	info, err := Peek(t.Context(), m)
	if err != nil || !info.Exists || info.StoreID != k.StoreID() || info.Incarnation != 1 || info.Generation != 1 || info.Version != 1 || info.Digest != sha256.Sum256(m.get()) {
		t.Errorf("%+v, %v", info, err)
	}
	m.put(append(m.get(), 0))
	if _, err := Peek(t.Context(), m); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
}
