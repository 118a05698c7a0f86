package policy

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBuckets bounds the memory of rates: above it, full buckets are dropped,
// which forgets nothing.
const maxBuckets = 4096

type bucketKey struct {
	rule *rule
	uid  uint32
}

// buckets holds one bucket for each rule and uid that was allowed something.
type buckets struct {
	now func() time.Time
	mu  sync.Mutex
	by  map[bucketKey]*rate.Limiter
}

// draw takes one request from the bucket, or returns how long to wait for one.
func (b *buckets) draw(r *rule, uid uint32) time.Duration {
	if r.perSecond == 0 {
		return 0
	}
	now := b.now()
	res := b.get(bucketKey{r, uid}, now).ReserveN(now, 1)
	wait := res.DelayFrom(now)
	if wait > 0 {
		res.CancelAt(now)
	}
	return wait
}

func (b *buckets) get(k bucketKey, now time.Time) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l, ok := b.by[k]; ok {
		return l
	}
	if b.by == nil {
		b.by = map[bucketKey]*rate.Limiter{}
	}
	if len(b.by) >= maxBuckets {
		for old, l := range b.by {
			if l.TokensAt(now) >= float64(old.rule.burst) {
				delete(b.by, old)
			}
		}
	}
	l := rate.NewLimiter(rate.Limit(k.rule.perSecond), k.rule.burst)
	b.by[k] = l
	return l
}
