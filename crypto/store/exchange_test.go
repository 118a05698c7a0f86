package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/user"
)

func TestExchange(t *testing.T) {
	f := newFixture(t)
	if _, found := f.session("h1", "1"); found {
		t.Fatal("a session that nobody began is known")
	}
	in := f.begin("h1", "1")
	if in.Arrival == 0 || in.Incarnation != 1 {
		t.Fatalf("arrival %d, incarnation %d", in.Arrival, in.Incarnation)
	}
	if got, found := f.session("h1", "1"); !found || got != (user.Session{Pending: true, SameUser: true}) {
		t.Fatalf("under way: %+v", got)
	}
	if got, found := f.session("h2", "1"); !found || got != (user.Session{}) {
		t.Fatalf("under way, asked by another user: %+v", got)
	}
	if _, err := f.Begin(f.ctx(), intent("h1", "1")); !errors.Is(err, store.ErrSessionKnown) {
		t.Fatalf("begun twice: got %v", err)
	}
	f.reopen()
	all, err := f.Intents(f.ctx())
	if err != nil || len(all) != 1 {
		t.Fatalf("%d intents, %v", len(all), err)
	}
	if got := all[0]; !got.SessionToken.Equal(in.SessionToken) || !got.ReceivedAt.Equal(in.ReceivedAt) || got.Arrival != in.Arrival || got.HumanID != "h1" || got.Rule != "shop-web" {
		t.Fatal("the intent came back changed")
	}
	result := f.commit(all[0], "c1")
	rec := f.holds("h1", in.Arrival, user.Active)
	now := f.clock.Now().UTC()
	if result.Outcome != user.Stored || result.Public != rec.Public || !rec.CreatedAt.Equal(now) || !rec.UpdatedAt.Equal(now) || rec.ExpiresAt.Unix() != 1_900_000_000 {
		t.Fatalf("%s, created %v", result.Outcome, rec.CreatedAt)
	}
	if got, found := f.session("h1", "1"); !found || got != (user.Session{Outcome: user.Stored, FinishedAt: now, SameUser: true}) {
		t.Fatalf("finished: %+v", got)
	}
	if got, found := f.session("h2", "1"); !found || got != (user.Session{}) {
		t.Fatalf("finished, asked by another user: %+v", got)
	}
	if _, err := f.Begin(f.ctx(), intent("h1", "1")); !errors.Is(err, store.ErrSessionKnown) {
		t.Fatalf("begun after its end: got %v", err)
	}
	if got, err := f.ByClientUserID(f.ctx(), app, "c1"); err != nil || got != rec.Public {
		t.Fatalf("by clientUserId: %v", err)
	}
	if all, err := f.Intents(f.ctx()); err != nil || len(all) != 0 {
		t.Fatalf("%d intents after the commit, %v", len(all), err)
	}
}

// TestIntentKeepsWhatWasDemanded: after a crash the answer is held to the same.
func TestIntentKeepsWhatWasDemanded(t *testing.T) {
	f := newFixture(t)
	in := intent("h1", "1")
	in.Expected, in.ExpectedSet, in.BodyUserID, in.BodyUserIDSet = "c1", true, "c2", true
	if _, err := f.Begin(f.ctx(), in); err != nil {
		t.Fatal(err)
	}
	f.reopen()
	got, _, err := f.Intent(f.ctx(), app, in.SessionToken)
	if err != nil || got.Expected != "c1" || !got.ExpectedSet || got.BodyUserID != "c2" || !got.BodyUserIDSet {
		t.Fatalf("it came back without what was demanded, or %v", err)
	}
}

func TestIntentBySession(t *testing.T) {
	f := newFixture(t)
	in := f.begin("h1", "1")
	got, found, err := f.Intent(f.ctx(), app, in.SessionToken)
	if err != nil || !found || got.Arrival != in.Arrival || got.HumanID != in.HumanID || !got.SessionToken.Equal(in.SessionToken) {
		t.Fatalf("under way: %v, found %v, arrival %d", err, found, got.Arrival)
	}
	if _, found, err := f.Intent(f.ctx(), "another-app", in.SessionToken); err != nil || found {
		t.Fatalf("of another app: %v, found %v", err, found)
	}
	f.commit(in, "c1")
	if _, found, err := f.Intent(f.ctx(), app, in.SessionToken); err != nil || found {
		t.Fatalf("finished: %v, found %v", err, found)
	}
}

func TestUnknown(t *testing.T) {
	f := newFixture(t)
	_, err := f.Public(f.ctx(), app, "h1")
	wantKind(t, err, user.UnknownUser)
	_, err = f.Private(f.ctx(), app, "h1")
	wantKind(t, err, user.UnknownUser)
	_, err = f.ByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.UnknownUser)
	f.commit(f.begin("h1", "1"), "c1")
	_, err = f.Public(f.ctx(), "another-app", "h1")
	wantKind(t, err, user.UnknownUser)
	_, err = f.ByClientUserID(f.ctx(), "another-app", "c1")
	wantKind(t, err, user.UnknownUser)
}

