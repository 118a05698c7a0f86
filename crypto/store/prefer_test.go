package store_test

import (
	"errors"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/user"
)

func TestPrefer(t *testing.T) {
	f := newFixture(t)
	f.commit(f.begin("h1", "1"), "c1")
	f.commit(f.begin("h2", "2"), "c1")
	f.commit(f.begin("h3", "3"), "c3")
	_, err := f.ByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.AmbiguousUser)
	if f.clean().Ambiguous != 1 {
		t.Error("the ambiguous one is not counted")
	}
	f.candidates("c1", -1, "h1", "h2")
	f.candidates("c3", -1, "h3")
	f.candidates("nobody", -1)
	for _, human := range []user.HumanID{"h3", "nobody"} {
		_, err = f.Prefer(f.ctx(), app, "c1", human)
		wantKind(t, err, user.UnknownUser)
	}
	_, err = f.Prefer(f.ctx(), app, "nobody", "h1")
	wantKind(t, err, user.UnknownUser)
	for place, human := range []user.HumanID{0: "h1", 1: "h2"} {
		f.faults.Set(nil, nil)
		for range 2 {
			if got, err := f.Prefer(f.ctx(), app, "c1", human); err != nil || got.HumanID != human {
				t.Fatal(err)
			}
		}
		if n := f.faults.Applies(); n != 1 {
			t.Errorf("%d writes", n)
		}
		f.reopen()
		if got, err := f.ByClientUserID(f.ctx(), app, "c1"); err != nil || got.HumanID != human {
			t.Fatalf("by clientUserId: %v", err)
		}
		f.candidates("c1", place, "h1", "h2")
	}
	// A third one who comes does not make it ambiguous again.
	f.commit(f.begin("h4", "4"), "c1")
	if got, err := f.ByClientUserID(f.ctx(), app, "c1"); err != nil || got.HumanID != "h2" {
		t.Fatalf("by clientUserId: %v", err)
	}
	if f.candidates("c1", 1, "h1", "h2", "h4"); f.clean().Ambiguous != 0 {
		t.Error("it counts as ambiguous")
	}
}

func (f *fixture) candidates(id user.ClientUserID, preferred int, want ...user.HumanID) {
	f.t.Helper()
	users, at, err := f.AllByClientUserID(f.ctx(), app, id)
	if err != nil || at != preferred || len(users) != len(want) {
		f.t.Fatalf("%d users, preferred %d, %v", len(users), at, err)
	}
	for i, u := range users {
		if u.HumanID != want[i] {
			f.t.Fatalf("place %d is another user's", i)
		}
	}
}

// TestPreferFails: a write that fails changes nothing, one whose answer is lost is
// found by the repeat.
func TestPreferFails(t *testing.T) {
	f := newFixture(t)
	f.commit(f.begin("h1", "1"), "c1")
	f.commit(f.begin("h2", "2"), "c1")
	fail := func(n int) error {
		if n == 1 {
			return errInjected
		}
		return nil
	}
	f.faults.Set(fail, nil)
	_, err := f.Prefer(f.ctx(), app, "c1", "h2")
	wantKind(t, err, user.StoreUnavailable)
	f.candidates("c1", -1, "h1", "h2")
	f.faults.Set(nil, fail)
	_, err = f.Prefer(f.ctx(), app, "c1", "h2")
	wantKind(t, err, user.StoreUnavailable)
	if _, err := f.Prefer(f.ctx(), app, "c1", "h2"); err != nil {
		t.Fatal(err)
	}
	f.candidates("c1", 1, "h1", "h2")
}

func TestEmpty(t *testing.T) {
	f := newFixture(t)
	want := func(empty bool) {
		t.Helper()
		if got, err := f.Empty(f.ctx()); err != nil || got != empty {
			t.Fatalf("empty: %v, %v", got, err)
		}
	}
	want(true)
	in := f.begin("h1", "1")
	want(false)
	f.finish(in, user.Unsent, "")
	want(true)
	f.finish(f.begin("h1", "1"), user.Refused, user.SessionRefused)
	want(false)
}

// TestDamagedRows: what was altered is told from what cannot be read now.
func TestDamagedRows(t *testing.T) {
	f, a := peopled(t)
	in := f.begin("h1", "5")
	bend := func(table store.Table, key [32]byte) {
		a.alter = func(at store.Table, r *store.Row) bool {
			if at == table && r.Key == key {
				r.Value[60] ^= 1 // in a users row of the public box
			}
			return true
		}
	}
	bend(store.Users, f.keys.HumanRow(app, "h1"))
	_, err := f.Public(f.ctx(), app, "h1")
	wantKind(t, err, user.RowDamaged)
	_, err = f.Private(f.ctx(), app, "h1")
	wantKind(t, err, user.RowDamaged)
	_, err = f.ByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.RowDamaged)
	_, _, err = f.AllByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.RowDamaged)
	_, err = f.Commit(f.ctx(), in, answer(in, "c1"))
	wantKind(t, err, user.RowDamaged)
	wantKind(t, f.Finish(f.ctx(), in, user.IndeterminateOutcome, ""), user.RowDamaged)
	f.faults.Set(nil, nil)
	_, err = f.Begin(f.ctx(), intent("h1", "6"))
	if wantKind(t, err, user.RowDamaged); f.faults.Applies() != 0 {
		t.Error("an intent was written for tokens that cannot be stored")
	}
	f.wantImported(f.imports(elsewhere(1, ""), elsewhere(9, "")), 1, 0, 0)
	bend(store.Index, f.keys.IndexRow(app, "c1"))
	_, err = f.ByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.RowDamaged)
	_, err = f.Prefer(f.ctx(), app, "c1", "h1")
	wantKind(t, err, user.RowDamaged)
	bend(store.Sessions, f.keys.SessionRow(app, intent("", "1").SessionToken))
	_, _, err = f.Session(f.ctx(), app, "h1", intent("", "1").SessionToken)
	wantKind(t, err, user.RowDamaged)
	_, err = f.Begin(f.ctx(), intent("h1", "1"))
	wantKind(t, err, user.RowDamaged)
	bend(store.Intents, f.keys.SessionRow(app, in.SessionToken))
	_, _, err = f.Session(f.ctx(), app, "h1", in.SessionToken)
	wantKind(t, err, user.RowDamaged)
	f.keys.Wipe(keyring.Private)
	a.alter = nil
	_, err = f.Private(f.ctx(), app, "h1")
	wantKind(t, err, user.VaultStale)
	if err := f.keys.Reload(f.ctx()); err != nil {
		t.Fatal(err)
	}
}

// TestKeysOutOfReach: a keyring that changed while Vault is away is no damage.
func TestKeysOutOfReach(t *testing.T) {
	f, _ := peopled(t)
	blob, version, err := f.bolt.LoadKeyring(f.ctx())
	if err == nil {
		_, err = f.bolt.SwapKeyring(f.ctx(), version, blob)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.keys.Wipe(keyring.Private)
	outage.Store(true)
	defer outage.Store(false)
	_, err = f.Begin(f.ctx(), intent("h1", "9"))
	if wantKind(t, err, user.VaultStale); !errors.Is(err, errOutage) {
		t.Errorf("got %v", err)
	}
	if _, err := f.Public(f.ctx(), app, "h1"); err != nil {
		t.Error(err)
	}
	_, err = f.Check(f.ctx())
	wantKind(t, err, user.VaultStale)
	outage.Store(false)
	f.begin("h1", "9") // recovers by itself
}
