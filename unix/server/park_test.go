package server_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/server"
)

// TestIdleIsTakenBack: net/http has neither a new connection nor an idle one, and
// the caller does not notice. It pins what is assumed of net/http's buffers.
func TestIdleIsTakenBack(t *testing.T) {
	b := startBare(t, nil)
	b.open()
	conn := dial(t, b.socket)
	in := bufio.NewReader(conn)
	for range 3 {
		await(t, "the connection to wait", func() bool { return b.server.Parked() == 1 })
		ask := request("GET", "/v1/users/h", "")
		_, _ = io.WriteString(conn, ask[:1])
		await(t, "net/http to have it", func() bool { return b.server.Parked() == 0 })
		_, _ = io.WriteString(conn, ask[1:])
		if a := read(t, in, "GET"); a.status != 200 || a.header.Get("Connection") == "close" {
			t.Fatalf("got %d", a.status)
		}
	}
}

// TestPipelinedIsNotLost: a connection is not taken back while net/http holds the
// beginning of a request.
func TestPipelinedIsNotLost(t *testing.T) {
	b := startBare(t, nil)
	b.open()
	conn := dial(t, b.socket)
	in := bufio.NewReader(conn)
	ask := request("GET", "/v1/users/h", "")
	for cut := 1; cut < 5; cut++ {
		_, _ = io.WriteString(conn, ask+ask[:cut])
		if a := read(t, in, "GET"); a.status != 200 {
			t.Fatalf("got %d", a.status)
		}
		for end := time.Now().Add(2 * server.KeepWarm); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if b.server.Parked() != 0 {
				t.Fatal("the connection is taken back with a part of a request")
			}
		}
		_, _ = io.WriteString(conn, ask[cut:])
		if a := read(t, in, "GET"); a.status != 200 {
			t.Fatalf("the second one, cut after %d bytes: got %d", cut, a.status)
		}
	}
}

// TestDrainEndsWhatWaits: an idle connection does not keep the server, and one
// that never sent anything no longer than a head may take.
func TestDrainEndsWhatWaits(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.Limits.HeaderTimeout = 500 * time.Millisecond })
	b.open()
	idle, silent := dial(t, b.socket), dial(t, b.socket)
	in := bufio.NewReader(idle)
	_, _ = io.WriteString(idle, request("GET", "/v1/users/h", ""))
	if a := read(t, in, "GET"); a.status != 200 {
		t.Fatalf("got %d", a.status)
	}
	await(t, "both to wait", func() bool { return b.server.Parked() == 2 })
	b.stop()
	if err := <-b.done; err != nil || b.server.Parked() != 0 || b.server.Busy() != 0 {
		t.Fatalf("%v; %d wait, %d are busy", err, b.server.Parked(), b.server.Busy())
	}
	for _, c := range []io.Reader{in, silent} {
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection is not closed: %v", err)
		}
	}
}

// TestSilentIsNotKept: a connection without a byte has as long as a head.
func TestSilentIsNotKept(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.Limits.HeaderTimeout = 100 * time.Millisecond })
	b.open()
	if _, err := dial(t, b.socket).Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("it is not closed: %v", err)
	}
	await(t, "nothing to be counted", func() bool { return b.server.Busy() == 0 && b.server.Parked() == 0 })
}

// TestSlowHeadsAreFew: unfinished heads beyond a uid's share are not waited for,
// and the others are.
func TestSlowHeadsAreFew(t *testing.T) {
	const more = 10
	b := startBare(t, func(c *server.Config) { c.Limits.HeaderTimeout = time.Minute })
	b.open()
	ask := request("GET", "/v1/users/h", "")
	ended := make(chan struct{}, server.SlowHeads+more)
	var conns []net.Conn
	for range server.SlowHeads + more {
		conn := dial(t, b.socket)
		_, _ = io.WriteString(conn, ask[:6])
		conns = append(conns, conn)
	}
	answers := make(chan string, len(conns))
	for _, conn := range conns {
		go func() {
			text, _ := bufio.NewReader(conn).ReadString('\n')
			if !strings.HasPrefix(text, "HTTP/1.1 200") {
				ended <- struct{}{}
				return
			}
			answers <- text
		}()
	}
	for range more {
		<-ended
	}
	if a := b.get(t, "/v1/users/h"); a.status != 200 {
		t.Fatalf("a whole head among them: got %d", a.status)
	}
	for _, conn := range conns {
		_, _ = io.WriteString(conn, ask[6:])
	}
	for range server.SlowHeads {
		<-answers
	}
	if n := len(ended); n != 0 {
		t.Errorf("%d more have ended", n)
	}
}

// TestOverLimitTakesTurns: who goes on asking is told so slowly, and others are not
// kept waiting by it.
func TestOverLimitTakesTurns(t *testing.T) {
	b := startBare(t, func(c *server.Config) { c.Limits.InFlightPerUID = 1 })
	b.open()
	b.f.hold = make(chan struct{})
	first := make(chan answer, 1)
	go func() { first <- b.post(t) }()
	await(t, "the exchange", b.f.reached("exchange"))
	conn := dial(t, b.socket)
	in := bufio.NewReader(conn)
	start := time.Now()
	for range 55 {
		_, _ = io.WriteString(conn, request("GET", "/v1/users/h", ""))
		read(t, in, "GET").wantCode(t, api.RateLimited)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("55 refusals took %v", took)
	}
	close(b.f.hold)
	<-first
	start = time.Now()
	_, _ = io.WriteString(conn, request("GET", "/v1/users/h", ""))
	if a := read(t, in, "GET"); a.status != 200 || time.Since(start) > time.Second {
		t.Errorf("afterwards: got %d in %v", a.status, time.Since(start))
	}
}

// TestHeadInPieces: net/http calls a connection idle until it has a whole head. One
// that comes behind an answer is never taken back in the middle, wherever it stops:
// what followed would be taken for another request.
func TestHeadInPieces(t *testing.T) {
	head := request("GET", "/v1/health", "", "X: y")
	for name, pieces := range map[string][3]string{
		"ends with a line":           {head, head[:strings.Index(head, "X")], "X: y\r\n\r\n"},
		"ends with a line, one sent": {head + head[:strings.Index(head, "X")], "", "X: y\r\n\r\n"},
		"ends in a line":             {head, head[:10], head[10:]},
		"ends after a byte":          {head, head[:1], head[1:]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBare(t, nil)
			b.open()
			conn := dial(t, b.socket)
			in := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, pieces[0])
			read(t, in, "GET")
			_, _ = io.WriteString(conn, pieces[1])
			_ = conn.SetReadDeadline(time.Now().Add(3 * server.KeepWarm))
			if _, err := in.Peek(1); err == nil {
				t.Fatal("half a head is answered")
			}
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(conn, pieces[2])
			if a := read(t, in, "GET"); a.status != 503 { // which is what health says here
				t.Fatalf("got %d", a.status)
			}
		})
	}
}
