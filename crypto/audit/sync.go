package audit

import (
	"context"
	"fmt"
	"sync"
)

// group makes callers share a sync: the first leads, who comes while it runs
// waits, and one of those leads the next, which then covers all of them.
type group struct {
	mu      sync.Mutex
	durable uint64 // every line up to here has been synced
	syncs   uint64
	running chan struct{} // closed when the running sync ends; nil when none runs
	err     error         // of the first sync that failed
	broken  chan struct{} // closed when err is set
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
			l.leadSync()
			continue
		}
		select {
		case <-wait.ended:
		case <-ctx.Done():
			return fmt.Errorf("%w: wait for its sync: %w", ErrUnavailable, ctx.Err())
		}
	}
}

type turn struct {
	leads bool
	ended <-chan struct{}
}

// join returns nil when line seq is on the disk, or how it is to be waited for.
func (g *group) join(seq uint64) (*turn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.durable >= seq:
		return nil, nil
	case g.err != nil:
		return nil, g.err
	case g.running != nil:
		return &turn{ended: g.running}, nil
	}
	g.running = make(chan struct{})
	return &turn{leads: true}, nil
}

// leadSync syncs the active segment. What older segments hold was synced before
// they were closed. A rotation may close the file under it: then that has synced
// it, and has said so to the group.
func (l *Log) leadSync() {
	l.mu.Lock()
	f, seq := l.f, l.seq
	l.mu.Unlock()
	err := l.syncFile(f)
	g := &l.group
	g.mu.Lock()
	defer g.mu.Unlock()
	g.result(seq, err)
	close(g.running)
	g.running = nil
}

// result notes how a sync of the lines up to seq ended. The caller holds mu.
func (g *group) result(seq uint64, err error) {
	g.syncs++
	switch {
	case err == nil:
		g.durable = max(g.durable, seq)
	case g.durable < seq && g.err == nil:
		g.err = fmt.Errorf("%w: %w: %w", ErrUnavailable, ErrBroken, err)
		close(g.broken)
	}
}

func (g *group) finish(seq uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.result(seq, err)
}

func (g *group) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *group) counts() (durable, syncs uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.durable, g.syncs
}
