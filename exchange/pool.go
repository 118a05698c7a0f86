package exchange

import (
	"context"
	"sync"
	"time"
)

const (
	// maxConns bounds the connections to Human API: whoever comes later waits
	// for one within the attempt's time.
	maxConns = 256
	// maxIdle is how long a connection is kept for the next request. It is
	// shorter than the shortest common patience of servers (Node's http server:
	// keepAliveTimeout 5 s), because a request that meets a closing connection
	// ends as Unknown.
	maxIdle = 4 * time.Second
)

// pool lends connections, newest first.
type pool struct {
	dial    func(context.Context) (*link, error)
	slots   chan struct{} // one for each connection that is lent
	maxIdle time.Duration

	mu     sync.Mutex
	idle   []*link // oldest first
	reaper *time.Timer
	closed bool
}

func newPool(dial func(context.Context) (*link, error)) *pool {
	return &pool{dial: dial, slots: make(chan struct{}, maxConns), maxIdle: maxIdle}
}

// get returns a connection that nobody else uses, and that has shown no sign of
// being closed. Every one is given back with put.
func (p *pool) get(ctx context.Context) (*link, error) {
	if ctx.Err() != nil {
		return nil, describe(ctx, "", ctx.Err())
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, describe(ctx, "", ctx.Err())
	}
	for l := p.pop(); l != nil; l = p.pop() {
		if time.Since(l.idle) < p.maxIdle && l.alive() {
			return l, nil
		}
		l.abort()
	}
	l, err := p.dial(ctx)
	if err != nil {
		<-p.slots
	}
	return l, err
}

func (p *pool) pop() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	l := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return l
}

// put takes a connection back, to be used again or not.
func (p *pool) put(l *link, reusable bool) {
	defer func() { <-p.slots }()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !reusable || p.closed {
		l.abort()
		return
	}
	l.idle = time.Now()
	p.idle = append(p.idle, l)
	if p.reaper == nil {
		p.reaper = time.AfterFunc(p.maxIdle, p.reap)
	}
}

// reap closes what has been idle for too long, and comes back while there is more.
func (p *pool) reap() {
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].idle) >= p.maxIdle {
		n++
	}
	old := append([]*link(nil), p.idle[:n]...)
	p.idle = append(p.idle[:0], p.idle[n:]...)
	p.reaper = nil
	if len(p.idle) > 0 && !p.closed {
		p.reaper = time.AfterFunc(p.maxIdle-time.Since(p.idle[0].idle), p.reap)
	}
	p.mu.Unlock()
	for _, l := range old {
		l.close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	if p.reaper != nil {
		p.reaper.Stop()
	}
	p.mu.Unlock()
	for _, l := range idle {
		l.close()
	}
}
