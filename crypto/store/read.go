package store

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// scanPage is how many rows one read transaction takes, so that no long one
// keeps a driver from reusing space.
const scanPage = 256

// errStranger is found where the ids inside a box do not hash back to the row.
var errStranger = errors.New("ids inside do not hash back to the row")

// userRow is a users row with its public box open and its private box shut.
type userRow struct {
	id       seal.RowID
	revision uint64 // 0: there is none
	record
	private []byte // envelope
}

func (r userRow) exists() bool { return r.revision != 0 }

// Public returns the public part of a user. UnknownUser when there is none. It
// never opens the private box.
func (s *Store) Public(ctx context.Context, app user.ClientID, human user.HumanID) (user.Public, error) {
	if err := s.enter(); err != nil {
		return user.Public{}, err
	}
	defer s.inUse.RUnlock()
	row, err := s.known(ctx, app, human)
	return row.Public, err
}

// Private returns the whole record of a user. UnknownUser when there is none; a
// record without an access token is no error.
func (s *Store) Private(ctx context.Context, app user.ClientID, human user.HumanID) (user.Record, error) {
	if err := s.enter(); err != nil {
		return user.Record{}, err
	}
	defer s.inUse.RUnlock()
	row, err := s.known(ctx, app, human)
	if err != nil {
		return user.Record{}, err
	}
	private, err := s.openPrivate(ctx, row)
	if err != nil {
		return user.Record{}, opening(Users, row.id, err)
	}
	return user.Record{Public: row.Public, Private: private}, nil
}

// ByClientUserID returns the public part of the user that the app knows under
// that id. UnknownUser when there is none; AmbiguousUser when Human API has named
// it for two or more humanIds and no administrator has preferred one.
func (s *Store) ByClientUserID(ctx context.Context, app user.ClientID, id user.ClientUserID) (user.Public, error) {
	if err := s.enter(); err != nil {
		return user.Public{}, err
	}
	defer s.inUse.RUnlock()
	entry, revision, err := s.loadIndex(ctx, s.keys.IndexRow(app, id))
	switch {
	case err != nil:
		return user.Public{}, err
	case revision == 0:
		return user.Public{}, user.Fail(user.UnknownUser, "no user of the app under that clientUserId")
	case entry.ambiguous():
		return user.Public{}, user.Fail(user.AmbiguousUser, "%d users of the app under that clientUserId", len(entry.rows))
	}
	chosen := entry.rows[0]
	if entry.preferred != noneChosen {
		chosen = entry.rows[entry.preferred]
	}
	return s.named(ctx, app, id, chosen)
}

// named loads a user whom an index entry names, and does not believe it.
func (s *Store) named(ctx context.Context, app user.ClientID, id user.ClientUserID, chosen seal.RowID) (user.Public, error) {
	row, err := s.loadUser(ctx, chosen)
	if err != nil {
		return user.Public{}, err
	}
	if !row.exists() || row.ClientID != app || row.ClientUserID != id {
		return user.Public{}, user.Fail(user.StoreUnavailable, "%s: the index names it for another clientUserId, or it is gone", at(Users, chosen))
	}
	return row.Public, nil
}

