package bench

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	usersStored   = 2000
	lookupCallers = 8
	lookupsRound  = 12_000
	tokenCallers  = 16
	tokensRound   = 6_000
	ratioRounds   = 7
)

// A public lookup with policy and audit on, against a bare net/http handler on a
// Unix socket that answers the same bytes and headers. Goal: 0.85. With callers
// that are net/http's clients, as in most programs, and with lean ones, which
// leave the cores to the servers.
func BenchmarkPublicLookup(b *testing.B) {
	p := startProduct(b)
	humans := p.fill(b, usersStored)
	requests := make([][]byte, lookupsRound)
	for i := range requests {
		requests[i] = get("/v1/users/" + humans[i%len(humans)])
	}
	c := comparison{what: "public lookup", product: p.process, socket: p.public, requests: requests, goal: 0.85}
	b.Run(fmt.Sprintf("callers=%d/net-http", lookupCallers), func(b *testing.B) {
		c.run(b, func(socket string) (all []sender) {
			for range lookupCallers {
				all = append(all, newOrdinary(b, socket))
			}
			return all
		})
	})
	b.Run(fmt.Sprintf("callers=%d/lean", lookupCallers), func(b *testing.B) { c.run(b, lean(b, lookupCallers)) })
}

// A durable, audited read of an access token. Goal: half of the bare handler.
func BenchmarkAccessToken(b *testing.B) {
	p := startProduct(b)
	humans := p.fill(b, usersStored)
	requests := make([][]byte, tokensRound)
	for i := range requests {
		requests[i] = get("/v1/users/" + humans[i%len(humans)] + "/access-token")
	}
	c := comparison{what: "durable access-token read", product: p.process, socket: p.private, requests: requests, goal: 0.5}
	b.Run(fmt.Sprintf("callers=%d/lean", tokenCallers), func(b *testing.B) { c.run(b, lean(b, tokenCallers)) })
}

func lean(b *testing.B, n int) func(socket string) []sender {
	return func(socket string) (all []sender) {
		for _, c := range dialAll(b, n, "unix", socket) {
			all = append(all, c)
		}
		return all
	}
}

// comparison of the product with the floor.
type comparison struct {
	what     string
	product  process
	socket   string
	requests [][]byte
	goal     float64
}

// side is a round of one of them, with the time on the cores that it took the
// server, for one request.
type side struct {
	round
	cpu time.Duration
}

// run takes rounds in turn from the product and from the floor.
func (c comparison) run(b *testing.B, connect func(socket string) []sender) {
	child, socket := startBare(b, dial(b, "unix", c.socket).want(b, c.requests[0], 200))
	ours, floor := connect(c.socket), connect(socket)
	type pair struct{ ours, floor side }
	var pairs []pair
	b.ReportAllocs()
	for b.Loop() {
		drive(b, ours, c.requests[:len(c.requests)/4]) // warm
		drive(b, floor, c.requests[:len(c.requests)/4])
		for range ratioRounds {
			pairs = append(pairs, pair{c.side(b, c.product, ours), c.side(b, child, floor)})
		}
	}
	of := func(f func(pair) float64) float64 { return median(pairs, f) }
	ratio := of(func(p pair) float64 { return p.ours.perSecond / p.floor.perSecond })
	rate, bareRate := of(func(p pair) float64 { return p.ours.perSecond }), of(func(p pair) float64 { return p.floor.perSecond })
	b.ReportMetric(ratio, "ratio")
	b.ReportMetric(rate, "req/s")
	b.ReportMetric(bareRate, "bare-req/s")
	b.ReportMetric(1e9/rate, "ns/op")
	_, who, _ := strings.Cut(b.Name(), "/")
	b.Logf("figure: %s, %s: %.0f/s, bare handler %.0f/s, ratio %.2f (goal %.2f); p50 %.0f µs (bare %.0f), p99 %.0f µs (bare %.0f); on the server's cores %.1f µs each (bare %.1f)",
		c.what, who, rate, bareRate, ratio, c.goal,
		of(func(p pair) float64 { return micros(p.ours.p50) }), of(func(p pair) float64 { return micros(p.floor.p50) }),
		of(func(p pair) float64 { return micros(p.ours.p99) }), of(func(p pair) float64 { return micros(p.floor.p99) }),
		of(func(p pair) float64 { return micros(p.ours.cpu) }), of(func(p pair) float64 { return micros(p.floor.cpu) }))
}

func (c comparison) side(b *testing.B, server process, callers []sender) side {
	before := server.cpu()
	r := drive(b, callers, c.requests)
	return side{r, (server.cpu() - before) / time.Duration(len(c.requests))}
}
