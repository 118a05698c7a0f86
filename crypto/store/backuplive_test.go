package store_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// ledger is what writers were told, as it was told.
type ledger struct {
	mu      sync.Mutex
	stored  map[user.HumanID]uint64 // latest arrival that was acknowledged as stored
	ended   map[string]string       // session → its user
	pending map[string]string
}

func (l *ledger) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// copy is what was acknowledged until now.
func (l *ledger) copy() *ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &ledger{stored: maps.Clone(l.stored), ended: maps.Clone(l.ended), pending: maps.Clone(l.pending)}
}

// live exchanges until ctx ends, and writes down every answer.
func (f *fixture) live(ctx context.Context, w int, l *ledger) {
	for n := 0; ctx.Err() == nil; n++ {
		human, session := fmt.Sprint("h", (w+n)%7), fmt.Sprint(w, ".", n)
		in, err := f.Begin(f.ctx(), intent(human, session))
		if err != nil {
			f.t.Errorf("begin: %v", err)
			return
		}
		l.note(func() { l.pending[session] = human })
		outcome := user.IndeterminateOutcome
		if n%4 == 0 {
			err = f.Finish(f.ctx(), in, outcome, user.ExchangeUnknown)
		} else {
			var result user.Result
			result, err = f.Commit(f.ctx(), in, answer(in, user.ClientUserID("c" + fmt.Sprint(n%3, human))[:2]))
			outcome = result.Outcome
		}
		if user.KindOf(err) == user.UserMismatch {
			err = f.Finish(f.ctx(), in, user.Rejected, user.UserMismatch)
			outcome = user.Rejected
		}
		if err != nil {
			f.t.Errorf("end: %v", err)
			return
		}
		l.note(func() {
			delete(l.pending, session)
			l.ended[session] = human
			if outcome == user.Stored {
				l.stored[in.HumanID] = max(l.stored[in.HumanID], in.Arrival)
			}
		})
	}
}

// TestBackupUnderWriters: what was acknowledged before a backup began is in the
// store that it becomes, and that store is consistent.
func TestBackupUnderWriters(t *testing.T) {
	f := newFixture(t)
	l := &ledger{stored: map[user.HumanID]uint64{}, ended: map[string]string{}, pending: map[string]string{}}
	ctx, stop := context.WithCancel(f.ctx())
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() { f.live(ctx, w, l) })
	}
	type taken struct {
		known *ledger
		data  []byte
	}
	var all []taken
	for len(all) < 6 && !t.Failed() {
		known := l.copy()
		data, _ := f.backup()
		// Those of an empty store prove little.
		if len(known.ended) > 20*len(all) {
			all = append(all, taken{known, data})
		}
	}
	stop()
	writers.Wait()
	for i, b := range all {
		_, report := verified(t, b.data)
		r := restored(t, b.data, f.clock, uint64(i+2))
		b.known.within(r)
		t.Logf("backup %d: %d ends and %d users were acknowledged; %v, %d ambiguous", i, len(b.known.ended), len(b.known.stored), report.Counts, report.Ambiguous)
	}
}

// within fails unless the store knows everything that was acknowledged.
func (l *ledger) within(r *fixture) {
	r.t.Helper()
	for human, arrival := range l.stored {
		rec, err := r.Private(r.ctx(), app, human)
		if err != nil || rec.Arrival < arrival {
			r.t.Fatalf("arrival %d was acknowledged, %d is there, %v", arrival, rec.Arrival, err)
		}
		r.holds(string(human), rec.Arrival, rec.State)
	}
	for session, human := range l.ended {
		if got, found := r.session(human, session); !found || got.Pending || !got.SameUser {
			r.t.Fatalf("session %s has ended: found %v, pending %v", session, found, got.Pending)
		}
	}
	for session, human := range l.pending {
		if _, found := r.session(human, session); !found {
			r.t.Fatalf("session %s has begun, and nothing is known of it", session)
		}
	}
}

// meanwhile calls what is to happen while a backup is written, once.
type meanwhile struct {
	bytes.Buffer
	happen sync.Once
	what   func()
}

func (m *meanwhile) Write(b []byte) (int, error) {
	m.happen.Do(m.what)
	return m.Buffer.Write(b)
}

// TestBackupIsOfOneMoment: what happens while it is written is not in it.
func TestBackupIsOfOneMoment(t *testing.T) {
	f := newFixture(t)
	var records []user.Record
	for n := range 500 {
		records = append(records, elsewhere(n, ""))
	}
	f.imports(records...)
	in := f.begin("late", "1")
	want, _ := f.backup()
	got := &meanwhile{what: func() {
		f.commit(in, "c1")
		f.commit(f.begin("h1", "2"), "c2")
	}}
	if _, err := f.Backup(f.ctx(), got); err != nil {
		t.Fatal(err)
	}
	if len(want) < 100_000 || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("a backup of %d bytes is not of one moment", len(want))
	}
	f.holds("late", in.Arrival, user.Active)
}

// BenchmarkBackup is what a backup takes beside the disk or socket that it goes to.
func BenchmarkBackup(b *testing.B) {
	f := populated(b)
	data, _ := f.backup()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Backup(f.ctx(), &narrow{1 << 60}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadBackup opens every box and looks up every reference.
func BenchmarkReadBackup(b *testing.B) {
	f := populated(b)
	data, _ := f.backup()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, report, err := store.ReadBackup(f.ctx(), bytes.NewReader(data), openKeys); err != nil || len(report.Problems) != 0 {
			b.Fatal(err)
		}
	}
}
