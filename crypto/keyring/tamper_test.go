package keyring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// damaged opens a blob that must not open, and says why it did not.
func damaged(t *testing.T, w *transit, name string, blob []byte) error {
	t.Helper()
	k, err := tryOpen(t, &memory{blob: blob, version: 1}, w)
	if err == nil {
		k.Close()
		t.Errorf("%s: it opened", name)
		return nil
	}
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, errTransit) {
		t.Errorf("%s: %v", name, err)
	}
	return err
}

func TestEveryAlteredByteIsRefused(t *testing.T) {
	_, m, w := fresh(t)
	blob := m.get()
	for i := range blob {
		for _, flip := range []byte{0x01, 0x80} {
			bad := bytes.Clone(blob)
			bad[i] ^= flip
			damaged(t, w, fmt.Sprintf("offset %d ^ %#x", i, flip), bad)
		}
	}
	for n := 1; n < len(blob); n++ {
		damaged(t, w, fmt.Sprintf("cut to %d", n), blob[:n])
	}
	damaged(t, w, "longer", append(bytes.Clone(blob), 0))
	damaged(t, w, "twice", append(bytes.Clone(blob), blob...))
	damaged(t, w, "huge", make([]byte, MaxBlob+1))
}

// TestAlteredDocument has the whole document altered by someone who does not
// know the MAC key: right in form, with the old MAC and with one of his own.
func TestAlteredDocument(t *testing.T) {
	k, m, w := fresh(t)
	var old, now seal.KeyID
	var oldWrapped string
	advance(t, k, m, func(d *document) {
		old, now = rotate(t, w, d, Private)
		oldWrapped = d.find(old).wrapped
	})
	advance(t, k, m, func(d *document) { remove(d, old) })
	for name, alter := range map[string]func(*document){
		"removed key active again": func(d *document) {
			e, n := d.find(old), d.find(now)
			e.state, e.wrapped, e.since = Active, oldWrapped, e.created
			n.state = DecryptOnly
		},
		"removed key opens again": func(d *document) {
			e := d.find(old)
			e.state, e.wrapped = DecryptOnly, oldWrapped
		},
		"removed key forgotten": func(d *document) {
			d.entries = slices.DeleteFunc(d.entries, func(e entry) bool { return e.id == old })
		},
		"incarnation":    func(d *document) { d.incarnation++ },
		"generation":     func(d *document) { d.generation-- },
		"created":        func(d *document) { d.entries[0].created++; d.entries[0].since++ },
		"key of his own": func(d *document) { rotate(t, w, d, Public) },
	} {
		d := content(t, m)
		alter(d)
		if err := d.check(); err != nil {
			t.Fatalf("%s: the case itself is wrong: %v", name, err)
		}
		calls := w.calls
		kept := append(d.body(), m.get()[len(m.get())-macSize:]...)
		if err := damaged(t, w, name, kept); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if w.calls != calls+1 {
			t.Errorf("%s: %d keys were unwrapped before the HMAC was checked", name, w.calls-calls)
		}
		damaged(t, w, name+", MAC of his own", d.encode(secret.NewMAC(newKey())))
		damaged(t, w, name+", MAC under no key", d.encode(secret.NewMAC(secret.Text{})))
	}
}

// TestCarriedOver puts wrapped keys where they do not belong, with a right MAC:
// Transit's context alone has to refuse them.
func TestCarriedOver(t *testing.T) {
	k, m, w := fresh(t)
	foreign := &memory{}
	other := mustOpen(t, foreign, w)
	theirs := content(t, foreign)
	for i, class := range classes {
		d := content(t, m)
		d.entries[i].wrapped = theirs.entries[i].wrapped
		refusedByTransit(t, w, string(class)+" of another store", d.encode(k.snapshotMAC()))

		d = content(t, m)
		j := (i + 1) % len(classes)
		d.entries[i].wrapped = d.entries[j].wrapped
		refusedByTransit(t, w, string(class)+" has the key of another class", d.encode(k.snapshotMAC()))

		d = content(t, m)
		d.entries[i].id[0] ^= 1
		refusedByTransit(t, w, string(class)+" under another id", d.encode(k.snapshotMAC()))
	}
	// All keys and the MAC are the other store's, the store id is ours.
	theirs.store = k.StoreID()
	refusedByTransit(t, w, "all of another store", theirs.encode(other.snapshotMAC()))
}

func refusedByTransit(t *testing.T, w *transit, name string, blob []byte) {
	t.Helper()
	if err := damaged(t, w, name, blob); !errors.Is(err, errTransit) {
		t.Errorf("%s: %v", name, err)
	}
}

func TestWrapContext(t *testing.T) {
	store, id := seal.StoreID{1}, seal.KeyID{2}
	seen := map[string]string{}
	for name, c := range map[string][]byte{
		"one":     wrapContext(store, Public, id),
		"store":   wrapContext(seal.StoreID{3}, Public, id),
		"class":   wrapContext(store, Private, id),
		"id":      wrapContext(store, Public, seal.KeyID{3}),
		"swapped": wrapContext(seal.StoreID(id), Public, seal.KeyID(store)),
	} {
		if other, ok := seen[string(c)]; ok || len(c) != 32 {
			t.Errorf("%s and %s have one context", name, other)
		}
		seen[string(c)] = name
	}
}

