package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// elsewhere is what an app kept of a user until now.
func elsewhere(n int, id user.ClientUserID) user.Record {
	return user.Record{
		Public:  user.Public{ClientID: app, HumanID: user.HumanID(fmt.Sprint("h", n)), ClientUserID: id, PublicToken: user.PublicToken(fmt.Sprint("marker-public-kept-", n))},
		Private: user.Private{AccessToken: secret.FromString(fmt.Sprint("marker-access-kept-", n)), ExpiresAt: time.Unix(1_900_000_000, 0).UTC()},
	}
}

func (f *fixture) imports(records ...user.Record) store.Imported {
	f.t.Helper()
	got, err := f.Import(f.ctx(), records)
	if err != nil {
		f.t.Fatal(err)
	}
	return got
}

func (f *fixture) wantImported(got store.Imported, stored, known int, conflicts ...int) {
	f.t.Helper()
	if got.Stored != stored || got.Known != known || !slices.Equal(got.Conflicts, conflicts) {
		f.t.Fatalf("imported %+v, want %d stored, %d known, conflicts %v", got, stored, known, conflicts)
	}
}

// kept fails unless the store has what the app had.
func (f *fixture) kept(n int) {
	f.t.Helper()
	want := elsewhere(n, "")
	got, err := f.Private(f.ctx(), app, want.HumanID)
	if err != nil || got.PublicToken != want.PublicToken || !got.AccessToken.Equal(want.AccessToken) || !got.ExpiresAt.Equal(want.ExpiresAt) || got.Arrival != 0 || got.State != user.Active {
		f.t.Fatalf("user %d is not as it was kept elsewhere: %v", n, err)
	}
}

func TestImport(t *testing.T) {
	f := newFixture(t)
	var records []user.Record
	for n := range 600 {
		records = append(records, elsewhere(n, user.ClientUserID(fmt.Sprint("c", n/2))))
	}
	before := f.bolt.Commits()
	f.wantImported(f.imports(records...), 600, 0)
	if n := f.bolt.Commits() - before; n != 3 {
		t.Errorf("%d transactions for 600 users", n)
	}
	for n := range 600 {
		f.kept(n)
	}
	if report := f.clean(); report.Ambiguous != 300 || report.States["active"] != 600 || report.Counts["sessions"] != 0 {
		t.Errorf("%+v", report)
	}
	f.wantImported(f.imports(records...), 0, 600)
	// Every exchange is later than what was imported.
	in := f.begin("h7", "1")
	f.commit(in, "")
	f.holds("h7", in.Arrival, user.Active)
	f.wantImported(f.imports(records[7]), 0, 0, 0)
	f.holds("h7", in.Arrival, user.Active)
}

func TestImportDecides(t *testing.T) {
	f := newFixture(t)
	f.commit(f.begin("h1", "1"), "c1")
	f.finish(f.begin("h2", "2"), user.IndeterminateOutcome, user.ExchangeUnknown)
	for _, n := range []int{3, 4} {
		if _, err := f.PutPublicToken(f.ctx(), app, user.HumanID(fmt.Sprint("h", n)), elsewhere(3, "").PublicToken); err != nil {
			t.Fatal(err)
		}
	}
	twice := elsewhere(5, "")
	other := elsewhere(5, "")
	other.AccessToken = secret.FromString("marker-access-other")
	renamed := elsewhere(6, "c7")
	bare := elsewhere(8, "")
	bare.Private = user.Private{}
	got := f.imports(
		elsewhere(1, "c1"),  // 0: conflict: it has tokens of an exchange
		elsewhere(2, ""),    // 1: conflict: indeterminate
		elsewhere(3, "c3"),  // 2: completed: its publicToken is the same
		elsewhere(4, ""),    // 3: conflict: it has another publicToken
		twice, twice, other, // 4 stored, 5 known, 6 conflict
		elsewhere(6, "c6"), renamed, // 7 stored, 8 conflict
		elsewhere(6, ""), bare, // 9 known, 10 stored
		elsewhere(8, ""), elsewhere(8, ""), // 11 completed, 12 known
		elsewhere(5, "c5"), // 13: completed with its clientUserId
	)
	f.wantImported(got, 6, 3, 0, 1, 3, 6, 8)
	f.holds("h1", 1, user.Active)
	for _, n := range []int{3, 5, 6, 8} {
		f.kept(n)
	}
	for id, human := range map[user.ClientUserID]user.HumanID{"c1": "h1", "c3": "h3", "c5": "h5", "c6": "h6"} {
		if got, err := f.ByClientUserID(f.ctx(), app, id); err != nil || got.HumanID != human {
			t.Errorf("by clientUserId: %v", err)
		}
	}
	if report := f.clean(); report.States["indeterminate"] != 1 || report.States["active"] != 6 {
		t.Errorf("%v", report.States)
	}
	for name, bad := range map[string]user.Record{
		"no app": {Public: user.Public{HumanID: "h9", PublicToken: "marker"}}, "no user": {Public: user.Public{ClientID: app, PublicToken: "marker"}},
		"no token": {Public: user.Public{ClientID: app, HumanID: "h9"}},
	} {
		if _, err := f.Import(f.ctx(), []user.Record{elsewhere(9, ""), bad}); err == nil {
			t.Errorf("%s: imported", name)
		}
	}
	_, err := f.Public(f.ctx(), app, "h9")
	wantKind(t, err, user.UnknownUser)
}

