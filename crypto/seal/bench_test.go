package seal_test

import (
	"bytes"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
)

// A public box has about this many bytes.
const publicSize = 200

func BenchmarkSeal(b *testing.B) {
	key, id, bind, in := keyOf('k'), seal.KeyID{9}, binding(), bytes.Repeat([]byte{1}, publicSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := seal.Seal(key, id, bind, in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	key, bind := keyOf('k'), binding()
	envelope := mustSeal(b, key, seal.KeyID{9}, bind, bytes.Repeat([]byte{1}, publicSize))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := seal.Open(key, bind, envelope); err != nil {
			b.Fatal(err)
		}
	}
}
