package broker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// damage spoils a user's row, or with nil removes it, which is a repair.
func (w *world) damage(human user.HumanID, value []byte) {
	w.t.Helper()
	id := w.keys.HumanRow(app, human)
	row, _, err := w.db.Get(context.Background(), store.Users, id)
	w.must(err)
	op := store.Op{Table: store.Users, Key: id, Expect: row.Revision, Revision: row.Revision + 1, Value: value}
	w.must(w.db.Apply(context.Background(), store.Batch{Fence: w.keys.Version(), Ops: []store.Op{op}}))
}

var spoilt = []byte("marker damaged")

// No session token is spent on a user whose tokens could not be stored.
func TestDamagedBefore(t *testing.T) {
	w := newWorld(t)
	w.damage("marker-human", spoilt)
	x := w.finish("marker-human", "marker-user")
	_, err := w.exchange(x)
	wantKind(t, err, user.RowDamaged)
	_, err = w.b.PublicToken(context.Background(), app, "marker-human", "request-p")
	wantKind(t, err, user.RowDamaged)
	if w.asked() != 0 || len(w.intents()) != 0 || w.b.Status().InFlight != 0 {
		t.Error("an exchange was begun whose tokens nobody could keep")
	}
	w.damage("marker-human", nil)
	_, err = w.exchange(x)
	wantKind(t, err, "")
	w.wantCurrent("marker-human")
}

// damagedAtCommit is a world in which the row is spoilt while the answer is
// checked. Its one caller leaves when the operator has been told.
func damagedAtCommit(t *testing.T, giveUp time.Duration) (w *world, x user.Exchange) {
	once := make(chan struct{}, 1)
	once <- struct{}{}
	w = newWorld(t, func(made *world) {
		made.config.GiveUp = giveUp
		made.config.Step = func(step string) {
			if step != "checked" {
				return
			}
			select {
			case <-once:
				made.damage("marker-human", spoilt)
			default:
			}
		}
	})
	w.sim.SetMode(humanapitest.Repeatable)
	x = w.finish("marker-human", "marker-user")
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	left := make(chan error, 1)
	go func() {
		_, err := w.b.Exchange(ctx, x)
		left <- err
	}()
	w.until("a note of it", func() bool { return strings.Contains(w.logs.String(), "tokens received") })
	leave()
	if err := <-left; err == nil {
		t.Error("a caller was told of tokens that are not stored")
	}
	return w, x
}

// Tokens that were received are held for a repair, and stored after it.
func TestDamagedAtCommitAndRepaired(t *testing.T) {
	w, x := damagedAtCommit(t, time.Minute)
	w.damage("marker-human", nil)
	w.awaitOutcome(user.Stored, 1)
	w.wantCurrent(x.HumanID)
	if w.asked() != 1 {
		t.Errorf("%d requests", w.asked())
	}
}

// They are not held for ever. The exchange stays in the store: it is looked at
// again at the next start, is not sent while the row is damaged, and is repeated
// after a repair.
func TestDamagedAtCommitForGood(t *testing.T) {
	w, x := damagedAtCommit(t, 50*time.Millisecond) // counts only once the answer is there
	w.idle()
	if s := w.b.Status(); s.Damaged != 1 || len(w.intents()) != 1 || !strings.Contains(w.logs.String(), "given up") {
		t.Errorf("%d damaged, %d intents", s.Damaged, len(w.intents()))
	}
	w.crash()
	w.start()
	w.until("the resumed one to be looked at", func() bool { return w.b.Status().Damaged == 1 })
	w.idle()
	_, err := w.exchange(x)
	wantKind(t, err, user.RowDamaged)
	if w.asked() != 1 || len(w.intents()) != 1 {
		t.Errorf("%d requests, %d intents", w.asked(), len(w.intents()))
	}
	for _, e := range w.events("note") {
		if e["error"] != "row_damaged" {
			t.Errorf("a note about %v", e["error"])
		}
	}
	w.damage("marker-human", nil)
	_, err = w.exchange(x)
	wantKind(t, err, "")
	w.wantCurrent("marker-human")
	if len(w.intents()) != 0 {
		t.Error("the intent is left after the repair")
	}
}

// A start with many exchanges of one rule in doubt keeps nobody new out.
func TestResumedTakeNobodysPlace(t *testing.T) {
	w := newWorld(t)
	w.sim.SetMode(humanapitest.Repeatable)
	hold := make(chan struct{})
	defer close(hold)
	w.sim.Misbehave(humanapitest.Fault{Permanent: true, HoldAnswer: hold})
	const many = 40
	for i := 1; i <= many; i++ {
		w.abandoned("shop-web", i)
	}
	w.awaitAsked(many) // what was not sent would end with the process
	w.crash()
	w.config.MaxInFlight, w.config.Deadline = 4, 200*time.Millisecond
	before := w.asked()
	w.start()
	w.awaitAsked(before + 4)
	if s := w.b.Status(); s.Resuming != many || s.Uncertain != many || s.Waiting != many-4 {
		t.Errorf("the status after a start is %+v", s)
	}
	w.sim.ClearFaults() // for those that come now
	_, err := w.exchange(w.finish("marker-new", ""))
	wantKind(t, err, "")
	w.sim.Misbehave(humanapitest.Fault{Permanent: true, HoldAnswer: hold})
	for _, human := range []user.HumanID{"marker-first", "marker-second"} {
		_, err = w.exchange(w.finish(human, ""))
		wantKind(t, err, user.ExchangePending)
	}
	_, err = w.exchange(w.finish("marker-third", ""))
	wantKind(t, err, user.TooManyWaiting) // their own bound stands
}

// The publicTokens of users in doubt that an outage or a crash kept from being
// fetched are fetched at the next start.
func TestRepairAfterRestart(t *testing.T) {
	w := newWorld(t)
	const many = 3
	human := func(i int) user.HumanID { return user.HumanID(fmt.Sprintf("marker-human-%d", i)) }
	w.sim.Misbehave(humanapitest.Fault{Path: humanapitest.PublicTokensPath, Permanent: true, Status: 503})
	for i := range many {
		w.sim.Misbehave(humanapitest.Fault{Path: humanapitest.TokensPath, Kind: humanapitest.Empty})
		_, err := w.exchange(w.finish(human(i), ""))
		wantKind(t, err, user.ExchangeUnknown)
	}
	w.until("repairs that fail", func() bool { // each of them: what is not begun when the process ends leaves no note
		asked := map[string]bool{}
		for _, r := range w.sim.Requests() {
			if r.Path == humanapitest.PublicTokensPath {
				asked[r.Fields["humanId"]] = true
			}
		}
		return len(asked) == many
	})
	w.crash()
	w.sim.ClearFaults()
	w.start()
	for i := range many {
		_, public := w.sim.Current(string(app), string(human(i)))
		w.until("the repair", func() bool {
			p, err := w.store.Public(context.Background(), app, human(i))
			return err == nil && string(p.PublicToken) == public && p.State == user.Indeterminate
		})
	}
	w.until("the notes", func() bool { return len(w.events("note")) >= 2*many }) // of the failure, and of the repair
	asked := w.sim.Count(humanapitest.PublicTokensPath)
	w.crash()
	w.start()
	w.until("another round", func() bool { return w.sim.Count(humanapitest.PublicTokensPath) == asked+many })
	w.crash()
	if n := len(w.events("note")); n != 2*many {
		t.Errorf("%d notes, though nothing was repaired", n)
	}
}
