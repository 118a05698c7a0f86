package keyring

import (
	"bytes"
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

func TestKeysOfTheirClassOnly(t *testing.T) {
	k, m, _ := fresh(t)
	for _, e := range content(t, m).entries {
		for _, class := range append(classes, "root", "") {
			_, err := k.Key(class, e.id)
			if own := class == e.class && class.data(); own && err != nil || !own && !errors.Is(err, ErrUnknownKey) {
				t.Errorf("%s key asked for as %q: %v", e.class, class, err)
			}
		}
	}
	if _, err := k.Key(Public, seal.KeyID{1}); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("a key that never was: %v", err)
	}
	for _, class := range []Class{Index, Audit, "root", ""} {
		if _, key, err := k.Active(class); err == nil || errors.Is(err, ErrWiped) || !key.IsZero() {
			t.Errorf("%q as a class of data keys: %v", class, err)
		}
	}
}

func TestWhatIsHandedOutIsACopy(t *testing.T) {
	k, _, _ := fresh(t)
	id, key, _ := k.Active(Public)
	key.Wipe()
	k.Subject().Wipe()
	want := bytes.Clone(k.Signer())
	clear(k.Signer())
	again, err := k.Key(Public, id)
	zero := secret.New(make([]byte, seal.KeySize))
	if err != nil || again.Equal(zero) || k.Subject().Equal(zero) || !bytes.Equal(k.Signer(), want) {
		t.Error("a caller wiped the keyring's own key")
	}
}

func TestWipe(t *testing.T) {
	k, _, w := fresh(t)
	id := activeID(t, k, Private)
	own := k.snapshot().keys[id]
	_, before, _ := k.Active(Private)
	k.Wipe(Private)
	k.Wipe(Index) // nothing to do
	if !own.text.Equal(secret.New(make([]byte, seal.KeySize))) || opens(own.prepared, k.StoreID()) {
		t.Error("the bytes are still there")
	}
	if _, _, err := k.Active(Private); !errors.Is(err, ErrWiped) {
		t.Errorf("active: %v", err)
	}
	if _, err := k.Key(Private, id); !errors.Is(err, ErrWiped) {
		t.Errorf("key: %v", err)
	}
	if _, err := k.Key(Public, id); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("as another class: %v", err)
	}
	activeID(t, k, Public)
	k.HumanRow("app", "id")
	w.set(func(w *transit) { w.deny = "unwrap" })
	if err := k.Reload(t.Context()); !errors.Is(err, errTransit) {
		t.Errorf("reload in the outage: %v", err)
	}
	activeID(t, k, Public)
	w.set(func(w *transit) { w.deny = "" })
	if err := k.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, after, err := k.Active(Private); err != nil || got != id || !after.Equal(before) {
		t.Errorf("it did not come back: %v", err)
	}
}

// opens reports whether a prepared key does its work, which a wiped one refuses.
func opens(key seal.Key, store seal.StoreID) bool {
	b := seal.Binding{Purpose: seal.Public, Store: store}
	envelope, err := seal.Seal(newKey(), seal.KeyID{}, b, nil)
	return err == nil && !panics(func() { _, _ = key.Open(b, envelope) })
}

func sums(m secret.MAC) bool { return !panics(func() { m.Sum(nil) }) }

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// TestWipeWhileOpening: a box opens or the key is gone, and nothing in between.
func TestWipeWhileOpening(t *testing.T) {
	k, _, _ := fresh(t)
	id, key, _ := k.Active(Private)
	b := seal.Binding{Store: k.StoreID(), Purpose: seal.Private, Revision: 1}
	envelope, err := seal.Seal(key, id, b, []byte("marker-plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for opened, wiped := false, false; !opened || !wiped; {
				out, err := k.OpenBox(Private, b, envelope)
				opened = opened || string(out) == "marker-plaintext"
				wiped = wiped || errors.Is(err, ErrWiped)
				if err != nil && !errors.Is(err, ErrWiped) {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { readers.Wait(); close(done) }()
	for {
		k.Wipe(Private)
		runtime.Gosched()
		mustReload(t, k)
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestClose(t *testing.T) {
	k, _, _ := fresh(t)
	id, copied, _ := k.Active(Private)
	h := k.snapshot()
	own := h.keys[id]
	inside := []secret.Text{own.text, h.derived.index, h.derived.audit, h.derived.subject, h.derived.seed}
	if !opens(own.prepared, h.doc.store) || !sums(h.derived.rows) {
		t.Error("the keys are of no use before")
	}
	k.Close()
	k.Close()
	k.Wipe(Private)
	if opens(own.prepared, h.doc.store) {
		t.Error("a prepared key is still in memory")
	}
	for i, m := range []secret.MAC{h.derived.rows, h.derived.sessions, h.derived.mac, h.derived.memory} {
		if sums(m) {
			t.Errorf("the key of MAC %d is still in memory", i)
		}
	}
	zero := secret.New(make([]byte, seal.KeySize))
	for i, text := range inside {
		if !text.Equal(zero) {
			t.Errorf("key %d is still in memory", i)
		}
	}
	if copied.Equal(zero) {
		t.Error("a caller's copy went too")
	}
	for name, use := range map[string]func(){
		"Active":     func() { _, _, _ = k.Active(Public) },
		"SealBox":    func() { _, _ = k.SealBox(Public, seal.Binding{}, nil) },
		"Ready":      func() { _ = k.Ready(Public) },
		"OpenBox":    func() { _, _ = k.OpenBox(Public, seal.Binding{}, make([]byte, 100)) },
		"HumanRow":   func() { k.HumanRow("app", "id") },
		"SessionRow": func() { k.SessionRow("app", copied) },
		"Signer":     func() { k.Signer() },
		"Version":    func() { k.Version() },
		"Reload":     func() { _ = k.Reload(t.Context()) },
		"Confirm":    func() { _, _ = k.Confirm(t.Context()) },
		"Succeed":    func() { _ = k.Succeed(t.Context(), 2) },
		"Memory":     func() { k.Memory() },
		"MAC":        func() { k.MAC("backup") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s works after Close", name)
				}
			}()
			use()
		}()
	}
}

func TestStates(t *testing.T) {
	steps := []State{Active, DecryptOnly, Removed}
	for i, s := range steps {
		next, ok := s.Next()
		if ok != (i < 2) || ok && next != steps[i+1] {
			t.Errorf("after %s comes %q, %t", s, next, ok)
		}
		for j, later := range steps {
			if s.MayBecome(later) != (i <= j) {
				t.Errorf("%s may become %s: %t", s, later, i > j)
			}
		}
		if s.MayBecome("revived") || State("revived").MayBecome(s) || State("").MayBecome("") {
			t.Errorf("%s has to do with a state that does not exist", s)
		}
	}
	if _, ok := State("revived").Next(); ok {
		t.Error("a state that does not exist has a next one")
	}
}
