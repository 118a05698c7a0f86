package audit

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
)

// BenchmarkEncode is what a line costs beside its system call.
func BenchmarkEncode(b *testing.B) {
	l := mustOpen(b, testConfig(logPath(b)))
	e := lookup("0123456789abcdef")
	var head [32]byte
	b.ReportAllocs()
	for b.Loop() {
		l.buf, head = seal(appendEvent(appendStart(l.buf[:0], 1, l.now(), e.Kind), &e), head)
	}
}

func BenchmarkWrite(b *testing.B) {
	c := testConfig(logPath(b))
	c.Now = nil
	l := mustOpen(b, c)
	e := lookup("0123456789abcdef")
	b.ReportAllocs()
	for b.Loop() {
		mustWrite(b, l, e)
	}
}

// BenchmarkWriteReserved is BenchmarkWrite with a reserve that is topped up.
func BenchmarkWriteReserved(b *testing.B) {
	c := testConfig(logPath(b))
	c.Now, c.Reserve = nil, 64<<20
	l := mustOpen(b, c)
	e := lookup("0123456789abcdef")
	b.ReportAllocs()
	for b.Loop() {
		mustWrite(b, l, e)
	}
}

func BenchmarkSubject(b *testing.B) {
	l := mustOpen(b, testConfig(logPath(b)))
	b.ReportAllocs()
	for b.Loop() {
		l.Subject("2e9574ecd415c99346879d07689ec1c732c11036", "b20c0ba4aeb79fe87f0e5b5ef7e6e5cc")
	}
}

// BenchmarkDurable is audited writes by many callers. syncs/op shows the sharing.
func BenchmarkDurable(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := mustOpen(b, testConfig(logPath(b)))
			before := l.Status().Syncs
			var all sync.WaitGroup
			work := make(chan struct{}, callers)
			for range callers {
				all.Go(func() {
					for range work {
						if err := l.WriteDurable(b.Context(), lookup("0123456789abcdef")); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				work <- struct{}{}
			}
			close(work)
			all.Wait()
			b.ReportMetric(float64(l.Status().Syncs-before)/float64(b.N), "syncs/op")
		})
	}
}

// BenchmarkFloor is a bare append, alone and with a sync: below that nothing is.
func BenchmarkFloor(b *testing.B) {
	line := bytes.Repeat([]byte("x"), 420)
	for name, sync := range map[string]bool{"append": false, "append+fdatasync": true} {
		b.Run(name, func(b *testing.B) {
			f, err := os.OpenFile(logPath(b), openFlags|os.O_CREATE, fileMode)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			for b.Loop() {
				if _, err := f.Write(line); err != nil {
					b.Fatal(err)
				}
				if sync {
					if err := syncData(f); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkVerify is over memory; the log is read once.
func BenchmarkVerify(b *testing.B) {
	path := logPath(b)
	l := mustOpen(b, testConfig(path))
	for range 10000 {
		mustWrite(b, l, lookup("0123456789abcdef"))
	}
	log := read(b, path)
	b.SetBytes(int64(len(log)))
	for b.Loop() {
		c, in := chain{key: publicKey()}, newLines(bytes.NewReader(log))
		for n := 0; ; n++ {
			err := in.next()
			if err == io.EOF {
				break
			}
			if err == nil {
				err = c.next(in.line, n == 0)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
