package keyring

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
)

// TestNothingUnwrappedStays: whatever the Wrapper yields is wiped when the call is
// over that asked for it, also when it failed.
func TestNothingUnwrappedStays(t *testing.T) {
	k, m, w := fresh(t)
	w.allWiped(t, "made")
	mustOpen(t, m, w)
	w.allWiped(t, "opened")
	advance(t, k, m, func(d *document) { rotate(t, w, d, Private) })
	mustReload(t, k)
	w.allWiped(t, "reloaded")
	confirm(t, k, 0)
	w.allWiped(t, "confirmed")
	remembered := k.Memory()
	remembered.Keys = remembered.Keys[1:]
	if _, err := recall(t, m, w, remembered); err != nil {
		t.Fatal(err)
	}
	w.allWiped(t, "recalled in part")
	raise(w)
	confirm(t, k, 6)
	w.allWiped(t, "wrapped anew")

	for calls := range 5 {
		w.set(func(w *transit) { w.calls, w.failAt = 0, calls+2 })
		if _, err := tryOpen(t, m, w); !errors.Is(err, errTransit) {
			t.Fatalf("opened after %d keys: %v", calls+1, err)
		}
		w.allWiped(t, "failed to open")
	}
	w.set(func(w *transit) { w.failAt, w.spoil = 0, func(b []byte) []byte { return b[1:] } })
	if _, err := tryOpen(t, m, w); !errors.Is(err, ErrDamaged) {
		t.Fatalf("opened with short keys: %v", err)
	}
	w.allWiped(t, "failed for a short key")
	w.set(func(w *transit) { w.spoil = func(b []byte) []byte { b[0] ^= 1; return b } })
	if _, err := k.Confirm(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Fatalf("confirmed another key: %v", err)
	}
	w.allWiped(t, "failed to confirm")
}

// TestSealBox: what is sealed in here opens as what Seal seals outside, for the same
// place and no other, and not without a key.
func TestSealBox(t *testing.T) {
	k, _, _ := fresh(t)
	b := seal.Binding{Purpose: seal.Private, Row: seal.RowID{1}, Revision: 7}
	envelope, err := k.SealBox(Private, b, []byte("marker-plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := k.OpenBox(Private, b, envelope); err != nil || string(out) != "marker-plaintext" {
		t.Fatalf("it does not open: %v", err)
	}
	id, key, err := k.Active(Private)
	if h, herr := seal.ParseHeader(envelope); err != nil || herr != nil || h.Key != id {
		t.Fatalf("it is not under the active key: %v %v", err, herr)
	}
	outside := b
	outside.Store = k.StoreID()
	if out, err := seal.Open(key, outside, envelope); err != nil || !bytes.Equal(out, []byte("marker-plaintext")) {
		t.Errorf("it is not what Seal makes: %v", err)
	}
	b.Row[0]++
	if _, err := k.OpenBox(Private, b, envelope); !errors.Is(err, seal.ErrTampered) {
		t.Errorf("opened as another row: %v", err)
	}
	for _, class := range []Class{Index, Audit, "none"} {
		if _, err := k.SealBox(class, b, nil); err == nil || k.Ready(class) == nil {
			t.Errorf("the %s key seals", class)
		}
	}
	k.Wipe(Private)
	if _, err := k.SealBox(Private, b, nil); !errors.Is(err, ErrWiped) || !errors.Is(k.Ready(Private), ErrWiped) {
		t.Errorf("wiped: %v", err)
	}
	if k.Ready(Public) != nil {
		t.Error("another class was wiped too")
	}
}
