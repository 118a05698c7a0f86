package secret_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

func TestMACIsHMAC(t *testing.T) {
	for _, keySize := range []int{0, 1, 16, 32, 63, 64, 65, 200} {
		key := bytes.Repeat([]byte{7}, keySize)
		m := secret.NewMAC(secret.New(key))
		for _, size := range []int{0, 1, 55, 56, 63, 64, 65, 200, 511, 512, 513, 5000} {
			message := bytes.Repeat([]byte("m"), size)
			want := hmac.New(sha256.New, key)
			want.Write(message)
			for range 2 { // what a sum leaves in the pool is of no consequence to the next
				if got := m.Sum(message); !hmac.Equal(got[:], want.Sum(nil)) {
					t.Errorf("key of %d bytes, message of %d: not the HMAC", keySize, size)
				}
			}
		}
	}
}

func TestMACWipe(t *testing.T) {
	key := secret.FromString("marker-mac-key")
	m := secret.NewMAC(key)
	copied := m
	want := m.Sum([]byte("message"))
	key.Wipe()
	if m.Sum([]byte("message")) != want {
		t.Error("the MAC went with the key that it was made of")
	}
	m.Wipe()
	secret.MAC{}.Wipe()
	defer func() {
		if recover() == nil {
			t.Error("a copy of a wiped MAC still makes sums")
		}
	}()
	copied.Sum([]byte("message"))
}

func TestMACIsNotPrinted(t *testing.T) {
	m := secret.NewMAC(secret.FromString(marker))
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%q"} {
		// A pointer to code is all there is to see.
		if out := fmt.Sprintf(verb, m); len(out) > 80 || strings.Contains(out, "sha") {
			t.Errorf("%s shows %d bytes", verb, len(out))
		}
	}
}

func TestMACConcurrently(t *testing.T) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			m := secret.NewMAC(secret.New([]byte{byte(i)}))
			want := hmac.New(sha256.New, []byte{byte(i)})
			want.Write([]byte("message"))
			for range 200 {
				if got := m.Sum([]byte("message")); !hmac.Equal(got[:], want.Sum(nil)) {
					t.Error("sums of several callers mix")
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkMAC(b *testing.B) {
	m := secret.NewMAC(secret.New(make([]byte, 32)))
	b.ReportAllocs()
	for b.Loop() {
		m.Sum([]byte("a message that has some one hundred bytes, which is about what a client id and a human id have, no?"))
	}
}
