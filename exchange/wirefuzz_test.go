package exchange

import (
	"bufio"
	"bytes"
	"net"
	"testing"
	"testing/iotest"
	"time"
)

// FuzzAnswerOnTheWire: whatever bytes come for an answer, what is taken from them
// is bounded, an interim answer is never taken for the answer, and how the bytes
// are cut into packets makes no difference to what is read.
func FuzzAnswerOnTheWire(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\n{}", "HTTP/1.0 200\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n", "<html>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		whole, err := readWire(wire, false)
		defer whole.release()
		if len(whole.body) > maxBody+1 || whole.status != 0 && whole.status < 200 && whole.status != 101 {
			t.Fatalf("status %d with %d bytes", whole.status, len(whole.body))
		}
		if err != nil && whole.reusable {
			t.Fatal("a connection is used again after an answer that could not be read")
		}
		cut, err2 := readWire(wire, true)
		defer cut.release()
		if (err == nil) != (err2 == nil) || whole.status != cut.status || err == nil && !bytes.Equal(whole.body, cut.body) {
			t.Fatalf("status %d and %d bytes in one piece, %d and %d in many", whole.status, len(whole.body), cut.status, len(cut.body))
		}
	})
}

func readWire(wire []byte, cut bool) (*inbound, error) {
	limit := &limitedReader{from: bytes.NewReader(wire)}
	if cut {
		limit.from = iotest.OneByteReader(limit.from)
	}
	ours, theirs := net.Pipe()
	_, _ = ours.Close(), theirs.Close()
	l := &link{conn: ours, limit: limit, in: bufio.NewReader(limit)}
	in := &inbound{}
	return in, l.read(in)
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "0", "1", "120", "99999999999999999999", "-1", "1.5", " 1", "Wed, 21 Oct 2015 07:28:00 GMT", "Mon, 01 Jan 2035 00:00:00 GMT"} {
		f.Add(seed)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, v string) {
		if d := parseRetryAfter(v, now); d < 0 || d > maxRetryAfter {
			t.Errorf("%q makes a pause of %s", v, d)
		}
	})
}