func TestSecondCommitKeepsCreation(t *testing.T) {
	f := newFixture(t)
	first := f.commit(f.begin("h1", "1"), "c1")
	f.clock.Add(time.Hour)
	in := f.begin("h1", "2")
	f.commit(in, "") // Human API said no clientUserId this time
	rec := f.holds("h1", in.Arrival, user.Active)
	if rec.ClientUserID != "c1" || !rec.CreatedAt.Equal(first.CreatedAt) || !rec.UpdatedAt.Equal(first.UpdatedAt.Add(time.Hour)) {
		t.Fatalf("created %v, updated %v, or the clientUserId is lost", rec.CreatedAt, rec.UpdatedAt)
	}
	if _, err := f.ByClientUserID(f.ctx(), app, "c1"); err != nil {
		t.Fatal(err)
	}
}

func TestClientUserIDComesLater(t *testing.T) {
	f := newFixture(t)
	f.commit(f.begin("h1", "1"), "")
	_, err := f.ByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.UnknownUser)
	f.commit(f.begin("h1", "2"), "c1")
	if _, err := f.ByClientUserID(f.ctx(), app, "c1"); err != nil {
		t.Fatal(err)
	}
}

func TestSuperseded(t *testing.T) {
	f := newFixture(t)
	early, late := f.begin("h1", "early"), f.begin("h1", "late")
	if early.Arrival >= late.Arrival {
		t.Fatal("arrival numbers do not grow")
	}
	current := f.commit(late, "c1")
	result := f.commit(early, "c1")
	if result.Outcome != user.Superseded || result.Public != current.Public {
		t.Fatalf("got %s", result.Outcome)
	}
	f.holds("h1", late.Arrival, user.Active)
	if got, found := f.session("h1", "early"); !found || got.Outcome != user.Superseded {
		t.Fatalf("session: %+v", got)
	}
	again := f.commit(early, "c1")
	if again.Outcome != user.Superseded || again.Public != current.Public {
		t.Fatalf("repeated: %s", again.Outcome)
	}
}

func TestUserMismatch(t *testing.T) {
	f := newFixture(t)
	first := f.begin("h1", "1")
	f.commit(first, "c1")
	in := f.begin("h1", "2")
	_, err := f.Commit(f.ctx(), in, answer(in, "c2"))
	wantKind(t, err, user.UserMismatch)
	stranger := answer(in, "c1")
	stranger.HumanID = "h2"
	_, err = f.Commit(f.ctx(), in, stranger)
	wantKind(t, err, user.UserMismatch)
	f.holds("h1", first.Arrival, user.Active)
	if got, _ := f.session("h1", "2"); !got.Pending {
		t.Fatal("the intent is gone")
	}
	_, err = f.ByClientUserID(f.ctx(), app, "c2")
	wantKind(t, err, user.UnknownUser)
	f.finish(in, user.Rejected, user.UserMismatch)
	if got, _ := f.session("h1", "2"); got.Outcome != user.Rejected || got.Failure != user.UserMismatch {
		t.Fatalf("session: %+v", got)
	}
	late, later := f.begin("h1", "3"), f.begin("h1", "4")
	f.commit(later, "c1")
	_, err = f.Commit(f.ctx(), late, answer(late, "c2")) // superseded too, but another's: nothing is told
	wantKind(t, err, user.UserMismatch)
}

func TestAmbiguous(t *testing.T) {
	f := newFixture(t)
	one, two := f.begin("h1", "1"), f.begin("h2", "2")
	f.commit(one, "c1")
	f.commit(two, "c1")
	_, err := f.ByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.AmbiguousUser)
	f.holds("h1", one.Arrival, user.Active)
	f.holds("h2", two.Arrival, user.Active)
	f.commit(f.begin("h1", "3"), "c1")
	_, err = f.ByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.AmbiguousUser)
}

// TestIndexEntryFull: whoever comes after the last that an entry can name keeps
// their tokens, comes back, and changes nothing for the others. (The fixture's
// Check takes such a row at the end.)
func TestIndexEntryFull(t *testing.T) {
	f := newFixture(t)
	for n := range 255 {
		f.commit(f.begin(string(rune('A'+n)), string(rune('A'+n))), "c1")
	}
	for _, session := range []string{"first", "second"} {
		in := f.begin("one too many", session)
		if got := f.commit(in, "c1"); got.Outcome != user.Stored || got.ClientUserID != "c1" {
			t.Fatalf("%s: %s", session, got.Outcome)
		}
		f.holds("one too many", in.Arrival, user.Active)
	}
	_, err := f.ByClientUserID(f.ctx(), app, "c1")
	wantKind(t, err, user.AmbiguousUser)
}

