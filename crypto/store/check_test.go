package store_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// altering is a driver that shows rows other than they are.
type altering struct {
	store.Driver
	alter func(store.Table, *store.Row) (shown bool)
}

// Get looks through what Scan shows, so that the two agree about keys too.
func (a *altering) Get(ctx context.Context, t store.Table, key [32]byte) (store.Row, bool, error) {
	if a.alter == nil {
		return a.Driver.Get(ctx, t, key)
	}
	rows, err := a.Scan(ctx, t, nil, 1000)
	for _, row := range rows {
		if row.Key == key {
			return row, true, err
		}
	}
	return store.Row{}, false, err
}

func (a *altering) Scan(ctx context.Context, t store.Table, after *[32]byte, limit int) ([]store.Row, error) {
	rows, err := a.Driver.Scan(ctx, t, after, limit)
	shown := rows[:0]
	for _, row := range rows {
		if a.alter == nil || a.alter(t, &row) {
			shown = append(shown, row)
		}
	}
	return shown, err
}

// peopled is a store with something in every table, over a driver that alters.
func peopled(t testing.TB) (*fixture, *altering) {
	f, a := newFixture(t), &altering{}
	f.close()
	f.wrap = func(d store.Driver) store.Driver { a.Driver = d; return a }
	f.open(boltstore.Config{Path: f.path})
	f.commit(f.begin("h1", "1"), "c1")
	f.commit(f.begin("h2", "2"), "c2")
	f.finish(f.begin("h2", "3"), user.IndeterminateOutcome, user.ExchangeUnknown)
	f.begin("h1", "4")
	t.Cleanup(func() { a.alter = nil })
	if got := f.clean().Counts; fmt.Sprint(got) != "map[index:2 intents:1 marks:1 sessions:3 users:2]" {
		t.Fatalf("counts %v", got)
	}
	return f, a
}

func rowsOf(t testing.TB, d store.Driver, table store.Table) []store.Row {
	t.Helper()
	rows, err := d.Scan(context.Background(), table, nil, 100)
	if err != nil || len(rows) == 0 {
		t.Fatalf("%s: %d rows, %v", table, len(rows), err)
	}
	return rows
}

// finds fails unless Check names the row, and says what it says.
func (f *fixture) finds(what string, table store.Table, key [32]byte, says string) {
	f.t.Helper()
	report, err := f.Check(f.ctx())
	if err != nil {
		f.t.Fatalf("%s: %v", what, err)
	}
	for _, p := range report.Problems {
		if strings.HasPrefix(p, table.String()+" row "+hex.EncodeToString(key[:])) && strings.Contains(p, says) {
			return
		}
	}
	f.t.Errorf("%s in %s was not found: %q", what, table, report.Problems)
}

func TestCheckFindsEveryFlippedByte(t *testing.T) {
	f, a := peopled(t)
	for _, table := range store.Tables {
		for _, row := range rowsOf(t, f.bolt, table) {
			for i := range row.Value {
				a.alter = func(at store.Table, r *store.Row) bool {
					if at == table && r.Key == row.Key {
						r.Value[i] ^= 0x01
					}
					return true
				}
				f.finds(fmt.Sprintf("byte %d", i), table, row.Key, "")
			}
		}
	}
}

func TestCheckFindsAlteredRows(t *testing.T) {
	f, a := peopled(t)
	for _, table := range store.Tables {
		for _, row := range rowsOf(t, f.bolt, table) {
			for what, alter := range map[string]func(*store.Row){
				"a higher revision": func(r *store.Row) { r.Revision++ }, "a lower revision": func(r *store.Row) { r.Revision-- },
				"a cut value": func(r *store.Row) { r.Value = r.Value[:len(r.Value)-1] }, "a longer value": func(r *store.Row) { r.Value = append(r.Value, 0) },
				"an empty value": func(r *store.Row) { r.Value = nil }, "nothing but one byte": func(r *store.Row) { r.Value = []byte{1} },
			} {
				a.alter = func(at store.Table, r *store.Row) bool {
					if at == table && r.Key == row.Key {
						alter(r)
					}
					return true
				}
				says := ""
				if strings.HasSuffix(what, "revision") && table != store.Marks {
					says = "revision of row and box disagree"
				}
				f.finds(what, table, row.Key, says)
			}
			moved := row.Key
			moved[31] ^= 1
			a.alter = func(at store.Table, r *store.Row) bool {
				if at == table && r.Key == row.Key {
					r.Key = moved
				}
				return true
			}
			f.finds("a row under another key", table, moved, "")
		}
	}
}

