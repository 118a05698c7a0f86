package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

const goodBody = `{"humanId":"marker-human-id","accessToken":"sim-access-1","publicToken":"sim-public-1"}`

var (
	goodTail = "Content-Type: application/json\r\n" + sized(goodBody)
	good     = "HTTP/1.1 200 OK\r\n" + goodTail
)

func sized(body string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body) }

// rawServer accepts connections, and gives each with its number (from 1) to
// serve, which reads and writes as it likes; it is closed when serve returns.
func rawServer(t testing.TB, serve func(n int, c *net.TCPConn, in *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(n, c.(*net.TCPConn), bufio.NewReader(c))
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// readPost reads a whole request, and reports whether there was one.
func readPost(in *bufio.Reader) bool {
	r, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err == nil
}

func say(c net.Conn, text string) { _, _ = io.WriteString(c, text) }

func TestConnectionIsKept(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL})
	for range 3 {
		if _, err := c.Tokens(t.Context(), finish(sim)); err != nil {
			t.Fatal(err)
		}
	}
	rs := sim.Requests()
	if rs[0].RemoteAddr != rs[2].RemoteAddr {
		t.Error("a healthy connection was not used again")
	}
}

// A kept connection that the server closes while it is idle costs nothing: the
// next request goes out once, on a new one.
func TestIdleConnectionCloses(t *testing.T) {
	for name, abandon := range map[string]func(*net.TCPConn){
		"end":   func(c *net.TCPConn) { _ = c.CloseWrite() },
		"reset": func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() },
		"bytes": func(c *net.TCPConn) { say(c, "HTTP/1.1 408 "+markerUpstream+"\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			var posts atomic.Int32
			next, abandoned := make(chan struct{}), make(chan struct{})
			url := rawServer(t, func(n int, c *net.TCPConn, in *bufio.Reader) {
				for readPost(in) {
					posts.Add(1)
					say(c, good)
					if n == 1 {
						<-next
						abandon(c)
						close(abandoned)
						if name == "reset" {
							return
						}
					}
				}
			})
			c := newClient(t, Config{UserURL: url})
			c.pool.maxIdle = time.Hour
			if _, err := c.Tokens(t.Context(), request("sim-session-1")); err != nil {
				t.Fatal(err)
			}
			close(next)
			<-abandoned
			eventually(t, func() bool { return !idleAlive(c) })
			if _, err := c.Tokens(t.Context(), request("sim-session-2")); err != nil {
				t.Errorf("the second attempt: %v", err)
			}
			if n := posts.Load(); n != 2 {
				t.Errorf("%d requests arrived, want 2", n)
			}
		})
	}
}

// idleAlive looks at the one idle connection. The kernel delivers what the
// server did within a loopback round trip, which there is no event for.
func idleAlive(c *Client) bool {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return len(c.pool.idle) > 0 && c.pool.idle[0].alive()
}

func eventually(t testing.TB, what func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !what(); {
		if time.Now().After(end) {
			t.Fatal("it never came")
		}
		time.Sleep(time.Millisecond)
	}
}

// A kept connection that dies when the request has arrived: the request is
// never sent a second time by itself.
func TestKeptConnectionDiesWithRequest(t *testing.T) {
	for name, abandon := range map[string]func(*net.TCPConn){
		"end":             func(c *net.TCPConn) {},
		"reset":           func(c *net.TCPConn) { _ = c.SetLinger(0) },
		"half a status":   func(c *net.TCPConn) { say(c, "HTTP/1.1 2") },
		"half a head":     func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nContent-Le") },
		"half a body":     func(c *net.TCPConn) { say(c, good[:len(good)-5]) },
		"an interim":      func(c *net.TCPConn) { say(c, "HTTP/1.1 102 Processing\r\n\r\n") },
		"half a chunk":    func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{\"hum") },
		"no last chunk":   func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n") },
		"half, no length": func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"humanId\":\"x") },
		"no length":       func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			var posts atomic.Int32
			url := rawServer(t, func(n int, c *net.TCPConn, in *bufio.Reader) {
				for readPost(in) {
					if posts.Add(1) == 2 {
						abandon(c)
						return
					}
					say(c, good)
				}
			})
			c := newClient(t, Config{UserURL: url})
			if _, err := c.Tokens(t.Context(), request("sim-session-1")); err != nil {
				t.Fatal(err)
			}
			_, err := c.Tokens(t.Context(), request("sim-session-2"))
			var e *Error
			if !errors.As(err, &e) || e.Class != Unknown {
				t.Errorf("got %v, want class %q", err, Unknown)
			}
			if _, err := c.Tokens(t.Context(), request("sim-session-3")); err != nil {
				t.Errorf("the third attempt: %v", err)
			}
			if n := posts.Load(); n != 3 {
				t.Errorf("%d requests arrived, want 3", n)
			}
		})
	}
}

