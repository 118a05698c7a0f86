package server_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
)

// callers is how many kept-alive connections ask at the same time.
const callers = 8

// BenchmarkLookup asks for a user over the socket, policy, store and audit log
// included, and prints the ratio to a bare net/http handler on a Unix socket
// that answers the same bytes, in the same run. Callers are Go's HTTP client, or
// write prepared bytes, which costs next to nothing and so shows the server
// alone. To reach with HTTP clients: 0.85.
//
//	go test -run '^$' -bench Lookup -benchtime 50000x ./unix/server
func BenchmarkLookup(b *testing.B) {
	b.Run("http-client", func(b *testing.B) { benchmarkLookup(b, askHTTP) })
	b.Run("raw-client", func(b *testing.B) { benchmarkLookup(b, askRaw) })
}

// asker sends requests for path over one kept-alive connection until left is used up.
type asker func(socket, path string, want []byte, left *atomic.Int64) error

func benchmarkLookup(b *testing.B, one asker) {
	s := clienttest.Start(b, clienttest.Config{})
	o := s.NewSession("user@example.com")
	if _, err := s.Client(b, s.Public).Exchange(b.Context(), o); err != nil {
		b.Fatal(err)
	}
	path := "/v1/users/" + string(o.HumanID)
	want := raw(b, s.Public, request("GET", path, ""))
	plain := filepath.Join(b.TempDir(), "plain")
	l, err := net.Listen("unix", plain)
	if err != nil {
		b.Fatal(err)
	}
	bare := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		h.Set(api.HeaderRequestID, want.header.Get(api.HeaderRequestID))
		_, _ = w.Write(want.body)
	})}
	go func() { _ = bare.Serve(l) }()
	defer func() { _ = bare.Close() }()
	b.ReportAllocs()
	b.ResetTimer()
	const rounds = 10 // alternating, so that a busy machine hits both alike
	each := max(b.N/rounds, callers)
	var spent, cpu [2]float64
	for range rounds {
		for i, socket := range []string{plain, s.Public} {
			start, used := b.Elapsed(), cpuTime(b)
			ask(b, one, socket, path, want.body, each)
			spent[i] += (b.Elapsed() - start).Seconds()
			cpu[i] += (cpuTime(b) - used).Seconds()
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(rounds*each)/spent[0], "bare/s")
	b.ReportMetric(float64(rounds*each)/spent[1], "lookups/s")
	b.ReportMetric(spent[0]/spent[1], "ratio")
	// What a lookup costs the processors beyond a bare answer, callers left out.
	b.ReportMetric((cpu[1]-cpu[0])*1e6/float64(rounds*each), "more-cpu-µs")
}

// cpuTime is what this process has used, in user mode and in the kernel.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ask sends n requests over kept-alive connections.
func ask(b *testing.B, one asker, socket, path string, want []byte, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	errs := make(chan error, callers)
	for range callers {
		go func() { errs <- one(socket, path, want, &left) }()
	}
	for range callers {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
}

func askRaw(socket, path string, want []byte, left *atomic.Int64) error {
	head := request("GET", path, "")
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	got := make([]byte, len(want))
	for left.Add(-1) >= 0 {
		if _, err := io.WriteString(conn, head); err != nil {
			return err
		}
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := io.ReadFull(in, got); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("another answer than expected")
		}
	}
	return nil
}

func askHTTP(socket, path string, want []byte, left *atomic.Int64) error {
	tr := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	for left.Add(-1) >= 0 {
		res, err := c.Get("http://tokenvault" + path)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("another answer than expected, or none: %w", err)
		}
	}
	return nil
}