func TestIndeterminate(t *testing.T) {
	f := newFixture(t)
	first := f.begin("h1", "1")
	f.commit(first, "c1")
	lost := f.begin("h1", "2")
	f.finish(lost, user.IndeterminateOutcome, user.ExchangeUnknown)
	f.holds("h1", first.Arrival, user.Indeterminate) // the old tokens are still there
	new := f.begin("h9", "3")
	f.finish(new, user.IndeterminateOutcome, user.ExchangeUnknown)
	if rec, err := f.Private(f.ctx(), app, "h9"); err != nil || !rec.AccessToken.IsZero() || rec.State != user.Indeterminate || rec.Arrival != 0 {
		t.Fatalf("a new user in doubt: %v", err)
	}
	for limit, want := range map[int]int{0: 2, 1: 1, 2: 2, 3: 2} {
		if all, err := f.InState(f.ctx(), app, user.Indeterminate, limit); err != nil || len(all) != want {
			t.Fatalf("limit %d: %d in doubt, %v", limit, len(all), err)
		}
	}
	if all, err := f.InState(f.ctx(), "another-app", user.Indeterminate, 0); err != nil || len(all) != 0 {
		t.Fatalf("of another app: %d, %v", len(all), err)
	}
	if all, err := f.InState(f.ctx(), "", user.Indeterminate, 0); err != nil || len(all) != 2 {
		t.Fatalf("of all apps: %d, %v", len(all), err)
	}
	if _, err := f.InState(f.ctx(), app, user.Active, 0); err == nil {
		t.Fatal("active users are not marked, and were listed")
	}
	f.reopen()
	f.clean()
	repair := f.begin("h1", "4")
	f.commit(repair, "c1")
	f.holds("h1", repair.Arrival, user.Active)
	f.commit(f.begin("h9", "5"), "")
	if all, err := f.InState(f.ctx(), app, user.Indeterminate, 0); err != nil || len(all) != 0 {
		t.Fatalf("%d in doubt after the repair, %v", len(all), err)
	}
}

// TestDoubtOutlivesAnEarlierArrival: a later exchange may have replaced what an
// earlier one brings.
func TestDoubtOutlivesAnEarlierArrival(t *testing.T) {
	f := newFixture(t)
	early, doubt, latest := f.begin("h1", "1"), f.begin("h1", "2"), f.begin("h1", "3")
	f.finish(doubt, user.IndeterminateOutcome, user.ExchangeUnknown)
	if r := f.commit(early, "c1"); r.Outcome != user.Stored || r.State != user.Indeterminate {
		t.Fatalf("%s and %s", r.Outcome, r.State)
	}
	f.holds("h1", early.Arrival, user.Indeterminate)
	f.commit(latest, "c1")
	f.holds("h1", latest.Arrival, user.Active)
}

func TestEarlierDoubtDoesNotHideALaterOne(t *testing.T) {
	f := newFixture(t)
	one, two, three := f.begin("h1", "1"), f.begin("h1", "2"), f.begin("h1", "3")
	f.finish(three, user.IndeterminateOutcome, user.ExchangeUnknown)
	f.finish(one, user.IndeterminateOutcome, user.ExchangeUnknown)
	f.commit(two, "c1")
	f.holds("h1", two.Arrival, user.Indeterminate)
}

func TestDoubtOfAnEarlierArrivalIsNone(t *testing.T) {
	f := newFixture(t)
	early, late := f.begin("h1", "1"), f.begin("h1", "2")
	f.commit(late, "c1")
	f.finish(early, user.IndeterminateOutcome, user.ExchangeUnknown)
	f.holds("h1", late.Arrival, user.Active)
	if got, _ := f.session("h1", "1"); got.Outcome != user.IndeterminateOutcome || got.Failure != user.ExchangeUnknown {
		t.Fatalf("session: %+v", got)
	}
}

func TestFinishedWithoutTokens(t *testing.T) {
	f := newFixture(t)
	f.finish(f.begin("h1", "1"), user.Unsent, "")
	if _, found := f.session("h1", "1"); found {
		t.Fatal("an unsent exchange left something behind")
	}
	in := f.begin("h1", "1")
	f.finish(in, user.Refused, user.SessionRefused)
	if got, _ := f.session("h1", "1"); got.Outcome != user.Refused || got.Failure != user.SessionRefused || !got.SameUser {
		t.Fatalf("session: %+v", got)
	}
	_, err := f.Public(f.ctx(), app, "h1")
	wantKind(t, err, user.UnknownUser)
	for _, outcome := range []user.Outcome{user.Stored, "", "else"} {
		if err := f.Finish(f.ctx(), in, outcome, ""); err == nil {
			t.Errorf("%q is no outcome without tokens, and was taken", outcome)
		}
	}
}

