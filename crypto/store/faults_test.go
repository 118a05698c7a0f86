package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
)

var errInjected = errors.New("injected")

// life does one of everything, and repeats what failed, as the broker does.
func (f *fixture) life() {
	f.t.Helper()
	first := f.beginStubbornly("h1", "1")
	f.commitStubbornly(first, "c1")
	late, doubt := f.beginStubbornly("h1", "2"), f.beginStubbornly("h1", "3")
	f.finishStubbornly(doubt, user.IndeterminateOutcome)
	f.commitStubbornly(late, "")
	f.stubbornly(func() error {
		_, err := f.PutPublicToken(f.ctx(), app, "h1", "marker-fetched")
		return err
	})
	f.finishStubbornly(f.beginStubbornly("h2", "4"), user.Rejected)
	f.finishStubbornly(f.beginStubbornly("h2", "5"), user.Unsent)
	f.commitStubbornly(f.beginStubbornly("h2", "6"), "c1")
	f.finishStubbornly(f.beginStubbornly("h3", "7"), user.IndeterminateOutcome)
	f.clock.Add(2 * store.DefaultReplayWindow)
	f.stubbornly(func() error { _, _, err := f.Sweep(f.ctx(), 0); return err })
	f.commitStubbornly(f.beginStubbornly("h3", "7"), "c3")
}

// stubbornly repeats what failed; every failure must be of the injected kind,
// and must leave a consistent store.
func (f *fixture) stubbornly(do func() error) {
	f.t.Helper()
	for range 3 {
		err := do()
		if err == nil {
			return
		}
		if !errors.Is(err, errInjected) {
			f.t.Fatalf("got %v", err)
		}
		wantKind(f.t, err, user.StoreUnavailable)
		f.clean()
	}
	f.t.Fatal("it never succeeded")
}

func (f *fixture) beginStubbornly(human, session string) (in user.Intent) {
	f.t.Helper()
	f.stubbornly(func() (err error) {
		in, err = f.Begin(f.ctx(), intent(human, session))
		if !errors.Is(err, store.ErrSessionKnown) {
			return err
		}
		// It took effect, and only its answer was lost: a start finds it.
		all, err := f.Intents(f.ctx())
		for _, found := range all {
			if found.SessionToken.Equal(intent(human, session).SessionToken) {
				in = found
			}
		}
		return err
	})
	if in.Arrival == 0 {
		f.t.Fatal("the intent is lost")
	}
	return in
}

func (f *fixture) commitStubbornly(in user.Intent, id user.ClientUserID) {
	f.t.Helper()
	f.stubbornly(func() error { _, err := f.Commit(f.ctx(), in, answer(in, id)); return err })
}

func (f *fixture) finishStubbornly(in user.Intent, outcome user.Outcome) {
	f.t.Helper()
	f.stubbornly(func() error { return f.Finish(f.ctx(), in, outcome, user.ExchangeUnknown) })
}

// outline is what life must have led to.
func (f *fixture) outline() string {
	f.t.Helper()
	out := ""
	for _, human := range []user.HumanID{"h1", "h2", "h3"} {
		rec, err := f.Private(f.ctx(), app, human)
		if err != nil {
			f.t.Fatal(err)
		}
		want := answer(user.Intent{Arrival: rec.Arrival}, "")
		out += fmt.Sprintf("%s %s %v %v; ", rec.ClientUserID, rec.State, rec.AccessToken.Equal(want.AccessToken), rec.PublicToken == want.PublicToken)
	}
	_, err := f.ByClientUserID(f.ctx(), app, "c1")
	return out + fmt.Sprint(user.KindOf(err), f.clean().Counts)
}

// TestEveryWriteFails lets each write fail before, and after it took effect.
func TestEveryWriteFails(t *testing.T) {
	reference := newFixture(t)
	reference.faults.Set(nil, nil)
	reference.life()
	writes, want := reference.faults.Applies(), reference.outline()
	if writes < 15 {
		t.Fatalf("only %d writes", writes)
	}
	for n := 1; n <= writes; n++ {
		for when, set := range map[string]func(*fixture, func(int) error){
			"before": func(f *fixture, fail func(int) error) { f.faults.Set(fail, nil) },
			"after":  func(f *fixture, fail func(int) error) { f.faults.Set(nil, fail) },
		} {
			t.Run(fmt.Sprintf("%s write %d", when, n), func(t *testing.T) {
				f := newFixture(t)
				set(f, func(i int) error {
					if i == n {
						return errInjected
					}
					return nil
				})
				f.life()
				f.reopen()
				if got := f.outline(); got != want {
					t.Fatalf("it led to\n%s, not to\n%s", got, want)
				}
			})
		}
	}
}