// InState returns up to limit users in a state other than active, in no
// particular order; app "" means of all apps. limit ≤ 0 means no limit.
func (s *Store) InState(ctx context.Context, app user.ClientID, state user.State, limit int) ([]user.Public, error) {
	if state != user.Indeterminate {
		return nil, errors.New("list users by state: only those that are not active are marked")
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.inUse.RUnlock()
	var out []user.Public
	err := s.walk(ctx, Marks, func(mark Row) error {
		row, err := s.loadUser(ctx, mark.Key)
		if err != nil {
			return err
		}
		if row.exists() && row.State == state && (app == "" || row.ClientID == app) {
			out = append(out, row.Public)
		}
		if limit > 0 && len(out) == limit {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return out, nil
}

// Session says what is known about a session token: nothing (false), an
// exchange under way (Pending), or how it ended. A session that ended longer
// than the replay window ago is not known. Of a session that belongs to another
// humanId nothing but that is told.
func (s *Store) Session(ctx context.Context, app user.ClientID, human user.HumanID, token secret.Text) (user.Session, bool, error) {
	if err := s.enter(); err != nil {
		return user.Session{}, false, err
	}
	defer s.inUse.RUnlock()
	id := s.keys.SessionRow(app, token)
	// Intents first: an exchange that ends between the two reads is then found in
	// the second.
	in, found, err := s.loadIntent(ctx, id)
	if err != nil {
		return user.Session{}, false, err
	}
	if found {
		in.SessionToken.Wipe()
		same := in.HumanID == human
		return user.Session{SameUser: same, Pending: same}, true, nil
	}
	done, revision, err := s.loadSession(ctx, id)
	if err != nil || revision == 0 || s.expired(done) {
		return user.Session{}, false, err
	}
	if done.row != s.keys.HumanRow(app, human) {
		return user.Session{}, true, nil
	}
	return user.Session{Outcome: done.outcome, Failure: done.failure, FinishedAt: done.finished, SameUser: true}, true, nil
}

// Intent returns the exchange that is under way with a session token; false when
// there is none, or it has an outcome.
func (s *Store) Intent(ctx context.Context, app user.ClientID, token secret.Text) (user.Intent, bool, error) {
	if err := s.enter(); err != nil {
		return user.Intent{}, false, err
	}
	defer s.inUse.RUnlock()
	return s.loadIntent(ctx, s.keys.SessionRow(app, token))
}

// Intents returns every exchange that has no outcome yet, by arrival. Those that
// cannot be opened are named in the error by their session id in hex; the
// others are returned beside it.
func (s *Store) Intents(ctx context.Context) ([]user.Intent, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.inUse.RUnlock()
	var out []user.Intent
	var bad []error
	err := s.walk(ctx, Intents, func(row Row) error {
		in, err := s.openIntent(ctx, row)
		if err != nil {
			bad = append(bad, opening(Intents, row.Key, err))
			return nil
		}
		out = append(out, in)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b user.Intent) int { return cmp.Compare(a.Arrival, b.Arrival) })
	if len(bad) > 0 {
		return out, unavailable("read the intents", errors.Join(bad...))
	}
	return out, nil
}

// known loads a user that must be there.
func (s *Store) known(ctx context.Context, app user.ClientID, human user.HumanID) (userRow, error) {
	row, err := s.loadNamed(ctx, app, human)
	if err == nil && !row.exists() {
		err = user.Fail(user.UnknownUser, "no record of that user")
	}
	if err != nil {
		return userRow{}, err
	}
	return row, nil
}

// loadUser reads a row and opens its public box. A row that is not there is no
// error.
func (s *Store) loadUser(ctx context.Context, id seal.RowID) (userRow, error) {
	row, err := s.load(ctx, id)
	if err == nil && row.exists() && s.keys.HumanRow(row.ClientID, row.HumanID) != id {
		err = stranger(id)
	}
	return row, err
}

// loadNamed is loadUser by the ids that the row is named after. That those inside
// are the same says as much as hashing them once more.
func (s *Store) loadNamed(ctx context.Context, app user.ClientID, human user.HumanID) (userRow, error) {
	id := s.keys.HumanRow(app, human)
	row, err := s.load(ctx, id)
	if err == nil && row.exists() && (row.ClientID != app || row.HumanID != human) {
		err = stranger(id)
	}
	return row, err
}

func stranger(id seal.RowID) error { return opening(Users, id, errStranger) }

// load opens a row as id, whatever the driver says that it is. Its caller checks
// the ids inside.
func (s *Store) load(ctx context.Context, id seal.RowID) (userRow, error) {
	row, found, err := s.driver.Get(ctx, Users, id)
	if err != nil {
		return userRow{}, unavailable("read "+at(Users, id), err)
	}
	if !found {
		return userRow{id: id}, nil
	}
	row.Key = id
	out, err := s.openRecord(ctx, row)
	if err != nil {
		return userRow{}, opening(Users, id, err)
	}
	return out, nil
}

// openUser refuses a row whose ids inside are not its own.
func (s *Store) openUser(ctx context.Context, row Row) (userRow, error) {
	out, err := s.openRecord(ctx, row)
	if err == nil && s.keys.HumanRow(out.ClientID, out.HumanID) != seal.RowID(row.Key) {
		err = errStranger
	}
	return out, err
}

func (s *Store) openRecord(ctx context.Context, row Row) (userRow, error) {
	public, private, err := decodeRow(row.Value)
	if err != nil {
		return userRow{}, err
	}
	plaintext, err := s.openBox(ctx, keyring.Public, seal.Public, row.Key, row.Revision, public)
	if err != nil {
		return userRow{}, err
	}
	rec, err := decodeRecord(plaintext)
	clear(plaintext)
	if err != nil {
		return userRow{}, err
	}
	return userRow{id: row.Key, revision: row.Revision, record: rec, private: private}, nil
}

func (s *Store) openPrivate(ctx context.Context, row userRow) (user.Private, error) {
	plaintext, err := s.openBox(ctx, keyring.Private, seal.Private, row.id, row.revision, row.private)
	if err != nil {
		return user.Private{}, err
	}
	defer clear(plaintext)
	return decodePrivate(plaintext)
}

// loadIndex returns an entry and its revision, 0 when there is none.
func (s *Store) loadIndex(ctx context.Context, id seal.RowID) (indexEntry, uint64, error) {
	row, found, err := s.driver.Get(ctx, Index, id)
	if err != nil {
		return indexEntry{}, 0, unavailable("read "+at(Index, id), err)
	}
	if !found {
		return indexEntry{}, 0, nil
	}
	entry, err := s.openIndex(ctx, row)
	if err != nil {
		return indexEntry{}, 0, opening(Index, id, err)
	}
	return entry, row.Revision, nil
}

func (s *Store) openIndex(ctx context.Context, row Row) (indexEntry, error) {
	plaintext, err := s.openBox(ctx, keyring.Public, seal.Index, row.Key, row.Revision, row.Value)
	if err != nil {
		return indexEntry{}, err
	}
	return decodeIndex(plaintext)
}

// loadSession returns a finished session and its revision, 0 when there is none.
func (s *Store) loadSession(ctx context.Context, id seal.RowID) (session, uint64, error) {
	row, found, err := s.driver.Get(ctx, Sessions, id)
	if err != nil {
		return session{}, 0, unavailable("read "+at(Sessions, id), err)
	}
	if !found {
		return session{}, 0, nil
	}
	done, err := s.openSession(ctx, row)
	if err != nil {
		return session{}, 0, opening(Sessions, id, err)
	}
	return done, row.Revision, nil
}

func (s *Store) openSession(ctx context.Context, row Row) (session, error) {
	plaintext, err := s.openBox(ctx, keyring.Public, seal.Session, row.Key, row.Revision, row.Value)
	if err != nil {
		return session{}, err
	}
	return decodeSession(plaintext)
}

func (s *Store) expired(done session) bool { return s.now().Sub(done.finished) > s.window }

func (s *Store) loadIntent(ctx context.Context, id seal.RowID) (user.Intent, bool, error) {
	row, found, err := s.driver.Get(ctx, Intents, id)
	if err != nil {
		return user.Intent{}, false, unavailable("read "+at(Intents, id), err)
	}
	if !found {
		return user.Intent{}, false, nil
	}
	in, err := s.openIntent(ctx, row)
	if err != nil {
		return user.Intent{}, false, opening(Intents, id, err)
	}
	return in, true, nil
}

func (s *Store) openIntent(ctx context.Context, row Row) (user.Intent, error) {
	plaintext, err := s.openBox(ctx, keyring.Intent, seal.Intent, row.Key, row.Revision, row.Value)
	if err != nil {
		return user.Intent{}, err
	}
	in, err := decodeIntent(plaintext)
	clear(plaintext)
	if err != nil {
		return user.Intent{}, err
	}
	if s.keys.SessionRow(in.ClientID, in.SessionToken) != seal.RowID(row.Key) {
		in.SessionToken.Wipe()
		return user.Intent{}, errStranger
	}
	if in.Arrival != row.Revision {
		return user.Intent{}, errRevision
	}
	return in, nil
}

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// walk calls visit for every row of a table, in key order, until it returns an
// error. No read transaction is open meanwhile.
func (s *Store) walk(ctx context.Context, t Table, visit func(Row) error) error {
	var after *[32]byte
	for {
		rows, err := s.driver.Scan(ctx, t, after, scanPage)
		if err != nil {
			return unavailable("scan "+t.String(), err)
		}
		for _, row := range rows {
			if err := visit(row); err != nil {
				return err
			}
		}
		if len(rows) < scanPage {
			return nil
		}
		after = &rows[len(rows)-1].Key
	}
}
