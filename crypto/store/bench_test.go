package store_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// benchUsers is how many users the read benchmarks choose from. Set to what fits
// a quick run; the figures at millions are measured over the sockets.
const benchUsers = 2000

func populated(b *testing.B) *fixture {
	f := newFixture(b)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for n := w; n < benchUsers; n += 64 {
				in, err := f.Begin(f.ctx(), intent(fmt.Sprint("h", n), fmt.Sprint(n)))
				if err == nil {
					_, err = f.Commit(f.ctx(), in, answer(in, user.ClientUserID(fmt.Sprint("c", n))))
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return f
}

func BenchmarkPublic(b *testing.B) {
	f := populated(b)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n = (n + 7919) % benchUsers
		if _, err := f.Public(f.ctx(), app, user.HumanID(fmt.Sprint("h", n))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkByClientUserID(b *testing.B) {
	f := populated(b)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n = (n + 7919) % benchUsers
		if _, err := f.ByClientUserID(f.ctx(), app, user.ClientUserID(fmt.Sprint("c", n))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExchange is one Begin and one Commit; commits/op × 2 are its syncs.
func BenchmarkExchange(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			f := newFixture(b)
			var next atomic.Int64
			work := make(chan struct{})
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for range work {
						n := next.Add(1)
						in, err := f.Begin(f.ctx(), intent(fmt.Sprint("h", n%benchUsers), fmt.Sprint(n)))
						if err == nil {
							_, err = f.Commit(f.ctx(), in, answer(in, ""))
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			before := f.bolt.Commits()
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(2*(f.bolt.Commits()-before))/float64(b.N), "syncs/op")
		})
	}
}
