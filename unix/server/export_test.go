package server

import (
	"testing"
	"time"
)

// AwaitGrace returns when a draining server refuses new requests.
func (s *Server) AwaitGrace(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !s.refusing.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the server never refuses")
		}
	}
}

// Busy is how many connections have a request, or none yet.
func (s *Server) Busy() int { return int(s.states.busy.Load()) }
