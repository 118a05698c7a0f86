package humanapitest

import (
	"encoding/json"
	"time"
)

// Kind is a way to answer wrongly.
type Kind string

const (
	// None: the answer is right, unless Status says otherwise; for delays.
	None Kind = ""

	// These take effect (the session token is spent, new tokens replace the
	// old ones) unless NoEffect is set. Where the request is refused anyway,
	// the refusal is sent in that way.

	DropAfter    Kind = "drop-after"    // connection closed instead of an answer
	Empty        Kind = "empty"         // no body
	Truncated    Kind = "truncated"     // Content-Length is larger than what is sent, then closed
	CutHead      Kind = "cut-head"      // the head ends in the middle, then closed
	Huge         Kind = "huge"          // a right answer with a field of 1 MiB in front
	Endless      Kind = "endless"       // a string that does not end before the client leaves
	HTML         Kind = "html"          // a web page
	NotJSON      Kind = "not-json"      // a JSON object with a comma too many
	NoHTTP       Kind = "no-http"       // a line that is no HTTP
	Surplus      Kind = "surplus"       // a right answer, then bytes beyond its Content-Length
	BigHeader    Kind = "big-header"    // a right answer with a header of 1 MiB
	WrongUser    Kind = "wrong-user"    // another humanId
	WrongClient  Kind = "wrong-client"  // another clientId
	MissingField Kind = "missing-field" // without Field
	WrongType    Kind = "wrong-type"    // Field is a number
	SetField     Kind = "set-field"     // Field is Value, raw JSON or not even that
	DoubleField  Kind = "double-field"  // Field stands there twice, the second time with Value (default: the same)

	// These take no effect unless TakesEffect is set, and neither does a Status
	// that is no success.

	DropBefore Kind = "drop-before" // connection closed instead of an answer
	Redirect   Kind = "redirect"    // Status (default 307) to Location (default: a path of the simulator that does not exist)
)

// Kinds lists the closed set, without None.
var Kinds = []Kind{DropAfter, Empty, Truncated, CutHead, Huge, Endless, HTML, NotJSON, NoHTTP, Surplus, BigHeader,
	WrongUser, WrongClient, MissingField, WrongType, SetField, DoubleField, DropBefore, Redirect}

// Fault is one way to misbehave. Faults are tried in the order they came; the
// first that matches a request is used, and used up after Times requests.
type Fault struct {
	Path      string // only on this path; "" on both endpoints
	ClientID  string // only for this app; "" for all
	HumanID   string // only for this user; "" for all
	Times     int    // how many requests; 0 means 1
	Permanent bool   // until ClearFaults

	Kind   Kind
	Status int // answer with this instead of 200; without a Kind the body is an error object
	// RetryAfter is the Retry-After header as it is sent: seconds, a date, nonsense.
	RetryAfter string
	Message    string          // in error bodies; default: words of the simulator
	Field      string          // for MissingField, WrongType, SetField, DoubleField
	Value      json.RawMessage // for SetField, DoubleField
	Location   string          // for Redirect

	// Delay is before the request takes effect, DelayAnswer after it. Both end
	// early when the client leaves or the server is closed; what was to take
	// effect then still does.
	Delay, DelayAnswer time.Duration
	// Hold and HoldAnswer are the same for tests: they wait for the channel to
	// be closed (or to give a value).
	Hold, HoldAnswer <-chan struct{}

	TakesEffect, NoEffect bool // against the kind's default
}

// effect reports whether the request is to be carried out.
func (f Fault) effect() bool {
	switch {
	case f.NoEffect:
		return false
	case f.TakesEffect:
		return true
	case f.Kind == DropBefore, f.Kind == Redirect:
		return false
	}
	return f.Status == 0 || f.Status >= 200 && f.Status < 300
}

func (f Fault) matches(path string, in map[string]string) bool {
	return (f.Path == "" || f.Path == path) &&
		(f.ClientID == "" || f.ClientID == in["clientId"]) &&
		(f.HumanID == "" || f.HumanID == in["humanId"])
}

// Misbehave adds a fault to the end of the queue.
func (s *Server) Misbehave(f Fault) {
	if f.Times == 0 {
		f.Times = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// ClearFaults forgets all faults, permanent ones too.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// fault takes the first matching fault from the queue; the zero Fault when
// there is none.
func (s *Server) fault(path string, in map[string]string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if !f.matches(path, in) {
			continue
		}
		if f.Times--; f.Times == 0 && !f.Permanent {
			s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
		}
		return *f
	}
	return Fault{}
}

// wait spends the delays of one stage.
func (s *Server) wait(d time.Duration, hold <-chan struct{}, gone <-chan struct{}) {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-gone:
		case <-s.closing:
		}
	}
	if hold != nil {
		select {
		case <-hold:
		case <-gone:
		case <-s.closing:
		}
	}
}