// TestFence changes the keyring's version between seal and commit.
func TestFence(t *testing.T) {
	f := newFixture(t)
	bump := func(n int) error {
		if n > 2 {
			return nil
		}
		blob, version, err := f.bolt.LoadKeyring(f.ctx())
		if err == nil {
			_, err = f.bolt.SwapKeyring(f.ctx(), version, blob)
		}
		return err
	}
	before := f.keys.Version()
	f.faults.Set(bump, nil)
	in := f.begin("h1", "1")
	if f.faults.Applies() != 3 || f.keys.Version() != before+2 {
		t.Fatalf("%d writes, version %d after %d", f.faults.Applies(), f.keys.Version(), before)
	}
	f.faults.Set(bump, nil)
	f.commit(in, "c1")
	if f.faults.Applies() != 3 {
		t.Fatalf("%d writes", f.faults.Applies())
	}
	f.holds("h1", in.Arrival, user.Active)
	f.faults.Set(func(int) error { return bump(0) }, nil)
	_, err := f.Begin(f.ctx(), intent("h1", "2"))
	wantKind(t, err, user.StoreUnavailable) // bounded
	f.faults.Set(nil, nil)
}

func TestBrokenDriverIsNamed(t *testing.T) {
	f := newFixture(t)
	f.faults.Set(func(int) error { return store.ErrBroken }, nil)
	_, err := f.Begin(f.ctx(), intent("h1", "1"))
	if wantKind(t, err, user.StoreUnavailable); !errors.Is(err, store.ErrBroken) {
		t.Fatalf("got %v", err)
	}
	f.faults.Set(nil, nil)
}

func TestClosed(t *testing.T) {
	f := newFixture(t)
	in := f.begin("h1", "1")
	s := f.Store
	f.close()
	_, err := s.Public(f.ctx(), app, "h1")
	wantKind(t, err, user.StoreUnavailable)
	_, err = s.Commit(f.ctx(), in, answer(in, ""))
	wantKind(t, err, user.StoreUnavailable)
	_, err = s.Check(f.ctx())
	wantKind(t, err, user.StoreUnavailable)
	wantKind(t, s.Ready(), user.StoreUnavailable)
	_, _, err = s.Intent(f.ctx(), app, in.SessionToken)
	wantKind(t, err, user.StoreUnavailable)
}

// TestCrashImage opens copies of the file that were made while it was written.
func TestCrashImage(t *testing.T) {
	f := newFixture(t)
	var ins []user.Intent
	for n := range 8 {
		in := f.begin(fmt.Sprint("h", n), fmt.Sprint(n))
		if ins = append(ins, in); n%2 == 0 {
			f.commit(in, "c1")
		}
		data, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		image := &fixture{t: t, path: filepath.Join(t.TempDir(), "image.db"), clock: f.clock}
		if err := os.WriteFile(image.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		image.open(boltstore.Config{Path: image.path})
		all, err := image.Intents(f.ctx())
		if err != nil || len(all) != (n+1)/2 {
			t.Fatalf("image %d: %d intents, %v", n, len(all), err)
		}
		for i, in := range ins {
			if i%2 == 0 {
				image.holds(string(in.HumanID), in.Arrival, user.Active)
			}
		}
		image.clean()
		image.close()
	}
}

func TestReadOnly(t *testing.T) {
	f := newFixture(t)
	in := f.begin("h1", "1")
	f.commit(in, "c1")
	f.close()
	f.open(boltstore.Config{Path: f.path, ReadOnly: true})
	f.holds("h1", in.Arrival, user.Active)
	f.clean()
	_, err := f.Begin(f.ctx(), intent("h1", "2"))
	wantKind(t, err, user.StoreUnavailable)
}

func TestOpenRefuses(t *testing.T) {
	f := newFixture(t)
	fresh, err := boltstore.Open(f.ctx(), boltstore.Config{Path: filepath.Join(t.TempDir(), "fresh.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	for name, c := range map[string]store.Config{
		"no driver": {Keys: f.keys}, "no keys": {Driver: f.bolt},
		"negative window":       {Driver: f.bolt, Keys: f.keys, ReplayWindow: -time.Second},
		"a driver without keys": {Driver: fresh, Keys: f.keys},
	} {
		if _, err := store.Open(f.ctx(), c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