func TestCheckFindsSwappedRows(t *testing.T) {
	f, a := peopled(t)
	for _, table := range []store.Table{store.Users, store.Index, store.Sessions} {
		rows := rowsOf(t, f.bolt, table)
		one, two := rows[0], rows[1]
		a.alter = func(at store.Table, r *store.Row) bool {
			if at == table && r.Key == one.Key {
				r.Value, r.Revision = bytes.Clone(two.Value), two.Revision
			} else if at == table && r.Key == two.Key {
				r.Value, r.Revision = bytes.Clone(one.Value), one.Revision
			}
			return true
		}
		f.finds("a swap", table, one.Key, "")
		f.finds("a swap", table, two.Key, "")
	}
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	f, a := peopled(t)
	hide := func(table store.Table, key [32]byte) {
		a.alter = func(at store.Table, r *store.Row) bool { return at != table || r.Key != key }
	}
	h1, h2 := f.keys.HumanRow(app, "h1"), f.keys.HumanRow(app, "h2")
	c1 := f.keys.IndexRow(app, "c1")
	hide(store.Index, c1)
	f.finds("a missing index entry", store.Users, h1, "the index does not name it")
	hide(store.Marks, h2)
	f.finds("a missing mark", store.Users, h2, "has no mark")
	hide(store.Users, h2)
	f.finds("a mark of nobody", store.Marks, h2, "not there")
	hide(store.Users, h1)
	f.finds("an index entry that names nobody", store.Index, c1, "not there")
	f.finds("a session of nobody", store.Sessions, f.keys.SessionRow(app, intent("h1", "1").SessionToken), "not there")
}

func TestCheckFindsWhatIsTooMuch(t *testing.T) {
	f, a := peopled(t)
	h1 := f.keys.HumanRow(app, "h1")
	mark := rowsOf(t, f.bolt, store.Marks)[0]
	// A mark that is shown for another user, beside the right one missing.
	a.alter = func(at store.Table, r *store.Row) bool {
		if at == store.Marks {
			r.Key = h1
		}
		return true
	}
	f.finds("a mark of an active user", store.Marks, h1, "is active")
	a.alter = nil
	// An older revision of a row beside today's tables: the user was active then.
	old := rowsOf(t, f.bolt, store.Users)
	f.commit(f.begin("h2", "5"), "c2")
	a.alter = func(at store.Table, r *store.Row) bool {
		for _, o := range old {
			if at == store.Users && o.Key == r.Key {
				r.Value, r.Revision = bytes.Clone(o.Value), o.Revision
			}
		}
		return true
	}
	f.finds("a row put back", store.Users, mark.Key, "has no mark")
}

func TestCheckFindsMixedBoxes(t *testing.T) {
	f, a := peopled(t)
	h1 := f.keys.HumanRow(app, "h1")
	before, _, err := f.bolt.Get(f.ctx(), store.Users, h1)
	if err != nil {
		t.Fatal(err)
	}
	f.commit(f.begin("h1", "5"), "c1")
	// Both envelopes of a row are of the same lengths here, and stand one after
	// the other: version, length, public, length, private.
	half := len(before.Value) / 2
	a.alter = func(at store.Table, r *store.Row) bool {
		if at == store.Users && r.Key == h1 {
			r.Value = append(r.Value[:len(r.Value)-half/2], before.Value[len(before.Value)-half/2:]...)
		}
		return true
	}
	f.finds("a private box of another revision", store.Users, h1, "private box")
}

func TestCheckFindsAnUnknownKey(t *testing.T) {
	f, a := peopled(t)
	for table, skip := range map[store.Table]int{store.Users: 5, store.Index: 0, store.Sessions: 0, store.Intents: 0} {
		row := rowsOf(t, f.bolt, table)[0]
		a.alter = func(at store.Table, r *store.Row) bool {
			if at == table && r.Key == row.Key {
				r.Value[skip+3] ^= 1 // the key id stands behind magic and version
			}
			return true
		}
		f.finds("an unknown key", table, row.Key, "no such key")
	}
}

func TestCheckBoundsItsReport(t *testing.T) {
	f, a := peopled(t)
	for n := range 60 {
		f.commit(f.begin(fmt.Sprint("many", n), fmt.Sprint("many", n)), "")
	}
	a.alter = func(_ store.Table, r *store.Row) bool { r.Revision += 1000; return true }
	report, err := f.Check(f.ctx())
	if err != nil || len(report.Problems) != 100 || report.Omitted == 0 {
		t.Fatalf("%d problems and %d more, %v", len(report.Problems), report.Omitted, err)
	}
}

func TestCheckBesideWriters(t *testing.T) {
	f := newFixture(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 100 {
			in := f.begin("h1", fmt.Sprint(n))
			if n%2 == 0 {
				f.finish(in, user.IndeterminateOutcome, "")
			} else {
				f.commit(in, "c1")
			}
		}
	}()
	for {
		f.clean()
		select {
		case <-done:
			return
		default:
		}
	}
}

