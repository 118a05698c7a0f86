package exchange

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// heldConn gathers what is written until it is flushed, in as many writes as
// there are cuts.
type heldConn struct {
	net.Conn
	hold bool
	held bytes.Buffer
}

func (c *heldConn) Write(b []byte) (int, error) {
	if c.hold {
		return c.held.Write(b)
	}
	return c.Conn.Write(b)
}

// flush writes all but the last bytes that are held.
func (c *heldConn) flush(but int) {
	_, _ = io.CopyN(c.Conn, &c.held, int64(c.held.Len()-but))
}

// numbered is the n-th answer of a server.
func numbered(n int) string {
	return "HTTP/1.1 200 OK\r\n" + sized(fmt.Sprintf(`{"humanId":"marker-human-id","accessToken":"sim-access","publicToken":"sim-public-%d"}`, n))
}

// startRawTLS speaks TLS on a rawServer. The connection keeps what it writes
// until it is flushed.
func startRawTLS(t testing.TB, max uint16, serve func(held *heldConn, c *tls.Conn, in *bufio.Reader)) (url, caFile string) {
	t.Helper()
	donor := httptest.NewUnstartedServer(nil)
	_, _, caFile = startTLS(t, func(s *httptest.Server) { donor = s })
	config := &tls.Config{Certificates: donor.TLS.Certificates, MaxVersion: max}
	url = rawServer(t, func(_ int, c *net.TCPConn, _ *bufio.Reader) {
		held := &heldConn{Conn: c}
		over := tls.Server(held, config)
		if over.HandshakeContext(t.Context()) == nil {
			held.hold = true
			serve(held, over, bufio.NewReader(over))
		}
	})
	return strings.Replace(url, "http", "https", 1), caFile
}

// Whatever a server says beyond its answer, in whichever pieces TLS and TCP
// carry it: it is not the answer to the next request.
func TestSurplusOverTLS(t *testing.T) {
	for name, m := range map[string]struct {
		together bool // answer and surplus in one record
		but      int  // bytes of the surplus' record that come after the next request
	}{
		"one record":             {together: true},
		"two records":            {},
		"a record and a half":    {but: 10},
		"a record and some head": {but: len(numbered(0)) + 18},
	} {
		for version, max := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
			t.Run(name+" of TLS "+version, func(t *testing.T) {
				var answers, conns atomic.Int32
				url, ca := startRawTLS(t, max, func(held *heldConn, c *tls.Conn, in *bufio.Reader) {
					conns.Add(1)
					for first := true; readPost(in); first = false {
						if !first {
							held.flush(0) // the rest of the surplus
							continue
						}
						answer, surplus := numbered(int(answers.Add(1))), numbered(0)
						if m.together {
							say(c, answer+surplus)
						} else {
							say(c, answer)
							say(c, surplus)
						}
						held.flush(m.but)
					}
				})
				c := newClient(t, Config{UserURL: url, CAFile: ca})
				for n := 1; n <= 3; n++ {
					got, err := c.Tokens(t.Context(), request("sim-session"))
					if want := fmt.Sprintf("sim-public-%d", n); err != nil || string(got.PublicToken) != want {
						t.Errorf("request %d was not given its own answer: %v", n, err)
					}
				}
				if n := conns.Load(); n != 3 {
					t.Errorf("%d connections, want 3", n)
				}
			})
		}
	}
}

// A look at an idle connection does it no harm, and what TLS itself says in
// between is no surplus.
func TestLookingAtAnIdleTLSConnection(t *testing.T) {
	sim, url, ca := startTLS(t, nil)
	c := newClient(t, Config{UserURL: url, CAFile: ca})
	c.pool.maxIdle = time.Hour
	for range 5 {
		if _, err := c.Tokens(t.Context(), finish(sim)); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if !idleAlive(c) {
				t.Fatal("a healthy connection is taken for dead")
			}
		}
	}
	rs := sim.Requests()
	if rs[0].RemoteAddr != rs[4].RemoteAddr {
		t.Error("a healthy connection was not used again")
	}
}
