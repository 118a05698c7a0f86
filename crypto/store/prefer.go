package store

import (
	"context"
	"slices"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// AllByClientUserID returns everyone whom the app knows under that id, in the
// order of their coming, and which of them an administrator has preferred; -1 when
// none. Nobody is no error.
func (s *Store) AllByClientUserID(ctx context.Context, app user.ClientID, id user.ClientUserID) (users []user.Public, preferred int, err error) {
	if err := s.enter(); err != nil {
		return nil, -1, err
	}
	defer s.inUse.RUnlock()
	entry, revision, err := s.loadIndex(ctx, s.keys.IndexRow(app, id))
	if err != nil || revision == 0 {
		return nil, -1, err
	}
	for _, row := range entry.rows {
		public, err := s.named(ctx, app, id, row)
		if err != nil {
			return nil, -1, err
		}
		users = append(users, public)
	}
	if entry.preferred == noneChosen {
		return users, -1, nil
	}
	return users, int(entry.preferred), nil
}

// Prefer makes a user the one whom lookups by that clientUserId find, whoever else
// has come or will come under it, and returns its public part. UnknownUser when
// that user has not come under it. Preferring the same user again does nothing;
// nobody is removed, so that it can be decided otherwise later.
func (s *Store) Prefer(ctx context.Context, app user.ClientID, id user.ClientUserID, human user.HumanID) (user.Public, error) {
	if err := s.enter(); err != nil {
		return user.Public{}, err
	}
	defer s.inUse.RUnlock()
	key, row := s.keys.IndexRow(app, id), s.keys.HumanRow(app, human)
	var out user.Public
	err := s.retry(ctx, "prefer a user", func() (err error) {
		d := s.draft()
		e := d.entry(ctx, key)
		if e == nil {
			return d.err
		}
		place := slices.Index(e.rows, row)
		if place < 0 {
			return user.Fail(user.UnknownUser, "no such user of the app under that clientUserId")
		}
		if out, err = s.named(ctx, app, id, row); err != nil || int(e.preferred) == place {
			return err
		}
		e.preferred, e.changed = byte(place), true
		return d.apply(ctx)
	})
	if err != nil {
		return user.Public{}, err
	}
	return out, nil
}