// TestPublicNeverOpensThePrivateBox: a public lookup works where the private box
// cannot be opened.
func TestPublicNeverOpensThePrivateBox(t *testing.T) {
	f, a := peopled(t)
	h1 := f.keys.HumanRow(app, "h1")
	a.alter = func(at store.Table, r *store.Row) bool {
		if at == store.Users && r.Key == h1 {
			r.Value[len(r.Value)-1] ^= 1
		}
		return true
	}
	if _, err := f.Public(f.ctx(), app, "h1"); err != nil {
		t.Error(err)
	}
	if _, err := f.ByClientUserID(f.ctx(), app, "c1"); err != nil {
		t.Error(err)
	}
	_, err := f.Private(f.ctx(), app, "h1")
	if wantKind(t, err, user.RowDamaged); !strings.Contains(err.Error(), h1.String()) {
		t.Errorf("the error does not name the row: %v", err)
	}
	// A commit replaces both boxes, and so repairs it.
	in := f.begin("h1", "5")
	f.commit(in, "c1")
	a.alter = nil
	f.holds("h1", in.Arrival, user.Active)
}

// TestRandomAlterations: whatever the driver shows, no reader is given another
// user, and no error shows what must not be shown.
func TestRandomAlterations(t *testing.T) {
	f, a := peopled(t)
	random := rand.New(rand.NewPCG(1, 2))
	var pool []store.Row
	for _, table := range store.Tables {
		pool = append(pool, rowsOf(t, f.bolt, table)...)
	}
	a.alter = func(_ store.Table, r *store.Row) bool {
		other := pool[random.IntN(len(pool))]
		switch random.IntN(6) {
		case 0:
			r.Value = bytes.Clone(other.Value)
		case 1:
			r.Value, r.Revision = bytes.Clone(other.Value), other.Revision
		case 2:
			r.Value[random.IntN(len(r.Value))] ^= byte(1 + random.IntN(255))
		case 3:
			r.Value = r.Value[:random.IntN(len(r.Value))]
		case 4:
			return false
		}
		return true
	}
	for range 2000 {
		for human, id := range map[user.HumanID]user.ClientUserID{"h1": "c1", "h2": "c2"} {
			rec, err := f.Private(f.ctx(), app, human)
			silent(t, err)
			if err == nil && (rec.HumanID != human || rec.ClientUserID != id) {
				t.Fatal("another user's record")
			}
			public, err := f.ByClientUserID(f.ctx(), app, id)
			silent(t, err)
			if err == nil && public.HumanID != human {
				t.Fatal("another user by clientUserId")
			}
			_, _, err = f.Session(f.ctx(), app, human, intent(string(human), "1").SessionToken)
			silent(t, err)
		}
		_, err := f.Intents(f.ctx())
		silent(t, err)
	}
}

func silent(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if user.KindOf(err) == "" {
		t.Fatalf("an error without a kind: %v", err)
	}
	if strings.Contains(err.Error(), "marker") {
		t.Fatal("an error shows what must not be shown")
	}
}

// TestNothingInClear looks for everything that was stored in the file itself.
func TestNothingInClear(t *testing.T) {
	f := newFixture(t)
	in := intent("marker-human", "1")
	in.RequestID, in.Rule, in.Expected, in.ExpectedSet = "marker-request", "marker-rule", "marker-expected@example.com", true
	for n := range 3 {
		in.SessionToken = intent("", fmt.Sprint(n)).SessionToken
		begun, err := f.Begin(f.ctx(), in)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			f.finish(begun, user.IndeterminateOutcome, "")
		} else if n == 0 {
			f.commit(begun, "marker-cuid@example.com")
		}
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, marker := range []string{"marker", "example.com", hex.EncodeToString([]byte("marker"))} {
		if bytes.Contains(data, []byte(marker)) {
			t.Error("something stands in the file in clear")
		}
	}
}

// TestDriverErrors: reads that fail are said to be unavailable.
func TestDriverErrors(t *testing.T) {
	f, a := peopled(t)
	fails := &failing{Driver: a.Driver}
	a.Driver = fails
	defer func() { a.Driver = fails.Driver }()
	_, err := f.Public(f.ctx(), app, "h1")
	wantKind(t, err, user.StoreUnavailable)
	_, err = f.Intents(f.ctx())
	wantKind(t, err, user.StoreUnavailable)
	if _, err = f.Check(f.ctx()); !errors.Is(err, errInjected) {
		t.Fatalf("got %v", err)
	}
	in := intent("h1", "9")
	_, err = f.Commit(f.ctx(), in, answer(in, ""))
	wantKind(t, err, user.StoreUnavailable)
}
