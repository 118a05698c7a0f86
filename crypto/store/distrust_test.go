package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// forged seals fields as the format says, under the real keys.
func (f *fixture) forged(class keyring.Class, p seal.Purpose, row seal.RowID, revision uint64, fields ...[]byte) []byte {
	f.t.Helper()
	id, key, err := f.keys.Active(class)
	if err != nil {
		f.t.Fatal(err)
	}
	box, err := seal.Seal(key, id, seal.Binding{Store: f.keys.StoreID(), Purpose: p, Row: row, Revision: revision}, append([]byte{1}, seal.Enc(fields...)...))
	if err != nil {
		f.t.Fatal(err)
	}
	return box
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// TestIdsMustHashBack: a box that opens is not believed when it is about somebody
// else.
func TestIdsMustHashBack(t *testing.T) {
	f, a := peopled(t)
	h1 := f.keys.HumanRow(app, "h1")
	public := f.forged(keyring.Public, seal.Public, h1, 1, []byte(app), []byte("h2"), nil, nil, number(1), number(1), number(1), number(0))
	private := f.forged(keyring.Private, seal.Private, h1, 1, nil, number(0))
	id := f.keys.SessionRow(app, intent("h1", "4").SessionToken)
	other := f.forged(keyring.Intent, seal.Intent, id, 4, nil, nil, []byte(app), []byte("h1"), []byte("another session"), nil, []byte{0}, nil, []byte{0}, number(0), number(1), number(4))
	a.alter = func(at store.Table, r *store.Row) bool {
		switch {
		case at == store.Users && r.Key == h1:
			r.Value, r.Revision = append([]byte{1}, seal.Enc(public, private)...), 1
		case at == store.Intents:
			r.Value = other
		}
		return true
	}
	_, err := f.Public(f.ctx(), app, "h1")
	wantKind(t, err, user.RowDamaged)
	_, err = f.Intents(f.ctx())
	wantKind(t, err, user.RowDamaged)
	f.finds("another user's ids", store.Users, h1, "hash back")
	f.finds("another session's token", store.Intents, id, "hash back")
	other = f.forged(keyring.Intent, seal.Intent, id, 4, nil, nil, []byte(app), []byte("h1"), intent("", "4").SessionToken.Reveal(), nil, []byte{0}, nil, []byte{0}, number(0), number(1), number(5))
	f.finds("another arrival", store.Intents, id, "revision")
}

// swapping is a driver that answers with the row of another key.
type swapping struct {
	store.Driver
	asked, given [32]byte
}

func (s *swapping) Get(ctx context.Context, t store.Table, key [32]byte) (store.Row, bool, error) {
	if key == s.asked {
		key = s.given
	}
	return s.Driver.Get(ctx, t, key)
}

// TestAnotherRowIsNoAnswer: who asks for one user and gets the whole row of
// another one, key and all, is not answered with it.
func TestAnotherRowIsNoAnswer(t *testing.T) {
	f, swap := newFixture(t), &swapping{}
	f.close()
	f.wrap = func(d store.Driver) store.Driver { swap.Driver = d; return swap }
	f.open(boltstore.Config{Path: f.path})
	f.commit(f.begin("h1", "1"), "c1")
	f.commit(f.begin("h2", "2"), "c2")
	swap.asked, swap.given = f.keys.HumanRow(app, "h1"), f.keys.HumanRow(app, "h2")
	_, err := f.Public(f.ctx(), app, "h1")
	wantKind(t, err, user.RowDamaged)
	_, err = f.Private(f.ctx(), app, "h1")
	wantKind(t, err, user.RowDamaged)
	swap.asked = [32]byte{}
}

// TestIntentPutBack: an intent that was removed is put back beside its end.
func TestIntentPutBack(t *testing.T) {
	f := newFixture(t)
	in := f.begin("h1", "1")
	id := f.keys.SessionRow(app, in.SessionToken)
	row, _, err := f.bolt.Get(f.ctx(), store.Intents, id)
	if err != nil {
		t.Fatal(err)
	}
	f.commit(in, "c1")
	apply := func(op store.Op) {
		t.Helper()
		if err := f.bolt.Apply(f.ctx(), store.Batch{Fence: f.keys.Version(), Ops: []store.Op{op}}); err != nil {
			t.Fatal(err)
		}
	}
	apply(store.Op{Table: store.Intents, Key: id, Revision: row.Revision, Value: row.Value})
	f.finds("an intent put back", store.Intents, id, "has ended")
	apply(store.Op{Table: store.Intents, Key: id, Expect: row.Revision})
}

// TestIndexIsNotBelieved: a row that the index names is only the user's when the
// row says so too. Here it is put back to before it had a clientUserId.
func TestIndexIsNotBelieved(t *testing.T) {
	f, a := peopled(t)
	f.commit(f.begin("h3", "6"), "")
	h3 := f.keys.HumanRow(app, "h3")
	old, _, err := f.bolt.Get(f.ctx(), store.Users, h3)
	if err != nil {
		t.Fatal(err)
	}
	f.commit(f.begin("h3", "7"), "c3")
	a.alter = func(at store.Table, r *store.Row) bool {
		if at == store.Users && r.Key == h3 {
			r.Value, r.Revision = bytes.Clone(old.Value), old.Revision
		}
		return true
	}
	_, err = f.ByClientUserID(f.ctx(), app, "c3")
	wantKind(t, err, user.StoreUnavailable)
	f.finds("an index entry for another clientUserId", store.Index, f.keys.IndexRow(app, "c3"), "another clientUserId")
}

func TestIntentsNamesWhatItCannotOpen(t *testing.T) {
	f, a := peopled(t)
	good := f.begin("h3", "6")
	bad := f.keys.SessionRow(app, intent("h1", "4").SessionToken)
	a.alter = func(at store.Table, r *store.Row) bool {
		if at == store.Intents && r.Key == bad {
			r.Value[len(r.Value)-1] ^= 1
		}
		return true
	}
	all, err := f.Intents(f.ctx())
	if wantKind(t, err, user.RowDamaged); !strings.Contains(err.Error(), bad.String()) {
		t.Errorf("the error does not name it: %v", err)
	}
	if len(all) != 1 || all[0].Arrival != good.Arrival {
		t.Errorf("%d others", len(all))
	}
}

// TestStaleKeys: where keys were wiped for want of Vault, that is what is said,
// and what does not need them goes on.
func TestStaleKeys(t *testing.T) {
	f, _ := peopled(t)
	f.keys.Wipe(keyring.Private)
	_, err := f.Private(f.ctx(), app, "h1")
	wantKind(t, err, user.VaultStale)
	wantKind(t, f.Ready(), user.VaultStale)
	if _, err := f.Public(f.ctx(), app, "h1"); err != nil {
		t.Error(err)
	}
	if err := f.keys.Reload(f.ctx()); err != nil {
		t.Fatal(err)
	}
	if err := f.Ready(); err != nil {
		t.Error(err)
	}
	if _, err := f.Private(f.ctx(), app, "h1"); err != nil {
		t.Error(err)
	}
}

// TestKeptTokensAreWiped: a write that only seals tokens anew leaves no copy.
func TestKeptTokensAreWiped(t *testing.T) {
	f, _ := peopled(t)
	var held user.Private
	err := f.Kept(f.ctx(), app, "h1", func(p user.Private) {
		held = p
		if !p.AccessToken.Equal(secret.FromString("marker-access-1")) {
			t.Error("it was wiped before it was used")
		}
	})
	if err != nil || held.AccessToken.Len() == 0 || !held.AccessToken.Equal(secret.New(make([]byte, held.AccessToken.Len()))) {
		t.Fatalf("a copy is left, or %v", err)
	}
}

// failing is a driver whose reads fail.
type failing struct{ store.Driver }

func (failing) Get(context.Context, store.Table, [32]byte) (store.Row, bool, error) {
	return store.Row{}, false, errInjected
}

func (failing) Scan(context.Context, store.Table, *[32]byte, int) ([]store.Row, error) {
	return nil, errInjected
}
