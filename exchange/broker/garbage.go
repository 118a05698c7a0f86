package broker

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// How many exchanges of one claim may fail at Human API: that many at once, and
// then one in that time. What succeeds, and what was not sent, does not count.
// Nobody's real finish events come so thick and fail; an attacker's 10,000 in an
// hour send 8 + 720 requests at the most.
const (
	garbageBurst = 8
	garbageEvery = 5 * time.Second
	// garbageKept bounds the memory: about 6 MB when it is reached.
	garbageKept = 1 << 16
)

// claim is who exchanges for whom: rule, user, and what the app's server knows
// of its login (X-Client-User-Id). Where an app sends that, one login's garbage
// uses up nobody else's budget. It is an HMAC under a key of this process.
type claim [sha256.Size]byte

func (b *Broker) claimOf(in user.Intent) claim {
	fields := []string{string(in.ClientID), string(in.HumanID), in.Rule}
	if in.ExpectedSet {
		fields = append(fields, string(in.Expected))
	}
	var message []byte
	for _, f := range fields {
		message = append(binary.BigEndian.AppendUint64(message, uint64(len(f))), f...)
	}
	return b.salt.Sum(message)
}

// garbage is a leaky bucket for each claim that is under way or failed lately: the
// moment at which it is empty again. It is guarded by Broker.mu.
type garbage struct {
	empty  map[claim]time.Time
	failed map[claim]bool // those of them that failed
	swept  time.Time
}

// take counts an exchange in, or says how long to wait until it could be.
func (g *garbage) take(c claim, now time.Time) (wait time.Duration) {
	empty := g.empty[c]
	if empty.Before(now) {
		empty = now
		delete(g.failed, c)
	}
	if wait := empty.Sub(now) - (garbageBurst-1)*garbageEvery; wait > 0 {
		return wait
	}
	g.makeRoom(now)
	g.empty[c] = empty.Add(garbageEvery)
	return 0
}

// giveBack takes one out again that was no garbage.
func (g *garbage) giveBack(c claim, now time.Time) {
	if empty, ok := g.empty[c]; !ok || !empty.Add(-garbageEvery).After(now) {
		g.forget(c)
	} else {
		g.empty[c] = empty.Add(-garbageEvery)
	}
}

// blame notes that an exchange of a claim was garbage.
func (g *garbage) blame(c claim) {
	if _, ok := g.empty[c]; ok {
		g.failed[c] = true
	}
}

// blames reports whether a claim failed lately.
func (g *garbage) blames(c claim, now time.Time) bool {
	return g.failed[c] && g.empty[c].After(now)
}

func (g *garbage) forget(c claim) {
	delete(g.empty, c)
	delete(g.failed, c)
}

// makeRoom forgets the buckets that are empty, and when that is not enough any
// one of them.
func (g *garbage) makeRoom(now time.Time) {
	if len(g.empty) < garbageKept {
		return
	}
	if now.Sub(g.swept) >= time.Second {
		g.swept = now
		for c, empty := range g.empty {
			if empty.Before(now) {
				g.forget(c)
			}
		}
	}
	for c := range g.empty {
		if len(g.empty) < garbageKept {
			return
		}
		g.forget(c)
	}
}

// isGarbage reports whether an exchange that ended so was garbage, as far as can be
// told: Human API saw the session token, and gave no tokens for that user.
func isGarbage(outcome user.Outcome, err error) bool {
	switch outcome {
	case user.Refused:
		return user.KindOf(err) == user.SessionRefused
	case user.Rejected, user.IndeterminateOutcome:
		return true
	}
	return false
}
