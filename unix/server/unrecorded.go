package server

import (
	"errors"
	"sync/atomic"

	"github.com/tokenvault/tokenvault/crypto/audit"
)

// unrecorded is about public reads that were answered although the audit log did
// not take them, because the operator wants that.
type unrecorded struct {
	allowed bool
	count   atomic.Uint64
	going   atomic.Bool // some stand on no record yet
}

// Unrecorded is how many public reads were answered without a record since New,
// those that a note stands for now included.
func (s *Server) Unrecorded() uint64 { return s.lookups.count.Load() }

// mayGoUnrecorded: a log that has lost lines is left to end the process.
func (s *Server) mayGoUnrecorded(q *call, err error) bool {
	return s.lookups.allowed && q.acted && q.route.public && !s.durable[string(q.route.grant)] &&
		errors.Is(err, audit.ErrUnavailable) && !errors.Is(err, audit.ErrBroken)
}

func (s *Server) goUnrecorded(q *call, err error) {
	s.lookups.count.Add(1)
	if s.lookups.going.CompareAndSwap(false, true) {
		s.log.Error("audit log takes nothing: public reads are answered unrecorded", "error", err)
	}
	s.refusals.note(noteKey{unrecorded: true}, q)
}

// spared reports whether the log, on a full disk, leaves what room it has to what is
// granted. What was refused is then counted, and on record later.
func spared(e *audit.Event, err error) bool {
	return e.Refusal && errors.Is(err, audit.ErrSpared)
}

// tell logs when refusals begin to be counted only, and when that ends. Only flush
// calls it, from one goroutine at a time.
func (r *refusals) tell(s *Server, spared error) {
	r.mu.Lock()
	was := r.sparing
	r.sparing = spared != nil
	r.mu.Unlock()
	switch {
	case spared != nil && !was:
		s.log.Warn("audit log is short of room: what is refused is only counted for now", "error", spared)
	case spared == nil && was:
		s.log.Info("audit log has room again for what is refused")
	}
}