// TestWrongDocuments: what a strict decoder refuses, MAC or not.
func TestWrongDocuments(t *testing.T) {
	k, m, w := fresh(t)
	mac := k.snapshotMAC()
	for name, alter := range map[string]func(*document){
		"two active": func(d *document) {
			old, _ := rotate(t, w, d, Private)
			e := d.find(old)
			e.state, e.since = Active, e.created
		},
		"none active":       func(d *document) { d.entries[1].state = DecryptOnly },
		"no key of a class": func(d *document) { d.entries = slices.Delete(d.entries, 1, 2) },
		"no audit key":      func(d *document) { d.entries = d.entries[:4] },
		"no keys":           func(d *document) { d.entries = nil },
		"duplicate id": func(d *document) {
			d.entries[2].id = d.entries[0].id
		},
		"duplicate key":      func(d *document) { d.entries = slices.Insert(d.entries, 1, d.entries[0]) },
		"out of order":       func(d *document) { d.entries[0], d.entries[1] = d.entries[1], d.entries[0] },
		"unknown class":      func(d *document) { d.entries[4].class = "root" },
		"unknown state":      func(d *document) { d.entries[0].state = "revived" },
		"index removed":      func(d *document) { d.entries[3].state, d.entries[3].wrapped = Removed, "" },
		"audit decrypt-only": func(d *document) { d.entries[4].state = DecryptOnly },
		"second index":       func(d *document) { rotate(t, w, d, Index) },
		"no store":           func(d *document) { d.store = seal.StoreID{} },
		"incarnation 0":      func(d *document) { d.incarnation = 0 },
		"generation 0":       func(d *document) { d.generation = 0 },
		"nothing wrapped":    func(d *document) { d.entries[0].wrapped = "" },
		"removed but there":  func(d *document) { old, _ := rotate(t, w, d, Private); d.find(old).state = Removed },
		"wrapped too long":   func(d *document) { d.entries[0].wrapped = strings.Repeat("x", maxWrapped+1) },
		"before time":        func(d *document) { d.entries[0].created, d.entries[0].since = -1, -1 },
		"after time":         func(d *document) { d.entries[0].created, d.entries[0].since = maxUnix+1, maxUnix+1 },
		"active since later": func(d *document) { d.entries[0].since++ },
		"since too early":    func(d *document) { old, _ := rotate(t, w, d, Private); d.find(old).since = testTime.Unix() - 1 },
		"too many": func(d *document) {
			for i := range maxKeys {
				add(d, entry{class: Private, id: numbered(i), state: Removed})
			}
		},
		"another, of an unknown class": func(d *document) {
			add(d, entry{class: "root", state: Active, wrapped: "x"})
		},
		"another, in an unknown state": func(d *document) {
			add(d, entry{class: Public, state: "revived", wrapped: "x"})
		},
		"another index, decrypt-only": func(d *document) {
			add(d, entry{class: Index, state: DecryptOnly, wrapped: "x"})
		},
		"another audit, removed": func(d *document) {
			add(d, entry{class: Audit, state: Removed})
		},
	} {
		d := content(t, m)
		alter(d)
		if err := damaged(t, w, name, d.encode(mac)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// add puts e where it belongs in the order.
func add(d *document, e entry) {
	d.entries = append(d.entries, e)
	slices.SortFunc(d.entries, func(a, b entry) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
}

func numbered(i int) (id seal.KeyID) {
	binary.BigEndian.PutUint32(id[:], uint32(i))
	return id
}

// TestWrongBytes: what no document encodes to, with a right MAC.
func TestWrongBytes(t *testing.T) {
	k, m, w := fresh(t)
	body := m.get()[:len(m.get())-macSize]
	firstClass := 4 + 1 + 16 + 8 + 8 + 2
	for name, c := range map[string]struct {
		at int
		to byte
	}{
		"magic":     {0, 't'},
		"version 0": {4, 0},
		"version 2": {4, 2},
		"class 0":   {firstClass, 0},
		"class 6":   {firstClass, 6},
		"state 0":   {firstClass + 17, 0},
		"state 4":   {firstClass + 17, 4},
		"one less":  {firstClass - 1, 4},
		"one more":  {firstClass - 1, 6},
		"length":    {firstClass + 34, 0xFF},
	} {
		bad := bytes.Clone(body)
		bad[c.at] = c.to
		sum := k.snapshotMAC().Sum(bad)
		if err := damaged(t, w, name, append(bad, sum[:]...)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBlobWithoutVersion(t *testing.T) {
	_, m, w := fresh(t)
	for name, m := range map[string]*memory{
		"blob, no version": {blob: m.get()},
		"version, no blob": {version: 3},
	} {
		if _, err := tryOpen(t, m, w); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if m.stores != 0 {
			t.Errorf("%s: it was overwritten", name)
		}
	}
}
