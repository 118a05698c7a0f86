package server

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/unix/api"
)

const (
	// A uid gets this many lines of cheap refusals in the audit log; what is
	// beyond is counted, and written once a noteEvery.
	refusalsPerSecond = 5
	refusalsBurst     = 20
	noteEvery         = time.Second
	maxRefusers       = 4096
)

// cheap are the refusals that cost a caller nothing, and must therefore not be
// able to fill the audit log.
func cheap(c api.Code) bool {
	switch c {
	case api.UnknownCaller, api.RateLimited, api.TooSlow, api.TooLarge, api.Starting, api.Draining:
		return true
	}
	return false
}

type noteKey struct {
	uid      uint32
	listener string
	code     api.Code
}

// refusals counts what is written as aggregated notes.
type refusals struct {
	mu     sync.Mutex
	counts map[noteKey]int
	rates  map[uint32]*rate.Limiter
	wake   chan struct{} // holds one when counts is not empty
}

// lined reports whether this refusal gets a line of its own.
func (r *refusals) lined(uid uint32, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.rates[uid]
	if l == nil {
		if r.rates == nil || len(r.rates) >= maxRefusers {
			r.rates = map[uint32]*rate.Limiter{}
		}
		l = rate.NewLimiter(refusalsPerSecond, refusalsBurst)
		r.rates[uid] = l
	}
	return l.AllowN(now, 1)
}

// count adds to the next note.
func (r *refusals) count(q *call, code api.Code) {
	r.mu.Lock()
	if r.counts == nil {
		r.counts = map[noteKey]int{}
	}
	r.counts[noteKey{q.conn.caller.UID, q.conn.listener, code}]++
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run writes notes until stop is closed, and the last ones then.
func (r *refusals) run(s *Server, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			if v := s.services.Load(); v != nil {
				r.flush(s, v.Audit)
			}
			return
		case <-r.wake:
		}
		pause := time.NewTimer(noteEvery)
		select {
		case <-stop:
		case <-pause.C:
		}
		pause.Stop()
		if v := s.services.Load(); v != nil {
			r.flush(s, v.Audit)
		}
	}
}

// flush writes the counts; those that the log cannot take are kept. What was
// refused before the services opened is one note, whoever asked.
func (r *refusals) flush(s *Server, log Audit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	starting := 0
	for key, n := range r.counts {
		if key.code == api.Starting {
			starting += n
			continue
		}
		note := audit.Event{Kind: audit.Note, Listener: key.listener, UID: &key.uid, Status: key.code.Status(), Error: string(key.code), Count: n}
		if !s.note(log, note) {
			return
		}
		delete(r.counts, key)
	}
	note := audit.Event{Kind: audit.Note, Status: api.Starting.Status(), Error: string(api.Starting), Count: starting}
	if starting == 0 || !s.note(log, note) {
		return
	}
	clear(r.counts)
}

func (s *Server) note(log Audit, e audit.Event) bool {
	if err := log.Write(e); err != nil {
		s.log.Error("audit log does not take a note", "error", err)
		return false
	}
	return true
}
