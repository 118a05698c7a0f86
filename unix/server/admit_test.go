package server

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestSeldom: the first of many is said, then one in ten seconds, with how many it
// stands for; a clock that was set back says it at once.
func TestSeldom(t *testing.T) {
	var l seldom
	now, said, missed := time.Unix(1000, 0), 0, 0
	for range 3000 {
		if before, ok := l.may(now); ok {
			said, missed = said+1, missed+before
		}
		now = now.Add(10 * time.Millisecond)
	}
	if said != 3 || said+missed+l.unsaid != 3000 || l.unsaid != 999 {
		t.Errorf("%d are said, for %d others, and %d wait", said, missed, l.unsaid)
	}
	if before, ok := l.may(time.Unix(0, 0)); !ok || before != 999 {
		t.Errorf("said: %v, for %d others", ok, before)
	}
}

// TestUnidentifiedAreFewLines: whoever cannot be identified is closed each time, and
// does not fill the daemon's log.
func TestUnidentifiedAreFewLines(t *testing.T) {
	f := newFlooded(t)
	var said strings.Builder
	f.server.log = slog.New(slog.NewTextHandler(&said, nil))
	c, _ := connected(t)
	if err := c.UnixConn.Close(); err != nil { // nobody can say whose it was
		t.Fatal(err)
	}
	for range 100 {
		f.server.accepted("public", c.UnixConn)
	}
	f.now = f.now.Add(sayEvery)
	f.server.accepted("public", c.UnixConn)
	if lines := strings.Count(said.String(), "cannot be identified"); lines != 2 || !strings.Contains(said.String(), "unsaid=99") {
		t.Errorf("%d lines: %s", lines, said.String())
	}
}