func TestEndsOnce(t *testing.T) {
	f := newFixture(t)
	in := f.begin("h1", "1")
	f.commit(in, "c1")
	if r := f.commit(in, "c1"); r.Outcome != user.Stored || r.Arrival != in.Arrival {
		t.Fatalf("a repeated commit: %s", r.Outcome)
	}
	if err := f.Finish(f.ctx(), in, user.Refused, ""); !errors.Is(err, store.ErrIntentGone) {
		t.Fatalf("finish after commit: got %v", err)
	}
	if err := f.Finish(f.ctx(), in, user.Unsent, ""); !errors.Is(err, store.ErrIntentGone) {
		t.Fatalf("unsent after commit: got %v", err)
	}
	refused := f.begin("h2", "2")
	f.finish(refused, user.Refused, user.SessionRefused)
	f.finish(refused, user.Refused, user.SessionRefused)
	if _, err := f.Commit(f.ctx(), refused, answer(refused, "")); !errors.Is(err, store.ErrIntentGone) {
		t.Fatalf("commit after finish: got %v", err)
	}
	unsent := f.begin("h3", "3")
	f.finish(unsent, user.Unsent, "")
	f.finish(unsent, user.Unsent, "")
	again := f.begin("h3", "3")
	if err := f.Finish(f.ctx(), unsent, user.Unsent, ""); !errors.Is(err, store.ErrIntentGone) {
		t.Fatalf("another exchange's intent: got %v", err)
	}
	if got, _ := f.session("h3", "3"); !got.Pending {
		t.Fatal("another exchange's intent was removed")
	}
	f.commit(again, "")
}

func TestPublicToken(t *testing.T) {
	f := newFixture(t)
	made, err := f.PutPublicToken(f.ctx(), app, "h1", "marker-fetched")
	if err != nil || made.PublicToken != "marker-fetched" || made.State != user.Active || made.Arrival != 0 || made.HumanID != "h1" || made.CreatedAt.IsZero() {
		t.Fatalf("made: %v", err)
	}
	if rec, err := f.Private(f.ctx(), app, "h1"); err != nil || !rec.AccessToken.IsZero() || rec.Public != made {
		t.Fatalf("a user made for a publicToken: %v", err)
	}
	if kept, err := f.PutPublicToken(f.ctx(), app, "h1", "marker-other"); err != nil || kept != made {
		t.Fatalf("one that was there was not kept: %v", err)
	}
	in := f.begin("h1", "1")
	f.commit(in, "c1")
	f.finish(f.begin("h1", "2"), user.IndeterminateOutcome, "")
	replaced, err := f.PutPublicToken(f.ctx(), app, "h1", "marker-other")
	if err != nil || replaced.PublicToken != "marker-other" || replaced.State != user.Indeterminate || replaced.ClientUserID != "c1" {
		t.Fatalf("in doubt: state %s, %v", replaced.State, err)
	}
	if rec, err := f.Private(f.ctx(), app, "h1"); err != nil || !rec.AccessToken.Equal(answer(in, "").AccessToken) {
		t.Fatalf("the access token did not survive: %v", err)
	}
}

func TestReplayWindow(t *testing.T) {
	f := newFixture(t)
	f.commit(f.begin("h1", "1"), "c1")
	f.clock.Add(store.DefaultReplayWindow)
	if _, found := f.session("h1", "1"); !found {
		t.Fatal("forgotten within the window")
	}
	f.clock.Add(time.Second)
	if _, found := f.session("h1", "1"); found {
		t.Fatal("remembered beyond the window")
	}
	in := f.begin("h1", "1")
	f.commit(in, "c1")
	f.holds("h1", in.Arrival, user.Active)
}

func TestSweep(t *testing.T) {
	f := newFixture(t)
	for n := range 10 {
		f.commit(f.begin("h1", string(rune('a'+n))), "c1")
	}
	f.clock.Add(store.DefaultReplayWindow + time.Second)
	for n := range 5 {
		f.finish(f.begin("h1", string(rune('A'+n))), user.Refused, "")
	}
	total, more := 0, true
	for rounds := 0; more; rounds++ {
		var removed int
		var err error
		if removed, more, err = f.Sweep(f.ctx(), 4); err != nil || rounds > 4 {
			t.Fatalf("round %d: %v", rounds, err)
		}
		total += removed
	}
	if report := f.clean(); total != 10 || report.Counts["sessions"] != 5 {
		t.Fatalf("%d removed, %d left", total, report.Counts["sessions"])
	}
	if removed, more, err := f.Sweep(f.ctx(), 0); err != nil || removed != 0 || more {
		t.Fatalf("nothing to sweep: %d, %v, %v", removed, more, err)
	}
}
