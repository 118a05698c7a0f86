package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/exchange/user"
)

var (
	// ErrSessionKnown is returned by Begin when the session token has an exchange
	// under way or a finished one within the replay window: ask Session.
	ErrSessionKnown = errors.New("the session is known already")
	// ErrIntentGone is returned by Commit and Finish when the intent is no longer
	// there and did not end the way that is asked for.
	ErrIntentGone = errors.New("the intent is gone")
)

// maxAttempts bounds how often a write is computed anew. Of writers that
// conflict one gets through each time, so more of them than ever wait for one
// user would be needed to use it up.
const maxAttempts = 100

// Begin writes an intent durably and returns it with its arrival number and the
// store's incarnation. ErrSessionKnown when the session token is known. After
// StoreUnavailable the intent may be there all the same; it is then found by
// Intents after the next start. RowDamaged when the user's row does not open, so
// that no session token is spent on tokens that could not be stored; for the same
// reason StoreUnavailable while the disk is low.
func (s *Store) Begin(ctx context.Context, in user.Intent) (user.Intent, error) {
	if err := s.enter(); err != nil {
		return user.Intent{}, err
	}
	defer s.inUse.RUnlock()
	id := s.keys.SessionRow(in.ClientID, in.SessionToken)
	if err := s.low(); err != nil {
		return user.Intent{}, err
	}
	if _, err := s.loadNamed(ctx, in.ClientID, in.HumanID); err != nil {
		return user.Intent{}, err
	}
	var stale uint64 // revision of a session that nobody remembers any more
	err := s.retry(ctx, "write the intent", func() error {
		in.Incarnation = s.keys.Incarnation()
		err := s.driver.Apply(ctx, Batch{
			Fence:  s.keys.Version(),
			Ops:    []Op{{Table: Sessions, Key: id, Expect: stale, Check: stale == 0}},
			Arrive: func(n uint64) (Op, error) { return s.arrived(&in, id, n) },
		})
		if !errors.Is(err, ErrConflict) {
			return err
		}
		var known error
		if stale, known = s.forgettable(ctx, id); known != nil {
			return known
		}
		return err
	})
	if err != nil {
		return user.Intent{}, err
	}
	return in, nil
}

// arrived seals the intent with its number inside.
func (s *Store) arrived(in *user.Intent, id seal.RowID, n uint64) (Op, error) {
	in.Arrival = n
	plaintext := encodeIntent(*in)
	defer clear(plaintext)
	box, err := s.sealBox(keyring.Intent, seal.Intent, id, n, plaintext)
	return Op{Table: Intents, Key: id, Revision: n, Value: box}, err
}

// forgettable returns the revision of an expired session (0: there is none), or
// ErrSessionKnown.
func (s *Store) forgettable(ctx context.Context, id seal.RowID) (uint64, error) {
	_, found, err := s.driver.Get(ctx, Intents, id)
	if err != nil {
		return 0, unavailable("read "+at(Intents, id), err)
	}
	if found {
		return 0, ErrSessionKnown
	}
	done, revision, err := s.loadSession(ctx, id)
	if err == nil && revision != 0 && !s.expired(done) {
		err = ErrSessionKnown
	}
	return revision, err
}

