package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	tokensPath     = "/v1/connect/tokens"
	exchangeRounds = 5
	fillCallers    = 64
)

// Durable exchanges of new users, with the simulator answering at once. Goal:
// 2,000/s with 64 callers; one caller pays two store commits, an audit fsync
// and 1 ms over posting directly.
func BenchmarkExchange(b *testing.B) {
	for _, load := range []struct{ callers, requests int }{{1, 60}, {8, 400}, {64, 1920}} {
		b.Run(fmt.Sprintf("callers=%d", load.callers), func(b *testing.B) { exchanges(b, load.callers, load.requests) })
	}
}

// turn is one round of each.
type turn struct {
	ours, direct round
	syncs        syncs
}

func exchanges(b *testing.B, callers, requests int) {
	p := startProduct(b)
	ours, direct := dialAll(b, callers, "unix", p.public), dialAll(b, callers, "tcp", p.simulator)
	var turns []turn
	b.ReportAllocs()
	for b.Loop() {
		drive(b, ours, p.finishEvents(b, requests/2, p.clientID)) // warm
		for range exchangeRounds {
			mine, theirs := p.finishEvents(b, requests, p.clientID), p.finishEvents(b, requests, directApp)
			turns = append(turns, turn{drive(b, ours, mine), drive(b, direct, theirs), measureSyncs(b, p.dir)})
		}
	}
	per, counted := p.countSyncs(b, callers, requests)
	millis := func(f func(turn) time.Duration) float64 {
		return median(turns, func(t turn) float64 { return micros(f(t)) / 1000 })
	}
	rate := median(turns, func(t turn) float64 { return t.ours.perSecond })
	added := millis(func(t turn) time.Duration { return t.ours.p50 - t.direct.p50 })
	b.ReportMetric(rate, "exchanges/s")
	b.ReportMetric(added, "added-ms")
	b.ReportMetric(1e9/rate, "ns/op")
	b.ReportMetric(per, "syncs/exchange")
	b.Logf("figure: durable exchanges, callers=%d: %.0f/s, p50 %.2f ms, posting directly %.2f ms, added %.2f ms; %s; this disk: fdatasync %.2f ms in place, %.2f ms after an append, the writes and syncs of one exchange alone %.2f ms",
		callers, rate, millis(func(t turn) time.Duration { return t.ours.p50 }), millis(func(t turn) time.Duration { return t.direct.p50 }), added, counted,
		millis(func(t turn) time.Duration { return t.syncs.page }), millis(func(t turn) time.Duration { return t.syncs.line }),
		millis(func(t turn) time.Duration { return t.syncs.exchange }))
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// finishEvents makes that many new users finish the popup, and returns the
// requests that exchange their session tokens. Those of directApp are Human
// API's own, with the secret in them.
func (p product) finishEvents(b *testing.B, n int, clientID string) [][]byte {
	b.Helper()
	out := make([][]byte, n)
	errs := make([]error, min(8, n))
	var all sync.WaitGroup
	for w := range errs {
		c := dial(b, "tcp", p.simulator)
		all.Go(func() {
			for i := w; i < n; i += len(errs) {
				if out[i], errs[w] = finishEvent(c, clientID); errs[w] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		must(b, err)
	}
	return out
}

type sto struct {
	HumanID      string `json:"humanId"`
	ClientID     string `json:"clientId"`
	SessionToken string `json:"sessionToken"`
	ClientSecret string `json:"clientSecret,omitempty"`
}

func finishEvent(c *caller, clientID string) ([]byte, error) {
	r, err := c.do(post("/sim/sessions", fmt.Sprintf(`{"clientId":%q,"clientUserId":"%d@example.test"}`, clientID, time.Now().UnixNano())))
	if err != nil {
		return nil, err
	}
	var s sto
	if err := json.Unmarshal(r.body, &s); err != nil {
		return nil, err
	}
	if clientID == directApp {
		s.ClientSecret = directSecret
	}
	body, err := json.Marshal(s)
	return post(tokensPath, string(body)), err
}

// fill stores that many users and returns their humanIds.
func (p product) fill(b *testing.B, n int) (humans []string) {
	b.Helper()
	requests := p.finishEvents(b, n/fillCallers*fillCallers, p.clientID)
	drive(b, dialAll(b, fillCallers, "unix", p.public), requests)
	for _, request := range requests {
		var s sto
		_, body, _ := bytes.Cut(request, headEnd)
		must(b, json.Unmarshal(body, &s))
		humans = append(humans, s.HumanID)
	}
	return humans
}

// countSyncs runs one round on another product under strace, which makes it
// slower, and counts: nothing else sees the system calls of a process.
func (p product) countSyncs(b *testing.B, callers, requests int) (perExchange float64, words string) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		return 0, "syncs not counted (no strace here)"
	}
	dir, err := os.MkdirTemp("/tmp", "tv")
	must(b, err)
	b.Cleanup(func() { must(b, os.RemoveAll(dir)) })
	trace := filepath.Join(dir, "trace")
	traced := startProduct(b, strace, "-D", "-f", "-y", "--seccomp-bpf", "-e", "trace=fdatasync,fsync", "-o", trace)
	events := traced.finishEvents(b, requests, traced.clientID)
	ours := dialAll(b, callers, "unix", traced.public)
	before := count(b, trace)
	drive(b, ours, events)
	after := count(b, trace)
	store, log := float64(after[0]-before[0])/float64(requests), float64(after[1]-before[1])/float64(requests)
	return store + log, fmt.Sprintf("%.2f syncs an exchange under strace (store %.2f, its growth included, audit log %.2f)", store+log, store, log)
}

// count reads how often store and audit log were synced.
func count(b *testing.B, trace string) [2]int {
	text, err := os.ReadFile(trace)
	must(b, err)
	var n [2]int
	for line := range bytes.Lines(text) {
		switch {
		case bytes.Contains(line, []byte("/store.db>")):
			n[0]++
		case bytes.Contains(line, []byte("/audit.log>")):
			n[1]++
		}
	}
	return n
}

// syncs is what this disk takes: a sync of pages written in place, one of a file
// that has grown, and all that an exchange writes and syncs.
type syncs struct{ page, line, exchange time.Duration }

// measureSyncs writes and syncs as one exchange does, with nothing around it:
// two commits of three pages and a meta page, and a line of a log.
func measureSyncs(b *testing.B, dir string) syncs {
	b.Helper()
	const pages, page = 256, 4096
	store, err := os.CreateTemp(dir, "floor")
	must(b, err)
	log, err := os.CreateTemp(dir, "floor")
	must(b, err)
	defer func() {
		must(b, os.Remove(store.Name()))
		must(b, os.Remove(log.Name()))
		_ = store.Close()
		_ = log.Close()
	}()
	_, err = store.Write(make([]byte, pages*page))
	must(b, err)
	must(b, store.Sync())
	var ofPages, ofLines, exchanges []time.Duration
	sync := func(f *os.File, took *[]time.Duration) {
		from := time.Now()
		must(b, syscall.Fdatasync(int(f.Fd())))
		*took = append(*took, time.Since(from))
	}
	for i := range 20 {
		from := time.Now()
		for commit := range 2 {
			for n := range 3 {
				_, err := store.WriteAt(make([]byte, page), int64(2+(i*6+commit*3+n)*37%(pages-2))*page)
				must(b, err)
			}
			sync(store, &ofPages)
			_, err := store.WriteAt(make([]byte, page), int64(commit)*page)
			must(b, err)
			sync(store, &ofPages)
		}
		_, err := log.Write(make([]byte, 450))
		must(b, err)
		sync(log, &ofLines)
		exchanges = append(exchanges, time.Since(from))
	}
	middle := func(all []time.Duration) time.Duration {
		return time.Duration(median(all, func(d time.Duration) float64 { return float64(d) }))
	}
	return syncs{middle(ofPages), middle(ofLines), middle(exchanges)}
}
