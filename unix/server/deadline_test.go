package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// connected is a conn with a caller that sends nothing of its own accord.
func connected(t *testing.T) (c *conn, caller net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if caller, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = caller.Close(), raw.Close() })
	return &conn{UnixConn: raw.(*net.UnixConn), headDone: true, answering: true}, caller
}

func TestReadDeadline(t *testing.T) {
	c, caller := connected(t)
	past := time.Unix(1, 0)
	var b [1]byte
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func() error { _, err := c.Read(b[:]); return err }

	must(c.SetReadDeadline(past))
	if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a deadline from before the read: %v", err)
	}
	must(c.SetReadDeadline(time.Time{}))
	_, err := caller.Write([]byte("x"))
	must(err)
	must(read())

	ended := make(chan error, 1)
	go func() { ended <- read() }()
	must(c.SetReadDeadline(past)) // before the read or during it
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a deadline during the read: %v", err)
	}
	must(c.SetReadDeadline(time.Time{}))
	go func() { ended <- read() }()
	must(c.SetDeadline(time.Now().Add(time.Hour)))
	_, err = caller.Write([]byte("x"))
	must(err)
	must(<-ended)
}

// TestReadDeadlineDuring is sure to set the deadline while the read is on.
func TestReadDeadlineDuring(t *testing.T) {
	c, _ := connected(t)
	if err := c.read.begin(c.UnixConn); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UnixConn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the read under way goes on: %v", err)
	}
}

// TestWriteDeadline: net/http takes deadlines off after every answer; every write
// has one all the same.
func TestWriteDeadline(t *testing.T) {
	c, _ := connected(t)
	for range 2 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if left := time.Until(c.write); left < writeTimeout-time.Minute/10 || left > writeTimeout+writeSlack {
			t.Errorf("%v are left", left)
		}
	}
	c.write = time.Now().Add(-time.Hour)
	if err := c.UnixConn.SetWriteDeadline(c.write); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("a write after the last deadline has passed: %v", err)
	}
	var err error
	for c.write = time.Now().Add(time.Hour); err == nil; { // nobody reads
		if err = c.UnixConn.SetWriteDeadline(time.Now().Add(10 * time.Millisecond)); err == nil {
			_, err = c.Write(make([]byte, 64<<10))
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a caller that does not read: %v", err)
	}
}

// TestReadAhead: what came with the first head is handed on, whatever state the
// connection is in, before anything is waited for.
func TestReadAhead(t *testing.T) {
	c, _ := connected(t)
	c.state.Store(int32(http.StateIdle))
	c.ahead = []byte("GET")
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, emptyBuffer)); n != 3 || err != nil || c.ahead != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	c.aheadErr = io.ErrUnexpectedEOF
	if _, err := c.Read(make([]byte, emptyBuffer)); err != io.ErrUnexpectedEOF {
		t.Fatalf("the error behind it: %v", err)
	}
}