// Commit ends an exchange with the tokens that it brought: the commit point. Row,
// index and mark are written, the intent is removed and the session kept, in
// one durable transaction.
//
// Of rec only the ids, the tokens and the expiry count. An empty ClientUserID
// keeps a known one; CreatedAt is kept. When a later arrival was committed
// before, nothing of rec is stored, and the Result is superseded and shows the
// current record. When an exchange that arrived later is in doubt, the tokens
// are stored and the state stays indeterminate.
//
// UserMismatch when rec is of another user than the intent, or the user is known
// under another ClientUserID: nothing is written, and the intent stays.
// ErrIntentGone when the exchange ended otherwise. A Commit that is repeated
// after it took effect is answered as the first time, with the current record.
func (s *Store) Commit(ctx context.Context, in user.Intent, rec user.Record) (user.Result, error) {
	if rec.ClientID != in.ClientID || rec.HumanID != in.HumanID {
		return user.Result{}, user.Fail(user.UserMismatch, "the record is not of the intent's user")
	}
	if err := s.enter(); err != nil {
		return user.Result{}, err
	}
	defer s.inUse.RUnlock()
	var result user.Result
	err := s.retry(ctx, "commit the exchange", func() (err error) {
		if result, err = s.commitOnce(ctx, in, rec); !errors.Is(err, ErrConflict) {
			return err
		}
		outcome, err := s.ended(ctx, in)
		if err != nil {
			return err
		}
		if outcome != user.Stored && outcome != user.Superseded {
			return ErrIntentGone
		}
		row, err := s.known(ctx, in.ClientID, in.HumanID)
		result = user.Result{Public: row.Public, Outcome: outcome}
		return err
	})
	if err != nil {
		return user.Result{}, err
	}
	return result, nil
}

func (s *Store) commitOnce(ctx context.Context, in user.Intent, rec user.Record) (user.Result, error) {
	d := s.draft()
	d.batch.Spare = true
	cur, err := s.loadNamed(ctx, in.ClientID, in.HumanID)
	if err != nil {
		return user.Result{}, err
	}
	if cur.ClientUserID != "" && rec.ClientUserID != "" && cur.ClientUserID != rec.ClientUserID {
		return user.Result{}, user.Fail(user.UserMismatch, "%s is known under another clientUserId", at(Users, cur.id))
	}
	if cur.Arrival > in.Arrival {
		d.end(in, user.Superseded, "")
		return user.Result{Public: cur.Public, Outcome: user.Superseded}, d.apply(ctx)
	}
	next := cur.record
	next.ClientID, next.HumanID, next.PublicToken, next.Arrival = in.ClientID, in.HumanID, rec.PublicToken, in.Arrival
	if rec.ClientUserID != "" {
		next.ClientUserID = rec.ClientUserID
	}
	next = d.user(ctx, cur, next, rec.Private)
	d.index(ctx, next, cur.id)
	d.end(in, user.Stored, "")
	return user.Result{Public: next.Public, Outcome: user.Stored}, d.apply(ctx)
}

