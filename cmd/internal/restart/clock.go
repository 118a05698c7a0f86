package restart

import "time"

// moment is one point in time by both clocks. A time is kept as what the machine's
// clock since boot says it was: then it is as long ago after a restart as it really
// is, whatever was done to the wall clock meanwhile.
type moment struct {
	boot  string
	since time.Duration
	now   time.Time
}

// century bounds how far from now a time is kept; sums of such do not overflow.
const century = 100 * 365 * 24 * time.Hour

// out is t on the clock since boot.
func (m moment) out(t time.Time) int64 {
	return int64(m.since + min(max(t.Sub(m.now), -century), century))
}

// in is the time that out made at of.
func (m moment) in(at int64) time.Time {
	return m.now.Add(time.Duration(at) - m.since)
}

// past is t, or now when t lies ahead: nothing was heard in the future, and what
// claims so would go stale too late.
func (m moment) past(t time.Time) time.Time {
	if t.After(m.now) {
		return m.now
	}
	return t
}
