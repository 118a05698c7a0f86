package server

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenvault/tokenvault/crypto/audit"
)

// What costs a caller nothing must not fill the audit log: what is refused
// before anything was done, and whoami. A uid gets uidPerSecond lines for such
// requests, all uids together allPerSecond; what is beyond is counted, and
// written as one note a second for each uid and answer. Lines and notes of a uid
// have uidBytes an hour, and those of all have allBytes: at most 25 MiB a day from
// one uid, and 200 MiB from all. A note that there is no budget for waits, and goes
// on counting; at most maxNotes wait, and what is beyond is counted without a uid.
// Nothing is left out but by a kill.
//
// Many uids together can use up the lines and bytes of all others, whose refusals
// then stand in a later note only.
const (
	uidPerSecond = 1
	uidBurst     = 50
	allPerSecond = 5
	allBurst     = 200
	uidBytes     = 1 << 20
	allBytes     = 8 << 20
	// restOfLine is more than what outcome adds to a line: route, app, subject,
	// status and error.
	restOfLine = 384
	maxNotes   = 256
	// maxUIDs bounds the memory of budgets. They are never dropped, because a
	// uid whose budget is forgotten has a new one: later uids share one.
	maxUIDs = 4096
)

// noteEvery is changed by tests, which would wait for it.
var noteEvery = time.Second

// noteKey is what the requests of a note have in common.
type noteKey struct {
	uid      uint32
	many     bool // of any uid: there was no room for another key
	status   int
	code     string // "" on success
	route    string // of a success, and of what was done
	outcome  string // of what an administrator did
	starting bool   // before the audit log was open
	unseen   bool   // by any handler: net/http refused it
	// unrecorded: public reads, whatever their answers, that the audit log did not
	// take.
	unrecorded bool
}

// free reports whether these requests cost their callers nothing.
func (k *noteKey) free() bool { return !k.unrecorded && k.outcome == "" }

// counted is how many they are, and by which listener, "" for several.
type counted struct {
	n        int
	listener string
}

// budget is what may be written of one uid, or of all.
type budget struct{ lines, bytes *rate.Limiter }

func newBudget(perSecond rate.Limit, burst, bytes int) *budget {
	return &budget{
		lines: rate.NewLimiter(perSecond, burst),
		bytes: rate.NewLimiter(rate.Limit(bytes)/3600, bytes),
	}
}

// refusals counts what is written as aggregated notes.
type refusals struct {
	mu      sync.Mutex
	counts  map[noteKey]counted
	many    int // how many of counts are of many uids
	all     *budget
	byUID   map[uint32]*budget
	rest    *budget       // of every uid that byUID has no room for
	wake    chan struct{} // holds one when counts is not empty
	sparing bool          // of run: the log leaves its reserve to what is granted
}

// lined reports whether such a request gets a line of its own. e is what is known
// of it.
func (r *refusals) lined(e *audit.Event, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.budget(*e.UID)
	return own.lines.AllowN(now, 1) && r.all.lines.AllowN(now, 1) && r.pay(own, e.Size()+restOfLine, now)
}

// pays reports whether there is budget for a note of that size.
func (r *refusals) pays(k noteKey, size int, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.budget(k.uid)
	if k.many {
		own = r.all
	}
	return !k.free() || r.pay(own, size, now)
}

// pay is for who holds mu.
func (r *refusals) pay(own *budget, size int, now time.Time) bool {
	if own.bytes.TokensAt(now) < float64(size) || !r.all.bytes.AllowN(now, size) {
		return false
	}
	return own == r.all || own.bytes.AllowN(now, size)
}

// budget is for who holds mu.
func (r *refusals) budget(uid uint32) *budget {
	if r.all == nil {
		r.all = newBudget(allPerSecond, allBurst, allBytes)
		r.rest = newBudget(uidPerSecond, uidBurst, uidBytes)
		r.byUID = map[uint32]*budget{}
	}
	if b := r.byUID[uid]; b != nil {
		return b
	}
	if len(r.byUID) >= maxUIDs {
		return r.rest
	}
	b := newBudget(uidPerSecond, uidBurst, uidBytes)
	r.byUID[uid] = b
	return b
}

// count adds an answer to the next note.
func (r *refusals) count(q *call, rep reply) {
	key := noteKey{status: rep.status, code: string(rep.code), starting: q.services == nil}
	if rep.code == "" || q.acted {
		key.route, key.outcome = q.route.name, q.event.Outcome
	}
	r.note(key, q)
}

func (r *refusals) note(key noteKey, q *call) {
	key.uid = q.conn.caller.UID
	r.keep(key, counted{n: 1, listener: q.conn.listener})
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
	c, ok := r.counts[key]
	if !ok && !key.many && len(r.counts)-r.many >= maxNotes {
		key.uid, key.many = 0, true
		c, ok = r.counts[key]
	}
	if ok {
		more.n += c.n
		if more.listener != c.listener {
			more.listener = ""
		}
	} else if key.many {
		r.many++
	}
	if r.counts == nil {
		r.counts = map[noteKey]counted{}
	}
	r.counts[key] = more
}

// take takes one count out; ok says whether it was there.
func (r *refusals) take(key noteKey) (c counted, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok = r.counts[key]; ok && key.many {
		r.many--
	}
	delete(r.counts, key)
	return c, ok
}

// waiting returns the keys of all notes that are to be written.
func (r *refusals) waiting() []noteKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.counts))
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
			r.write(s, v.Audit, stopped)
		}
	}
	answers := 0
	for _, key := range r.waiting() {
		c, _ := r.take(key)
		answers += c.n
	}
	if answers > 0 {
		s.log.Warn("answers are on no record: the audit log never opened, or took no notes", "answers", answers)
	}
}

// flush writes the counts that there is budget for.
func (r *refusals) flush(s *Server, log Audit) { r.write(s, log, false) }

// write writes the counts that there is budget for, or all of them when they are the
// last; those that the log cannot take are kept.
func (r *refusals) write(s *Server, log Audit, last bool) {
	var spared error
	for _, key := range r.waiting() {
		c, ok := r.take(key)
		if !ok {
			continue
		}
		e := key.note(c)
		if !last && !r.pays(key, e.Size(), s.now()) {
			r.keep(key, c)
			continue
		}
		err := log.Write(e)
		switch {
		case err == nil && key.unrecorded && s.lookups.going.CompareAndSwap(true, false):
			s.log.Warn("audit log works again, and has a note of what it missed", "answers", c.n)
		case err == nil:
		case errors.Is(err, audit.ErrSpared):
			spared = err
			r.keep(key, c)
		default:
			s.log.Error("audit log does not take a note", "error", err)
			r.keep(key, c)
		}
	}
	r.tell(s, spared)
}

// keep puts back what could not be written.
func (r *refusals) keep(key noteKey, c counted) {
	r.add(key, c)
	r.wakeUp()
}

func (k noteKey) note(c counted) audit.Event {
	e := audit.Event{
		Kind: audit.Note, Listener: c.listener, Route: k.route, Status: k.status, Error: k.code,
		Count: c.n, Refusal: k.free(),
	}
	if k.many {
		e.Outcome = "many" // callers
	} else {
		e.UID = &k.uid
	}
	switch {
	case k.unrecorded:
		e.Outcome = "unrecorded"
	case k.starting && k.outcome != "":
		e.Outcome = "starting, " + k.outcome
	case k.starting && k.unseen:
		e.Outcome = "starting, " + notHTTP
	case k.unseen:
		e.Outcome = notHTTP
	case k.starting:
		e.Outcome = "starting"
	}
	return e
}
