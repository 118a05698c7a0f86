package store

import (
	"context"
	"fmt"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// importBatch is how many users one transaction of Import takes: enough to make
// the two syncs of a commit cheap, and little enough that an exchange does not
// wait long behind it.
const importBatch = 256

// Imported is what Import did with the records that it was given.
type Imported struct {
	Stored    int   // new users, and known ones who were completed
	Known     int   // users who were there already with all of it
	Conflicts []int // places of the records of users who stay as they are
}

// Import stores the tokens of users that were kept elsewhere until now, sealed as
// those of an exchange, in durable transactions of many users each. Of a record
// only the ids, the tokens and the expiry count; it needs both ids and at least
// one token. Its arrival number is 0: every exchange is later.
//
// Of a user who is there already nothing is ever replaced. One who holds all of
// the record is Known; one who lacks some of it (a publicToken that was fetched
// has no accessToken beside it) is completed; one who holds something else, is
// indeterminate, or cannot be opened is a conflict and stays as it is.
//
// After an error what was returned is durable, and some of the rest may be;
// Import with the same records goes on where it ended, and finds the others Known.
func (s *Store) Import(ctx context.Context, records []user.Record) (Imported, error) {
	for i, r := range records {
		if r.ClientID == "" || r.HumanID == "" || (r.AccessToken.IsZero() && r.PublicToken == "") {
			return Imported{}, fmt.Errorf("import record %d: clientId, humanId or both tokens are missing", i)
		}
	}
	if err := s.enter(); err != nil {
		return Imported{}, err
	}
	defer s.inUse.RUnlock()
	var all Imported
	for from := 0; from < len(records); {
		n := s.distinct(records[from:])
		some, err := s.importSome(ctx, records[from:from+n])
		if err != nil {
			return all, err
		}
		all.Stored, all.Known = all.Stored+some.Stored, all.Known+some.Known
		for _, i := range some.Conflicts {
			all.Conflicts = append(all.Conflicts, from+i)
		}
		from += n
	}
	return all, nil
}

// distinct is how many of the first records are of different users, and fit into
// one batch: a batch names each row once.
func (s *Store) distinct(records []user.Record) int {
	seen := make(map[seal.RowID]bool, importBatch)
	for i, r := range records {
		id := s.keys.HumanRow(r.ClientID, r.HumanID)
		if i == importBatch || seen[id] {
			return i
		}
		seen[id] = true
	}
	return len(records)
}

// importSome imports records of different users in one transaction.
func (s *Store) importSome(ctx context.Context, records []user.Record) (done Imported, err error) {
	err = s.retry(ctx, "import users", func() error {
		done = Imported{}
		d := s.draft()
		for i, r := range records {
			if err := d.take(ctx, r, i, &done); err != nil {
				return err
			}
		}
		if done.Stored == 0 {
			return d.err
		}
		return d.apply(ctx)
	})
	if err != nil {
		return Imported{}, err
	}
	return done, nil
}

// take decides about one record, and adds it to the batch or not.
func (d *draft) take(ctx context.Context, r user.Record, place int, done *Imported) error {
	cur, err := d.s.loadNamed(ctx, r.ClientID, r.HumanID)
	if err == nil {
		err = d.s.kept(ctx, cur, func(held user.Private) { d.complete(ctx, cur, held, r, place, done) })
	}
	if user.KindOf(err) == user.RowDamaged {
		done.Conflicts = append(done.Conflicts, place)
		return nil
	}
	return err
}

func (d *draft) complete(ctx context.Context, cur userRow, held user.Private, r user.Record, place int, done *Imported) {
	next := cur.record
	next.ClientID, next.HumanID = r.ClientID, r.HumanID
	fits := fill(&next.ClientUserID, r.ClientUserID)
	fits = fill(&next.PublicToken, r.PublicToken) && fits
	private := held
	if held.AccessToken.IsZero() {
		private = r.Private
	} else if !r.AccessToken.IsZero() {
		fits = fits && held.AccessToken.Equal(r.AccessToken)
	}
	same := next.Public == cur.Public && held.AccessToken.Equal(private.AccessToken)
	switch {
	case fits && cur.exists() && same:
		done.Known++
	case !fits || cur.State == user.Indeterminate:
		done.Conflicts = append(done.Conflicts, place)
	default:
		next = d.user(ctx, cur, next, private)
		d.index(ctx, next, cur.id)
		done.Stored++
	}
}

// fill gives an empty field its value, and reports whether it has it then.
func fill[T ~string](field *T, value T) bool {
	if *field == "" {
		*field = value
	}
	return value == "" || *field == value
}
