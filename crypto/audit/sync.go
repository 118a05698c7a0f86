package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
)

// group makes callers share a sync: the first leads, who comes while it runs
// waits, and one of those leads the next, which then covers all of them.
type group struct {
	mu      sync.Mutex
	durable mark // every line up to here has been synced
	syncs   uint64
	running *run          // nil when no sync runs
	again   bool          // a sync found no room: see Log.rewrite
	err     error         // why the log is broken
	broken  chan struct{} // closed when err is set
}

// mark is a line and where it ends in its segment.
type mark struct {
	Position
	size int64
}

// run is a sync that others wait for.
type run struct {
	ended chan struct{}
	full  error // set before ended is closed: it found no room
}

// mark names the last line. The caller holds mu.
func (l *Log) mark() mark {
	return mark{Position: Position{Segment: l.segment, Sequence: l.seq, Head: l.head}, size: l.size}
}

// syncTo returns when line seq is on the disk.
func (l *Log) syncTo(ctx context.Context, seq uint64) error {
	for {
		wait, err := l.group.join(seq)
		switch {
		case err != nil:
			return err
		case wait == nil:
			return nil
		case wait.leads:
			l.leadSync(wait.run)
		}
		select {
		case <-wait.run.ended:
			if wait.run.full != nil {
				return wait.run.full
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: wait for its sync: %w", ErrUnavailable, ctx.Err())
		}
	}
}

type turn struct {
	leads bool
	run   *run
}

// join returns nil when line seq is on the disk, or how it is to be waited for.
func (g *group) join(seq uint64) (*turn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.durable.Sequence >= seq:
		return nil, nil
	case g.err != nil:
		return nil, g.err
	case g.running != nil:
		return &turn{run: g.running}, nil
	}
	g.running = &run{ended: make(chan struct{})}
	return &turn{leads: true, run: g.running}, nil
}

// leadSync syncs the active segment. What older segments hold was synced before
// they were closed. A rotation may close the file under it: then that has synced
// it, and has said so to the group.
func (l *Log) leadSync(r *run) {
	l.mu.Lock()
	f, at := l.f, l.mark()
	err := l.rewrite()
	l.mu.Unlock()
	if err == nil {
		err = l.syncFile(f)
	}
	g := &l.group
	g.mu.Lock()
	defer g.mu.Unlock()
	r.full = g.result(at, err)
	close(r.ended)
	g.running = nil
}

// result notes how a sync of the lines up to at ended, and returns the error when
// it found no room. The caller holds mu.
func (g *group) result(at mark, err error) error {
	g.syncs++
	known := g.durable.Sequence >= at.Sequence
	switch {
	case err == nil:
		g.again = false
		if !known {
			g.durable = at
		}
	case known && errors.Is(err, os.ErrClosed): // by a rotation, which had synced it
	case full(err) && !known:
		g.again = true
		return fmt.Errorf("%w: sync: %w", ErrUnavailable, asFull(err))
	default: // also when another sync has said that they are on the disk: an error is told once
		g.breakOff(fmt.Errorf("sync: %w", err))
	}
	return nil
}

func (g *group) finish(at mark, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.result(at, err)
}

// fail breaks the log for good, and returns how.
func (g *group) fail(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.breakOff(err)
	return g.err
}

// breakOff is for who holds mu.
func (g *group) breakOff(err error) {
	if g.err == nil {
		g.err = fmt.Errorf("%w: %w: %w", ErrUnavailable, ErrBroken, err)
		close(g.broken)
	}
}

func (g *group) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *group) counts() (durable mark, syncs uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.durable, g.syncs
}

// unsynced reports whether a sync found no room, and what is on the disk.
func (g *group) unsynced() (again bool, durable mark) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.again, g.durable
}
