package exchange

import (
	"testing"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// BenchmarkTokens is one attempt over a kept connection, simulator included.
func BenchmarkTokens(b *testing.B) {
	sim := startSim(b, humanapitest.Config{Mode: humanapitest.Rotating, Keep: 100})
	c := newClient(b, Config{UserURL: sim.URL})
	r := finish(sim)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Tokens(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTokensParallel is the same for 64 callers.
func BenchmarkTokensParallel(b *testing.B) {
	sim := startSim(b, humanapitest.Config{Mode: humanapitest.Rotating, Keep: 100})
	c := newClient(b, Config{UserURL: sim.URL})
	r := finish(sim)
	b.SetParallelism(32)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := c.Tokens(b.Context(), r); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkParse is the reading of a reply of the usual size.
func BenchmarkParse(b *testing.B) {
	body := []byte(goodBody)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(body, tokensWanted); err != nil {
			b.Fatal(err)
		}
	}
}
