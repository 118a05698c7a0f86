package exchange

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// bomb is a good answer behind 10 MB of blanks, in a few KB of gzip.
func bomb() string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, strings.Repeat(" ", 10<<20)+goodBody)
	_ = z.Close()
	return b.String()
}

// hostile are answers of a Human API that means harm, or of what has put itself in
// its place, and what must become of each.
var hostile = map[string]struct {
	answer string
	class  Class
	status int
}{
	"redirect to metadata":       {"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/\r\n" + sized(""), Unknown, 302},
	"redirect that keeps POST":   {"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/\r\n" + sized(goodBody), Unknown, 307},
	"redirect for good":          {"HTTP/1.1 308 Permanent Redirect\r\nLocation: //metadata.google.internal/\r\n" + sized(""), Unknown, 308},
	"refresh":                    {"HTTP/1.1 200 OK\r\nRefresh: 0; url=http://169.254.169.254/\r\nAlt-Svc: h2=\"169.254.169.254:80\"\r\n" + sized(""), Unreadable, 200},
	"proxy wanted":               {"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n" + sized(""), Refused, 407},
	"use a proxy":                {"HTTP/1.1 305 Use Proxy\r\nLocation: http://169.254.169.254/\r\n" + sized(""), Unknown, 305},
	"gzip bomb":                  {"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + sized(bomb()), Unreadable, 200},
	"gzip as a transfer coding":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + bomb(), Unknown, 0},
	"two lengths":                {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 90\r\n\r\n" + goodBody, Unknown, 0},
	"two lengths in one":         {"HTTP/1.1 200 OK\r\nContent-Length: 2, 90\r\n\r\n" + goodBody, Unknown, 0},
	"negative length":            {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + goodBody, Unknown, 0},
	"signed length":              {"HTTP/1.1 200 OK\r\nContent-Length: +87\r\n\r\n" + goodBody, Unknown, 0},
	"length in hex":              {"HTTP/1.1 200 OK\r\nContent-Length: 0x57\r\n\r\n" + goodBody, Unknown, 0},
	"endless length":             {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n" + goodBody, Unknown, 0},
	"huge length":                {"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n" + goodBody, Unreadable, 200},
	"length too long":            {"HTTP/1.1 200 OK\r\nContent-Length: 88\r\n\r\n" + goodBody, Unknown, 200},
	"chunk of 2^64":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000057\r\n" + goodBody + "\r\n0\r\n\r\n", Unknown, 200},
	"chunk without size":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + goodBody + "\r\n0\r\n\r\n", Unknown, 200},
	"negative chunk":             {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-57\r\n" + goodBody + "\r\n0\r\n\r\n", Unknown, 200},
	"chunked twice":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n57\r\n" + goodBody + "\r\n0\r\n\r\n", Unknown, 0},
	"coding in two lines":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n57\r\n" + goodBody + "\r\n0\r\n\r\n", Unknown, 0},
	"HTTP/0.9":                   {goodBody, Unknown, 0},
	"HTTP/2":                     {"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00\x00\x06\x00\x00\x40\x00", Unknown, 0},
	"HTTP/3.0 by name":           {"HTTP/11 200 OK\r\n" + goodTail, Unknown, 0},
	"status of four digits":      {"HTTP/1.1 2000 OK\r\n" + goodTail, Unknown, 0},
	"status with a sign":         {"HTTP/1.1 +20 OK\r\n" + goodTail, Unknown, 0},
	"no status":                  {"HTTP/1.1  OK\r\n" + goodTail, Unknown, 0},
	"header without a name":      {"HTTP/1.1 200 OK\r\n: x\r\n" + goodTail, Unknown, 0},
	"header without a colon":     {"HTTP/1.1 200 OK\r\n" + markerUpstream + "\r\n" + goodTail, Unknown, 0},
	"header with a NUL":          {"HTTP/1.1 200 OK\r\nX: \x00\r\n" + goodTail, Unknown, 0},
	"another answer in a header": {"HTTP/1.1 200 OK\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n" + goodTail, Unknown, 200},
	"interim, then the end":      {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), Unknown, 0},
	"another user's":             {"HTTP/1.1 200 OK\r\n" + sized(strings.Replace(goodBody, markerHuman, "marker-human-id-of-another", 1)), "", 200},
	"a page":                     {"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + sized("<script>"+markerUpstream+"</script>"), Unreadable, 200},
	"JSON with a tail":           {"HTTP/1.1 200 OK\r\n" + sized(goodBody+"{}"), Unreadable, 200},
	"JSON behind a mark":         {"HTTP/1.1 200 OK\r\n" + sized("\xef\xbb\xbf"+goodBody), Unreadable, 200},
	"JSON behind a prefix":       {"HTTP/1.1 200 OK\r\n" + sized(")]}',\n"+goodBody), Unreadable, 200},
}

// Whatever it answers: one request an attempt, nothing dialled but the origin,
// no word of it in an error, and a class that is no lie.
func TestHostileAnswers(t *testing.T) {
	refused := 0
	for name, m := range hostile {
		t.Run(name, func(t *testing.T) {
			var posts, conns atomic.Int32
			url := rawServer(t, func(n int, c *net.TCPConn, in *bufio.Reader) {
				conns.Add(1)
				for readPost(in) {
					posts.Add(1)
					say(c, m.answer)
					_ = c.CloseWrite()
				}
			})
			c := newClient(t, Config{UserURL: url, Timeout: time.Minute})
			_, err := c.Tokens(t.Context(), request("sim-session"))
			switch {
			case m.class != "":
				wantClass(t, err, m.class, m.status)
				refused++
			case err != nil: // the broker's to refuse: it knows whom it asked about
				t.Error(err)
			}
			_, err = c.PublicToken(t.Context(), publicRequest())
			if e, ok := errors.AsType[*Error](err); !ok || e.Class == NotSent {
				t.Errorf("a publicToken: %v", err)
			}
			for end := time.Now().Add(10 * time.Second); posts.Load() < 2 && time.Now().Before(end); {
				runtime.Gosched() // it may not have read yet what it does not answer
			}
			if posts.Load() != 2 || conns.Load() > 2 {
				t.Errorf("%d requests over %d connections for 2 attempts", posts.Load(), conns.Load())
			}
		})
	}
	t.Logf("figure: %d hostile answers, %d refused by their form, the others by whom they are about", len(hostile), refused)
}

// What does not end is cut off, by size where it comes fast and by time where it
// comes slowly.
func TestEndlessAnswers(t *testing.T) {
	for name, m := range map[string]struct{ start, more string }{
		"header":             {"HTTP/1.1 200 OK\r\nX: ", "x"},
		"headers":            {"HTTP/1.1 200 OK\r\n", "X: y\r\n"},
		"folded header":      {"HTTP/1.1 200 OK\r\nX: y\r\n", " y\r\n"},
		"status line":        {"HTTP/1.1 200 ", "O"},
		"interim answers":    {"", "HTTP/1.1 103 Early Hints\r\n\r\n"},
		"headers of interim": {"HTTP/1.1 103 Early Hints\r\n", "Link: x\r\n"},
		"blank lines":        {"", "\r\n"},
		"blanks":             {"HTTP/1.1 200 OK\r\n\r\n", " "},
		"string":             {"HTTP/1.1 200 OK\r\n\r\n{\"humanId\":\"", "x"},
		"chunk extension":    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", "x"},
		"chunk size":         {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0"},
		"trailer":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"},
	} {
		for _, speed := range []string{"fast", "slow"} {
			t.Run(name+", "+speed, func(t *testing.T) {
				t.Parallel()
				part := m.more
				if speed == "fast" {
					part = strings.Repeat(m.more, 1+4096/len(m.more))
				}
				var sent atomic.Int64
				gone := make(chan struct{})
				url := rawServer(t, func(_ int, c *net.TCPConn, in *bufio.Reader) {
					defer close(gone)
					readPost(in)
					say(c, m.start)
					for {
						n, err := io.WriteString(c, part)
						if sent.Add(int64(n)); err != nil {
							return
						}
						if speed == "slow" {
							time.Sleep(time.Millisecond) // the attack itself
						}
					}
				})
				timeout := map[string]time.Duration{"fast": time.Minute, "slow": 300 * time.Millisecond}[speed]
				c := newClient(t, Config{UserURL: url, Timeout: timeout})
				_, err := c.Tokens(t.Context(), request("sim-session"))
				e, ok := errors.AsType[*Error](err)
				if !ok || e.Class != Unknown && e.Class != Unreadable {
					t.Fatalf("got %v", err)
				}
				if speed == "slow" && name != "blank lines" && name != "chunk size" && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("it was not cut off by time: %v", err)
				}
				<-gone // the connection is closed
				if n := sent.Load(); n > 32<<20 {
					t.Errorf("%d bytes were taken", n)
				}
			})
		}
	}
}

// A flood of huge answers leaves no more behind than the buffers of those who wait.
func TestHugeAnswersCostNoMemory(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	sim.Misbehave(humanapitest.Fault{Permanent: true, Kind: humanapitest.Huge})
	c := newClient(t, Config{UserURL: sim.URL, Timeout: time.Minute})
	r := finish(sim)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	_, _ = c.Tokens(t.Context(), r)
	before := heap()
	for range 100 {
		_, err := c.Tokens(t.Context(), r)
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != Unreadable && e.Class != Refused {
			t.Fatalf("got %v", err)
		}
	}
	if more := heap() - before; more > 8<<20 {
		t.Errorf("%d bytes more after 100 answers of 1 MiB", more)
	}
}

// TLS 1.2 is the least, whatever the environment asks Go for.
func TestTLSVersions(t *testing.T) {
	t.Setenv("GODEBUG", "tls10server=1,tlsrsakex=1,tls3des=1")
	for version, ok := range map[uint16]bool{0x0301: false, 0x0302: false, 0x0303: true, 0x0304: true} {
		sim, url, ca := startTLS(t, func(s *httptest.Server) {
			s.TLS = tlsOnly(version)
		})
		_, err := newClient(t, Config{UserURL: url, CAFile: ca}).Tokens(t.Context(), finish(sim))
		if (err == nil) != ok {
			t.Errorf("version %#x: %v", version, err)
		}
		if !ok {
			wantClass(t, err, NotSent, 0)
		}
	}
}

// Neither the settings of a proxy in the environment nor what a caller names has a
// say in where a request goes, and what it says of whom it is for.
func TestHostAndTargetAreOurs(t *testing.T) {
	var seen atomic.Value
	proxied := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Error("the environment's proxy was used") }))
	t.Cleanup(proxied.Close)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, proxied.URL)
	}
	url := rawServer(t, func(_ int, c *net.TCPConn, in *bufio.Reader) {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		seen.Store(r.Method + " " + r.RequestURI + " " + r.Host)
		_, _ = io.Copy(io.Discard, r.Body)
		say(c, good)
	})
	r := request("sim-session\r\nHost: 169.254.169.254\r\n\r\n")
	r.HumanID = "marker\r\nHost: 169.254.169.254\r\n\r\nGET http://169.254.169.254/ HTTP/1.1\r\n"
	if _, err := newClient(t, Config{UserURL: url}).Tokens(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if want := "POST /v1/connect/tokens " + strings.TrimPrefix(url, "http://"); seen.Load() != want {
		t.Errorf("the request was %q, want %q", seen.Load(), want)
	}
}