// Answers of every shape that HTTP allows are read whole.
func TestShapes(t *testing.T) {
	for name, answer := range map[string]string{
		"interim":      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + good,
		"chunked":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n57\r\n" + goodBody + "\r\n0\r\n\r\n",
		"until closed": "HTTP/1.0 200 OK\r\n\r\n" + goodBody,
		"close":        "HTTP/1.1 200 OK\r\nConnection: close\r\n" + goodTail,
		"new fields":   "HTTP/1.1 200 OK\r\n" + sized("\t"+goodBody[:len(goodBody)-1]+`, "new" : [{"humanId": 1, "b": "}\""}, -1e5], "" : "" }`+"\n"),
	} {
		t.Run(name, func(t *testing.T) {
			url := rawServer(t, func(_ int, c *net.TCPConn, in *bufio.Reader) {
				for readPost(in) {
					say(c, answer)
					if name == "until closed" || name == "close" {
						return
					}
				}
			})
			c := newClient(t, Config{UserURL: url})
			for range 2 {
				if _, err := c.Tokens(t.Context(), request("sim-session")); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Bytes beyond an answer are neither printed (net/http's Transport does that)
// nor taken for the next answer.
func TestSurplus(t *testing.T) {
	var log syncBuffer
	stdlog.SetOutput(&log)
	defer stdlog.SetOutput(os.Stderr)
	var conns atomic.Int32
	url := rawServer(t, func(n int, c *net.TCPConn, in *bufio.Reader) {
		conns.Add(1)
		for readPost(in) {
			say(c, good+"HTTP/1.1 200 "+markerUpstream+"\r\n"+goodTail)
		}
	})
	c := newClient(t, Config{UserURL: url})
	for range 3 {
		if _, err := c.Tokens(t.Context(), request("sim-session")); err != nil {
			t.Error(err)
		}
	}
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections, want 3: one that has said too much is not used again", n)
	}
	c.Close()
	if log.String() != "" {
		t.Error("something was printed")
	}
}

// Chunks of one byte and trailers without end stay within bounds.
func TestEndlessChunks(t *testing.T) {
	for name, part := range map[string]string{"chunks": "1\r\n \r\n", "extensions": "1;" + strings.Repeat("x", 3000) + "\r\n \r\n",
		"trailers": "0\r\n" + strings.Repeat("X-Y: z\r\n", 1000)} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			url := rawServer(t, func(_ int, c *net.TCPConn, in *bufio.Reader) {
				readPost(in)
				say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				for {
					n, err := io.WriteString(c, part)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
			c := newClient(t, Config{UserURL: url})
			_, err := c.Tokens(t.Context(), request("sim-session"))
			if e, ok := errors.AsType[*Error](err); !ok || e.Class != Unreadable && e.Class != Unknown {
				t.Errorf("got %v", err)
			}
			if n := sent.Load(); n > 32<<20 {
				t.Errorf("%d bytes were taken", n)
			}
		})
	}
}

func TestEndlessInterim(t *testing.T) {
	url := rawServer(t, func(_ int, c *net.TCPConn, in *bufio.Reader) {
		readPost(in)
		for {
			if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return
			}
		}
	})
	_, err := newClient(t, Config{UserURL: url}).Tokens(t.Context(), request("sim-session"))
	if e := wantClass(t, err, Unknown, 0); !errors.Is(e, errHeadTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestSwitchingProtocols(t *testing.T) {
	url := rawServer(t, func(_ int, c *net.TCPConn, in *bufio.Reader) {
		readPost(in)
		say(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		readPost(in)
	})
	_, err := newClient(t, Config{UserURL: url}).Tokens(t.Context(), request("sim-session"))
	wantClass(t, err, Unknown, 101)
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	_ = l.Close()
	_, err = newClient(t, Config{UserURL: url}).Tokens(t.Context(), request("sim-session"))
	if wantClass(t, err, NotSent, 0); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

// deadConn is a TCP connection that takes nothing.
type deadConn struct {
	net.Conn
	err error
}

func (c deadConn) Write([]byte) (int, error) { return 0, c.err }

// A connection that fails before it has taken a byte has sent nothing; one that
// has taken some may have sent all.
func TestNothingWritten(t *testing.T) {
	url := rawServer(t, func(_ int, _ *net.TCPConn, in *bufio.Reader) { readPost(in) })
	for name, m := range map[string]struct {
		wrap  func(net.Conn) net.Conn
		class Class
	}{
		"nothing": {func(c net.Conn) net.Conn { return deadConn{c, syscall.EPIPE} }, NotSent},
		"some":    {func(c net.Conn) net.Conn { return &shortConn{Conn: c} }, Unknown},
	} {
		c := newClient(t, Config{UserURL: url})
		dial := c.pool.dial
		c.pool.dial = func(ctx context.Context) (*link, error) {
			l, err := dial(ctx)
			if err == nil {
				l.raw.Conn = m.wrap(l.raw.Conn)
			}
			return l, err
		}
		_, err := c.Tokens(t.Context(), request("sim-session"))
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != m.class {
			t.Errorf("%s: got %v, want class %q", name, err, m.class)
		}
	}
}

// shortConn takes ten bytes.
type shortConn struct{ net.Conn }

func (c *shortConn) Write(b []byte) (int, error) {
	n, _ := c.Conn.Write(b[:10])
	return n, syscall.EPIPE
}

// keepingConn keeps the slice that was written.
type keepingConn struct {
	net.Conn
	kept []byte
}

func (c *keepingConn) Write(b []byte) (int, error) {
	c.kept = b
	return c.Conn.Write(b)
}

func TestRequestIsCleared(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL})
	dial, keeper := c.pool.dial, &keepingConn{}
	c.pool.dial = func(ctx context.Context) (*link, error) {
		l, err := dial(ctx)
		if err == nil {
			keeper.Conn, l.raw.Conn = l.raw.Conn, keeper
		}
		return l, err
	}
	if _, err := c.Tokens(t.Context(), finish(sim)); err != nil {
		t.Fatal(err)
	}
	if len(keeper.kept) == 0 || strings.Trim(string(keeper.kept), "\x00") != "" {
		t.Error("the request's bytes are still there")
	}
	b := *buffers.Get().(*[]byte)
	if strings.Trim(string(b), "\x00") != "" {
		t.Error("the answer's bytes are still there")
	}
}

// Idle connections do not stay, the second no more than the first.
func TestIdleConnectionsAreReaped(t *testing.T) {
	closed := make(chan struct{})
	url := rawServer(t, func(_ int, c *net.TCPConn, in *bufio.Reader) {
		for readPost(in) {
			say(c, good)
		}
		closed <- struct{}{}
	})
	c := newClient(t, Config{UserURL: url})
	c.pool.maxIdle = 20 * time.Millisecond
	for range 3 {
		if _, err := c.Tokens(t.Context(), request("sim-session")); err != nil {
			t.Fatal(err)
		}
		<-closed
	}
}

// A server that says it will close need not have done so yet.
func TestAnnouncedClose(t *testing.T) {
	url := rawServer(t, func(n int, c *net.TCPConn, in *bufio.Reader) {
		readPost(in)
		say(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n"+goodTail)
		readPost(in) // and never answers
	})
	c := newClient(t, Config{UserURL: url, Timeout: 5 * time.Second})
	for range 2 {
		if _, err := c.Tokens(t.Context(), request("sim-session")); err != nil {
			t.Error(err)
		}
	}
}

func writeFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