// Finish ends an exchange that brought no tokens. unsent leaves nothing behind;
// refused, rejected, superseded (by a later arrival, which the caller has seen
// committed) and indeterminate leave the session with outcome and failure;
// indeterminate also marks the user, who is made without tokens if unknown,
// unless a later arrival was committed. ErrIntentGone when it ended otherwise;
// a Finish that is repeated after it took effect succeeds.
func (s *Store) Finish(ctx context.Context, in user.Intent, outcome user.Outcome, failure user.Failure) error {
	switch outcome {
	case user.Unsent, user.Refused, user.Rejected, user.Superseded, user.IndeterminateOutcome:
	default:
		return fmt.Errorf("finish an exchange: %q is not an outcome without tokens", outcome)
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.inUse.RUnlock()
	return s.retry(ctx, "finish the exchange", func() error {
		err := s.finishOnce(ctx, in, outcome, failure)
		if !errors.Is(err, ErrConflict) {
			return err
		}
		ended, err := s.ended(ctx, in)
		if err == nil && ended != outcome {
			err = ErrIntentGone
		}
		return err
	})
}

func (s *Store) finishOnce(ctx context.Context, in user.Intent, outcome user.Outcome, failure user.Failure) error {
	d := s.draft()
	d.batch.Spare = true
	d.end(in, outcome, failure)
	if outcome != user.IndeterminateOutcome {
		return d.apply(ctx)
	}
	cur, err := s.loadNamed(ctx, in.ClientID, in.HumanID)
	if err != nil {
		return err
	}
	if max(cur.Arrival, cur.doubt) < in.Arrival {
		next := cur.record
		next.ClientID, next.HumanID, next.doubt = in.ClientID, in.HumanID, in.Arrival
		if err := s.kept(ctx, cur, func(p user.Private) { d.user(ctx, cur, next, p) }); err != nil {
			return err
		}
	}
	return d.apply(ctx)
}

// PutPublicToken stores a publicToken that was fetched, and returns the user. A
// user that is not known is made, without an access token. A publicToken that
// is there already is kept, unless the state is indeterminate; the state stays.
func (s *Store) PutPublicToken(ctx context.Context, app user.ClientID, human user.HumanID, token user.PublicToken) (user.Public, error) {
	if err := s.enter(); err != nil {
		return user.Public{}, err
	}
	defer s.inUse.RUnlock()
	var out user.Public
	err := s.retry(ctx, "store the publicToken", func() error {
		d := s.draft()
		cur, err := s.loadNamed(ctx, app, human)
		if err != nil {
			return err
		}
		fixed := cur.PublicToken != "" && cur.State == user.Active
		if out = cur.Public; cur.exists() && (fixed || cur.PublicToken == token) {
			return nil
		}
		next := cur.record
		next.ClientID, next.HumanID, next.PublicToken = app, human, token
		if err := s.kept(ctx, cur, func(p user.Private) { out = d.user(ctx, cur, next, p).Public }); err != nil {
			return err
		}
		return d.apply(ctx)
	})
	if err != nil {
		return user.Public{}, err
	}
	return out, nil
}

// kept calls seal with the private part that is to be sealed anew under the next
// revision. The token is wiped when it returns.
func (s *Store) kept(ctx context.Context, cur userRow, seal func(user.Private)) error {
	var private user.Private
	if cur.exists() {
		var err error
		if private, err = s.openPrivate(ctx, cur); err != nil {
			return opening(Users, cur.id, err)
		}
	}
	defer private.AccessToken.Wipe()
	seal(private)
	return nil
}

// ended says how an exchange ended whose batch met a conflict: ErrConflict when
// it has not, so that the conflict lies elsewhere; unsent when nothing is left.
func (s *Store) ended(ctx context.Context, in user.Intent) (user.Outcome, error) {
	id := s.keys.SessionRow(in.ClientID, in.SessionToken)
	row, found, err := s.driver.Get(ctx, Intents, id)
	if err != nil {
		return "", unavailable("read "+at(Intents, id), err)
	}
	if found && row.Revision == in.Arrival {
		return "", ErrConflict
	}
	if found {
		return "", ErrIntentGone
	}
	done, revision, err := s.loadSession(ctx, id)
	if err == nil && revision == 0 {
		done.outcome = user.Unsent
	}
	return done.outcome, err
}

// retry runs a write until it neither conflicts nor is fenced.
func (s *Store) retry(ctx context.Context, what string, attempt func() error) error {
	for range maxAttempts {
		err := attempt()
		switch {
		case err == nil, errors.Is(err, ErrSessionKnown), errors.Is(err, ErrIntentGone):
			return err
		case errors.Is(err, ErrFenced):
			err = s.reload(ctx)
		case errors.Is(err, ErrConflict):
			err = ctx.Err()
		}
		if err != nil {
			return unavailable(what, err)
		}
	}
	return user.Fail(user.StoreUnavailable, "%s: in conflict %d times", what, maxAttempts)
}

// draft is a batch in the making. The fence is read before any key is used, so
// a key that is retired meanwhile fails the batch.
type draft struct {
	s       *Store
	batch   Batch
	entries map[seal.RowID]*pending // those that apply will seal, if they changed
	err     error                   // the first one; apply returns it
}

// pending is an index entry as the batch will leave it.
type pending struct {
	indexEntry
	revision uint64 // that is there now, 0: none
	changed  bool
}

func (s *Store) draft() *draft { return &draft{s: s, batch: Batch{Fence: s.keys.Version()}} }

func (d *draft) apply(ctx context.Context) error {
	for key, e := range d.entries {
		if e.changed {
			box := d.sealed(keyring.Public, seal.Index, key, e.revision+1, encodeIndex(e.indexEntry))
			d.add(Op{Table: Index, Key: key, Expect: e.revision, Revision: e.revision + 1, Value: box})
		}
	}
	if d.err != nil {
		return d.err
	}
	return d.s.driver.Apply(ctx, d.batch)
}

func (d *draft) add(op Op) { d.batch.Ops = append(d.batch.Ops, op) }

// sealed returns the box of a plaintext, which it clears.
func (d *draft) sealed(class keyring.Class, p seal.Purpose, id seal.RowID, revision uint64, plaintext []byte) []byte {
	defer clear(plaintext)
	box, err := d.s.sealBox(class, p, id, revision, plaintext)
	if err != nil && d.err == nil {
		d.err = fmt.Errorf("seal the %s box of row %s: %w", p, id, err)
	}
	return box
}

// user writes both boxes under the next revision, and sets or removes the mark.
// It returns the record with its times and state.
func (d *draft) user(ctx context.Context, cur userRow, next record, private user.Private) record {
	next.UpdatedAt = d.s.seconds()
	if !cur.exists() {
		next.CreatedAt = next.UpdatedAt
	}
	next.derive()
	revision := cur.revision + 1
	public := d.sealed(keyring.Public, seal.Public, cur.id, revision, encodeRecord(next))
	shut := d.sealed(keyring.Private, seal.Private, cur.id, revision, encodePrivate(private))
	d.add(Op{Table: Users, Key: cur.id, Expect: cur.revision, Revision: revision, Value: encodeRow(public, shut)})
	if cur.State == user.Indeterminate || next.State == user.Indeterminate {
		d.mark(ctx, cur.id, next.State == user.Indeterminate)
	}
	return next
}

// mark makes the mark what it must be, whatever it was: the row's revision in the
// same batch keeps it from changing meanwhile.
func (d *draft) mark(ctx context.Context, id seal.RowID, want bool) {
	mark, found, err := d.s.driver.Get(ctx, Marks, id)
	if err != nil && d.err == nil {
		d.err = unavailable("read "+at(Marks, id), err)
	}
	switch {
	case want && !found:
		d.add(Op{Table: Marks, Key: id, Revision: markRevision, Value: markIndeterminate})
	case !want && found:
		d.add(Op{Table: Marks, Key: id, Expect: mark.Revision})
	}
}

// index makes sure that the entry of the record's ClientUserID names its row,
// unless it is full. It never takes the place of another one that is there.
func (d *draft) index(ctx context.Context, r record, id seal.RowID) {
	if r.ClientUserID == "" || d.err != nil {
		return
	}
	e := d.entry(ctx, d.s.keys.IndexRow(r.ClientID, r.ClientUserID))
	if e == nil || slices.Contains(e.rows, id) || e.full() {
		return
	}
	e.rows, e.changed = append(e.rows, id), true
}

// entry is the index entry as it is, or as the batch has made it so far; nil after
// an error.
func (d *draft) entry(ctx context.Context, key seal.RowID) *pending {
	if e := d.entries[key]; e != nil {
		return e
	}
	entry, revision, err := d.s.loadIndex(ctx, key)
	if err != nil {
		d.err = err
		return nil
	}
	if revision == 0 {
		entry.preferred = noneChosen
	}
	if d.entries == nil {
		d.entries = make(map[seal.RowID]*pending, 1)
	}
	e := &pending{indexEntry: entry, revision: revision}
	d.entries[key] = e
	return e
}

// end removes the intent and keeps the session, if the outcome leaves one.
func (d *draft) end(in user.Intent, outcome user.Outcome, failure user.Failure) {
	id := d.s.keys.SessionRow(in.ClientID, in.SessionToken)
	d.add(Op{Table: Intents, Key: id, Expect: in.Arrival})
	if outcome == user.Unsent {
		return
	}
	done := session{outcome: outcome, failure: failure, row: d.s.keys.HumanRow(in.ClientID, in.HumanID), finished: d.s.seconds()}
	box := d.sealed(keyring.Public, seal.Session, id, 1, encodeSession(done))
	d.add(Op{Table: Sessions, Key: id, Revision: 1, Value: box})
}
