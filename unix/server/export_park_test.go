package server

// Parked is how many connections wait for a byte outside of net/http.
func (s *Server) Parked() (n int) {
	s.parked.mu.Lock()
	defer s.parked.mu.Unlock()
	for _, since := range s.parked.conns {
		if !since.IsZero() {
			n++
		}
	}
	return n
}

// KeepWarm is for how long net/http keeps an idle connection.
const KeepWarm = keepWarm

// SlowHeads is how many unfinished heads a uid may have.
const SlowHeads = slowHeads
