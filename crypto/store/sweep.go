package store

import (
	"context"
)

// DefaultSweep is how many sessions Sweep looks at when it is not told.
const DefaultSweep = 256

// Sweep looks at up to limit finished sessions (0: DefaultSweep), removes those
// that are past the replay window, and goes on after them when it is called
// again. more is false when it came to the end; the next call then starts over.
// Sessions that cannot be opened stay where they are: Check names them.
func (s *Store) Sweep(ctx context.Context, limit int) (removed int, more bool, err error) {
	if err := s.enter(); err != nil {
		return 0, false, err
	}
	defer s.inUse.RUnlock()
	if limit <= 0 {
		limit = DefaultSweep
	}
	s.sweepMu.Lock()
	defer s.sweepMu.Unlock()
	var rows []Row
	err = s.retry(ctx, "sweep the sessions", func() error {
		d := s.draft()
		if rows, err = s.driver.Scan(ctx, Sessions, s.sweepAt, limit); err != nil {
			return err
		}
		for _, row := range rows {
			if done, err := s.openSession(ctx, row); err == nil && s.expired(done) {
				d.add(Op{Table: Sessions, Key: row.Key, Expect: row.Revision})
			}
		}
		if removed = len(d.batch.Ops); removed == 0 {
			return nil
		}
		return d.apply(ctx)
	})
	if err != nil {
		return 0, true, err
	}
	s.sweepAt = nil
	if more = len(rows) == limit; more {
		s.sweepAt = &rows[len(rows)-1].Key
	}
	return removed, more, nil
}
