package server

import (
	"testing"
	"time"
)

// Callers in these tests are the same process as the server, and no probes of it.
func init() {
	processID = func() int { return 0 }
	noteEvery = 300 * time.Millisecond
}

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

// SetDrain changes how long draining may take, before Run is told to stop.
func (s *Server) SetDrain(d time.Duration) { s.drainFor = d }
