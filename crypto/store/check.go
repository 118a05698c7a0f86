package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// maxProblems bounds Report.Problems.
const maxProblems = 100

// Report is what Check found.
type Report struct {
	Counts map[string]int // rows by table name
	// States are the users that open, by state; every state that there is has one.
	States map[string]int
	// Ambiguous is how many clientUserIds are those of two or more users and none
	// of them preferred.
	Ambiguous int
	Problems  []string // at most 100: the row's table and id in hex, and what is wrong
	Omitted   int      // problems beyond those
}

// Check walks all tables, opens every box, and holds the tables against one
// another: ids hash back to row ids, revisions of rows and boxes agree, keys are
// known, index and users name each other (a full entry need not name all), marks
// are where the state is not active, sessions that stored something name a user,
// intents belong to their session. It may run beside writers. A problem is no
// error; an error means that the walk could not go on, as when keys were wiped.
func (s *Store) Check(ctx context.Context) (Report, error) {
	if err := s.enter(); err != nil {
		return Report{}, err
	}
	defer s.inUse.RUnlock()
	c := checker{s: s, report: newReport()}
	for table, visit := range map[Table]func(context.Context, Row) error{
		Users: c.user, Index: c.index, Sessions: c.session, Intents: c.intent, Marks: c.mark,
	} {
		c.report.Counts[table.String()] = 0
		err := s.walk(ctx, table, func(row Row) error {
			c.report.Counts[table.String()]++
			err := visit(ctx, row)
			if errors.Is(err, keyring.ErrWiped) || user.KindOf(err) == user.VaultStale {
				return err
			}
			if err != nil {
				c.problem(table, row.Key, err)
			}
			return ctx.Err()
		})
		if err != nil {
			return c.report, unavailable("check the store", err)
		}
	}
	slices.Sort(c.report.Problems)
	return c.report, nil
}

func newReport() Report {
	return Report{
		Counts: make(map[string]int, len(Tables)),
		States: map[string]int{string(user.Active): 0, string(user.Indeterminate): 0},
	}
}

// checker looks at one row at a time; its methods return what is wrong with it.
type checker struct {
	s      *Store
	report Report
}

func (c *checker) problem(t Table, id [32]byte, err error) {
	if len(c.report.Problems) == maxProblems {
		c.report.Omitted++
		return
	}
	c.report.Problems = append(c.report.Problems, fmt.Sprintf("%s: %s", at(t, id), err))
}

// settled reads a user row until it was the same before and after look, so that
// what look sees in another table is of the same transaction.
func (c *checker) settled(ctx context.Context, id seal.RowID, look func(userRow) error) error {
	for range maxAttempts {
		row, err := c.s.loadUser(ctx, id)
		if err != nil {
			return err
		}
		found := look(row)
		if found == nil {
			return nil
		}
		again, ok, err := c.s.driver.Get(ctx, Users, id)
		if err != nil {
			return err
		}
		if ok == row.exists() && (!ok || again.Revision == row.revision) {
			return found
		}
	}
	return errors.New("changes too often to be checked")
}

func (c *checker) user(ctx context.Context, row Row) error {
	u, err := c.s.openUser(ctx, row)
	if err != nil {
		return err
	}
	c.report.States[string(u.State)]++
	private, err := c.s.openPrivate(ctx, u)
	if err != nil {
		return err
	}
	private.AccessToken.Wipe()
	if u.ClientUserID != "" {
		entry, _, err := c.s.loadIndex(ctx, c.s.keys.IndexRow(u.ClientID, u.ClientUserID))
		if err != nil {
			return fmt.Errorf("its index entry: %w", err)
		}
		if !slices.Contains(entry.rows, u.id) && !entry.full() {
			return errors.New("the index does not name it")
		}
	}
	return c.settled(ctx, u.id, func(u userRow) error {
		if _, marked, err := c.s.driver.Get(ctx, Marks, u.id); err != nil || marked == (u.State != user.Active) {
			return err
		} else if marked {
			return errors.New("is marked, but active")
		}
		return errors.New("is not active, but has no mark")
	})
}

func (c *checker) index(ctx context.Context, row Row) error {
	entry, err := c.s.openIndex(ctx, row)
	if err != nil {
		return err
	}
	if entry.ambiguous() {
		c.report.Ambiguous++
	}
	for _, id := range entry.rows {
		u, err := c.s.loadUser(ctx, id)
		switch {
		case err != nil:
			return fmt.Errorf("names a user that cannot be opened: %w", err)
		case !u.exists():
			return fmt.Errorf("names %s, which is not there", at(Users, id))
		case c.s.keys.IndexRow(u.ClientID, u.ClientUserID) != seal.RowID(row.Key):
			return fmt.Errorf("names %s, which has another clientUserId", at(Users, id))
		}
	}
	return nil
}

func (c *checker) session(ctx context.Context, row Row) error {
	done, err := c.s.openSession(ctx, row)
	if err != nil {
		return err
	}
	if done.outcome == user.Refused || done.outcome == user.Rejected {
		return nil
	}
	if _, there, err := c.s.driver.Get(ctx, Users, done.row); err != nil || there {
		return err
	}
	return fmt.Errorf("ended %s for %s, which is not there", done.outcome, at(Users, done.row))
}

func (c *checker) intent(ctx context.Context, row Row) error {
	in, err := c.s.openIntent(ctx, row)
	if err != nil {
		return err
	}
	in.SessionToken.Wipe()
	_, ended, err := c.s.driver.Get(ctx, Sessions, row.Key)
	if err != nil || !ended {
		return err
	}
	if _, open, err := c.s.driver.Get(ctx, Intents, row.Key); err != nil || !open {
		return err
	}
	return errors.New("has ended, and is still an intent")
}

func (c *checker) mark(ctx context.Context, row Row) error {
	if !bytes.Equal(row.Value, markIndeterminate) || row.Revision != markRevision {
		return fmt.Errorf("mark: %w", errFormat)
	}
	return c.settled(ctx, row.Key, func(u userRow) error {
		_, marked, err := c.s.driver.Get(ctx, Marks, row.Key)
		switch {
		case err != nil || !marked || u.State == user.Indeterminate:
			return err
		case !u.exists():
			return errors.New("marks a user that is not there")
		}
		return errors.New("marks a user that is active")
	})
}