// TestImportGoesOn lets every write of an import fail, before and after it took
// effect; the same records again make it whole.
func TestImportGoesOn(t *testing.T) {
	var records []user.Record
	for n := range 600 {
		records = append(records, elsewhere(n, "c1"))
	}
	for n := 1; n <= 3; n++ {
		for _, after := range []bool{false, true} {
			f := newFixture(t)
			fail := func(i int) error {
				if i == n {
					return errInjected
				}
				return nil
			}
			if after {
				f.faults.Set(nil, fail)
			} else {
				f.faults.Set(fail, nil)
			}
			first, err := f.Import(f.ctx(), records)
			if wantKind(t, err, user.StoreUnavailable); first.Stored != 256*(n-1) {
				t.Fatalf("write %d: %+v", n, first)
			}
			f.clean()
			second := f.imports(records...)
			durable := first.Stored
			if after {
				durable = min(256*n, 600)
			}
			f.wantImported(second, 600-durable, durable)
			for n := range 600 {
				f.kept(n)
			}
		}
	}
}

// TestImportBesideExchanges: whoever comes first, no exchange loses its tokens.
func TestImportBesideExchanges(t *testing.T) {
	f := newFixture(t)
	var records []user.Record
	for n := range 512 {
		records = append(records, elsewhere(n, ""))
	}
	ends := make(chan user.Intent, 512)
	go func() {
		defer close(ends)
		for n := range 40 {
			in := f.begin(fmt.Sprint("h", n*12), fmt.Sprint(n))
			f.commit(in, "c1")
			ends <- in
		}
	}()
	got := f.imports(records...)
	for in := range ends {
		f.holds(string(in.HumanID), in.Arrival, user.Active)
	}
	if got.Stored+len(got.Conflicts) != 512 || got.Known != 0 {
		t.Errorf("%d stored, %d conflicts", got.Stored, len(got.Conflicts))
	}
}

// scarce is a driver whose disk is nearly full.
type scarce struct {
	store.Driver
	why error
}

func (s *scarce) Low() error { return s.why }

func (s *scarce) Apply(ctx context.Context, b store.Batch) error {
	if s.why != nil && !b.Spare {
		return store.ErrFull
	}
	return s.Driver.Apply(ctx, b)
}

func TestLow(t *testing.T) {
	f, s := newFixture(t), &scarce{}
	f.close()
	f.wrap = func(d store.Driver) store.Driver { s.Driver = d; return s }
	f.open(boltstore.Config{Path: f.path})
	in, doubt := f.begin("h1", "1"), f.begin("h1", "2")
	s.why = errors.New("3 bytes left")
	f.faults.Set(nil, nil)
	_, err := f.Begin(f.ctx(), intent("h1", "3"))
	if wantKind(t, err, user.StoreUnavailable); !errors.Is(err, s.why) || f.faults.Applies() != 0 {
		t.Errorf("got %v", err)
	}
	if wantKind(t, f.Low(), user.StoreUnavailable); !errors.Is(f.Low(), s.why) {
		t.Error("it does not say why")
	}
	f.commit(in, "c1")
	f.finish(doubt, user.IndeterminateOutcome, user.ExchangeUnknown)
	f.holds("h1", in.Arrival, user.Indeterminate)
	_, err = f.Import(f.ctx(), []user.Record{elsewhere(2, "")})
	if wantKind(t, err, user.StoreUnavailable); !errors.Is(err, store.ErrFull) {
		t.Errorf("an import took what is held in reserve: %v", err)
	}
	s.why = nil
	if err := f.Low(); err != nil {
		t.Error(err)
	}
	f.begin("h1", "3")
}
