package server

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenvault/tokenvault/crypto/audit"
)

// What costs a caller nothing must not fill the audit log: what is refused
// before anything was done, and whoami. A uid gets uidPerSecond lines for such
// requests, all uids together allPerSecond; what is beyond is counted, and
// written as one note for each code every noteEvery. With lines of 400 bytes
// that is at most 35 MB a day from one uid, and 230 MB from all, notes included.
//
// Many uids together can use up the lines of all others, whose refusals then
// stand in a note only.
const (
	uidPerSecond = 1
	uidBurst     = 50
	allPerSecond = 5
	allBurst     = 200
	// maxUIDs bounds the memory of budgets. They are never dropped, because a
	// uid whose budget is forgotten has a new one: later uids share one.
	maxUIDs = 4096
)

// noteEvery is changed by tests, which would wait for it.
var noteEvery = 5 * time.Second

// noteKey is what the requests of a note have in common.
type noteKey struct {
	status   int
	code     string // "" on success
	route    string // of a success, and of what was done
	outcome  string // of what an administrator did
	starting bool   // before the audit log was open
	// unrecorded: public reads, whatever their answers, that the audit log did not
	// take.
	unrecorded bool
}

// counted is how many they are, and whose. The listener and uid are those of the
// first while there is no other.
type counted struct {
	n        int
	listener string
	uid      uint32
	many     bool
}

// refusals counts what is written as aggregated notes.
type refusals struct {
	mu     sync.Mutex
	counts map[noteKey]counted
	all    *rate.Limiter
	byUID  map[uint32]*rate.Limiter
	rest   *rate.Limiter // of every uid that byUID has no room for
	wake   chan struct{} // holds one when counts is not empty
}

// lined reports whether such a request of uid gets a line of its own.
func (r *refusals) lined(uid uint32, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = rate.NewLimiter(allPerSecond, allBurst)
		r.rest = rate.NewLimiter(uidPerSecond, uidBurst)
		r.byUID = map[uint32]*rate.Limiter{}
	}
	l := r.byUID[uid]
	switch {
	case l != nil:
	case len(r.byUID) < maxUIDs:
		l = rate.NewLimiter(uidPerSecond, uidBurst)
		r.byUID[uid] = l
	default:
		l = r.rest
	}
	return l.AllowN(now, 1) && r.all.AllowN(now, 1)
}

// count adds an answer to the next note.
func (r *refusals) count(q *call, rep reply) {
	key := noteKey{status: rep.status, code: string(rep.code), starting: q.services == nil}
	if rep.code == "" || q.acted && q.route.attempt {
		key.route, key.outcome = q.route.name, q.event.Outcome
	}
	r.note(key, q)
}

func (r *refusals) note(key noteKey, q *call) {
	r.add(key, counted{n: 1, listener: q.conn.listener, uid: q.conn.caller.UID})
	r.wakeUp()
}

func (r *refusals) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *refusals) add(key noteKey, more counted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.counts[key]; ok {
		more.n += c.n
		more.many = more.many || c.many || c.uid != more.uid || c.listener != more.listener
	}
	if r.counts == nil {
		r.counts = map[noteKey]counted{}
	}
	r.counts[key] = more
}

// run writes notes until stop is closed, and the last ones then.
func (r *refusals) run(s *Server, stop <-chan struct{}) {
	for stopped := false; !stopped; {
		select {
		case <-stop:
		case <-r.wake:
		}
		pause := time.NewTimer(noteEvery)
		select {
		case <-stop:
			stopped = true
		case <-pause.C:
		}
		pause.Stop()
		if v := s.services.Load(); v != nil {
			r.flush(s, v.Audit)
		}
	}
	answers := 0
	for _, c := range r.take() {
		answers += c.n
	}
	if answers > 0 {
		s.log.Warn("answers are on no record: the audit log never opened, or took no notes", "answers", answers)
	}
}

// flush writes the counts; those that the log cannot take are kept.
func (r *refusals) flush(s *Server, log Audit) {
	for key, c := range r.take() {
		if err := log.Write(key.note(c)); err != nil {
			s.log.Error("audit log does not take a note", "error", err)
			r.add(key, c)
			r.wakeUp()
			continue
		}
		if key.unrecorded && s.lookups.going.CompareAndSwap(true, false) {
			s.log.Warn("audit log works again, and has a note of what it missed", "answers", c.n)
		}
	}
}

func (r *refusals) take() map[noteKey]counted {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.counts
	r.counts = nil
	return taken
}

func (k noteKey) note(c counted) audit.Event {
	e := audit.Event{Kind: audit.Note, Route: k.route, Status: k.status, Error: k.code, Count: c.n}
	if c.many {
		e.Outcome = "many" // callers
	} else {
		e.Listener, e.UID = c.listener, &c.uid
	}
	switch {
	case k.unrecorded:
		e.Outcome = "unrecorded"
	case k.starting && k.outcome != "":
		e.Outcome = "starting, " + k.outcome
	case k.starting:
		e.Outcome = "starting"
	}
	return e
}
