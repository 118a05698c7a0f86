package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// idleTimeout is how long a connection may be kept without a request.
	idleTimeout = 5 * time.Minute
	// strangerIdle is the same for callers without a rule.
	strangerIdle = 10 * time.Second
	// grace is how long connections without a request are kept open once the
	// server stops: a request may be on its way. 50 to 200 ms lost none in 20
	// restarts under load.
	grace = 200 * time.Millisecond
	// lastWord is how long before the end of draining requests are told that it
	// comes, or a quarter of the whole: time to record and answer them.
	lastWord = 2 * time.Second
)

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler: s, ReadHeaderTimeout: s.limits.HeaderTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: s.limits.Header, DisableGeneralOptionsHandler: true,
		BaseContext: func(net.Listener) context.Context { return s.cut },
		ConnContext: withConn, ConnState: s.hook,
		// What net/http has to say quotes what callers sent.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
}

// Run serves until ctx ends, then drains, and returns nil. It returns an error
// when a listener fails. It closes the listeners.
func (s *Server) Run(ctx context.Context) error {
	group, failed := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		group.Go(func() error {
			err := s.accept(l)
			if s.draining.Load() && errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("serve listener %q: %w", l.Name, err)
		})
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.http.Serve(s.feed) }() // ends with Shutdown
	stop := make(chan struct{})
	notes := make(chan struct{})
	go func() { defer close(notes); s.refusals.run(s, stop) }()
	<-failed.Done()
	s.draining.Store(true)
	for _, l := range s.listeners {
		_ = l.L.Close()
	}
	err := group.Wait() // from here on every connection is counted
	s.drain()
	<-served
	close(stop)
	<-notes
	return err
}

// drain ends the service without losing a request. http.Server.Shutdown alone
// drops those that it reads after it began (net/http server.go, conn.serve), so
// only the listeners were closed at first, and every answer closes its
// connection; Shutdown comes when nothing is new or active.
//
// Shortly before its time is over the contexts of all requests end, so that they
// are answered and recorded ("exchange_pending", else "draining"); who has not
// been answered at the end is cut off. In all it takes at most drainFor.
func (s *Server) drain() {
	defer s.parked.close()
	defer s.cutOff()
	deadline, cancel := context.WithTimeout(context.Background(), s.drainFor)
	defer cancel()
	last := time.NewTimer(s.drainFor - min(lastWord, s.drainFor/4))
	defer last.Stop()
	idle := time.NewTimer(min(grace, s.drainFor))
	defer idle.Stop()
	for waited := false; ; {
		if busy, all := s.states.count(); all == 0 || busy == 0 && waited {
			break
		}
		select {
		case <-s.states.changed:
		case <-idle.C:
			waited = true
			s.refusing.Store(true)
		case <-last.C:
			s.log.Warn("requests told to come again, draining takes too long", "connections", s.states.busy.Load())
			s.cutOff()
		case <-deadline.Done():
			s.log.Warn("connections cut off, draining took too long", "connections", s.states.busy.Load())
			_ = s.http.Close()
			return
		}
	}
	s.refusing.Store(true)
	ctx, cancelShutdown := context.WithTimeout(deadline, time.Second)
	defer cancelShutdown()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
	}
}

// states counts connections by what net/http says of them.
type states struct {
	busy, open atomic.Int64  // busy: new or active
	changed    chan struct{} // holds one when a count went down
}

func (s *states) count() (busy, open int64) { return s.busy.Load(), s.open.Load() }

// weight says what a state counts as. A new connection is busy: a request may
// be on its way.
func weight(state http.ConnState) (busy, open int64) {
	switch state {
	case http.StateNew, http.StateActive:
		return 1, 1
	case http.StateIdle:
		return 0, 1
	}
	return 0, 0
}

// move is called for one connection at a time.
func (st *states) move(c *conn, to http.ConnState) {
	busyBefore, openBefore := weight(http.ConnState(c.state.Swap(int32(to))))
	busy, open := weight(to)
	st.open.Add(open - openBefore)
	st.busy.Add(busy - busyBefore)
	if busy >= busyBefore && open >= openBefore {
		return
	}
	select {
	case st.changed <- struct{}{}:
	default:
	}
}
