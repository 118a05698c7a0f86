package humanapitest

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Request is what the simulator saw of one request, and what it did.
type Request struct {
	Time        time.Time
	Method      string
	Path        string
	RemoteAddr  string   // one connection, one address
	Headers     []string // names, sorted; Host is not among them
	Host        string
	ContentType string
	// Fields are the body's members that are strings, or a form's values. They
	// hold test secrets: do not print them.
	Fields map[string]string
	Fault  Kind   // "" for a delay or a status too
	Status int    // as sent; 0: the connection was closed instead
	Reason string // why it was refused; "" when it was not
	Effect bool   // it made tokens, spent a session token, or told a publicToken
}

// log is a ring of the last requests, and counts of all.
type log struct {
	ring    []Request
	next    int
	counts  map[string]int
	changed chan struct{} // closed and replaced at every arrival
}

func newLog(keep int) *log {
	return &log{ring: make([]Request, 0, keep), counts: map[string]int{}, changed: make(chan struct{})}
}

func (l *log) add(r Request) {
	if len(l.ring) < cap(l.ring) {
		l.ring = append(l.ring, r)
		return
	}
	l.ring[l.next] = r
	l.next = (l.next + 1) % len(l.ring)
}

// arrive counts a request before anything is done about it.
func (s *Server) arrive(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.counts[path]++
	close(s.log.changed)
	s.log.changed = make(chan struct{})
}

func (s *Server) record(r Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.add(r)
}

// Requests returns the last requests that were dealt with, in the order in
// which they were, oldest first. Control requests are not among them.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.log.ring[s.log.next:], s.log.ring[:s.log.next])
}

// Count returns how many requests have arrived on path, those included that are
// still being dealt with.
func (s *Server) Count(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.counts[path]
}

// Counts returns Count for every path that was ever asked for.
func (s *Server) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.log.counts)
}

// Await waits until n requests have arrived on path, counted from the start.
func (s *Server) Await(ctx context.Context, path string, n int) error {
	for {
		s.mu.Lock()
		have, changed := s.log.counts[path], s.log.changed
		s.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
