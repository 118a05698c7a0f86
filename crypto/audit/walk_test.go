package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// numbered writes a log of n lookups, a second apart from start, in small segments,
// and closes it. Request i is "i", its subject repeats i modulo 10.
func numbered(t testing.TB, n int) (path string, start time.Time) {
	t.Helper()
	path = logPath(t)
	c := testConfig(path)
	start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	now := start
	c.Now = func() time.Time { return now }
	c.RotateSize = minRotateSize
	l := mustOpen(t, c)
	for i := range n {
		l.mu.Lock()
		now = start.Add(time.Duration(i) * time.Second)
		l.mu.Unlock()
		e := lookup(strconv.Itoa(i))
		e.Subject = strings.Repeat(strconv.Itoa(i%10), 64)
		mustWrite(t, l, e)
	}
	mustClose(t, l)
	return path, start
}

// requests are the request ids that a walk hands out.
func requests(t testing.TB, c WalkConfig) string {
	t.Helper()
	var all []string
	walked(t, c, func(l Line) { all = append(all, l.RequestID) })
	return strings.Join(all, " ")
}

// row is the numbers from from to to, to excluded.
func row(from, to, step int) string {
	var all []string
	for i := from; i < to; i += step {
		all = append(all, strconv.Itoa(i))
	}
	return strings.Join(all, " ")
}

func TestWalk(t *testing.T) {
	const n = 300
	path, start := numbered(t, n)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	for name, c := range map[string]struct {
		config WalkConfig
		want   string
	}{
		"all":               {WalkConfig{}, row(0, n, 1)},
		"since":             {WalkConfig{Since: at(250)}, row(250, n, 1)},
		"until":             {WalkConfig{Until: at(7)}, row(0, 7, 1)},
		"between":           {WalkConfig{Since: at(100), Until: at(200)}, row(100, 200, 1)},
		"nothing":           {WalkConfig{Since: at(100), Until: at(100)}, ""},
		"the future":        {WalkConfig{Since: at(n)}, ""},
		"the past":          {WalkConfig{Until: start}, ""},
		"a request":         {WalkConfig{RequestID: "123"}, "123"},
		"a part of its id":  {WalkConfig{RequestID: "12\""}, ""},
		"a subject":         {WalkConfig{Subjects: []string{strings.Repeat("3", 64)}}, row(3, n, 10)},
		"of a subject":      {WalkConfig{Subjects: []string{strings.Repeat("3", 64)}, RequestID: "13"}, "13"},
		"not of it":         {WalkConfig{Subjects: []string{strings.Repeat("3", 64)}, RequestID: "14"}, ""},
		"subjects and time": {WalkConfig{Subjects: []string{strings.Repeat("3", 64), "x"}, Since: at(290)}, "293"},
	} {
		c.config.Path = path
		if got := requests(t, c.config); got != c.want {
			t.Errorf("%s: got %s", name, got)
		}
	}
	var last Line
	walked(t, WalkConfig{Path: path}, func(l Line) {
		if l.Seq <= last.Seq || l.Segment < last.Segment || !l.Time.Equal(at(int(mustInt(t, l.RequestID)))) || l.Kind != Outcome {
			t.Fatalf("%+v behind %d", l, last.Seq)
		}
		if r, err := parseLine(append(l.Raw, '\n')); err != nil || r.seq != l.Seq {
			t.Fatalf("raw: %v", err)
		}
		last = l
	})
	if last.Segment < 20 {
		t.Errorf("only %d segments", last.Segment)
	}
}

func mustInt(t testing.TB, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestWalkPassesOver: segments that are out of time are not read, so that what is
// wrong in them does not show; what is wrong in time is told with its place.
func TestWalkPassesOver(t *testing.T) {
	path, start := numbered(t, 300)
	broken := segmentPath(path, 2)
	lines := bytes.SplitAfter(read(t, broken), []byte("\n"))
	at := bytes.Replace(lines[3], []byte(`"kind":`), []byte(`"KIND":`), 1)
	write(t, broken, append(bytes.Join(append(lines[:3:3], at), nil), bytes.Join(lines[4:], nil)...))
	requests(t, WalkConfig{Path: path, Since: start.Add(200 * time.Second)})
	err := Walk(t.Context(), WalkConfig{Path: path}, func(Line) error { return nil })
	if !errors.Is(err, errFormat) || !strings.Contains(err.Error(), broken+":4:") {
		t.Errorf("got %v", err)
	}
	write(t, broken, append(bytes.Clone(lines[0]), "{}\n"...))
	if err := Walk(t.Context(), WalkConfig{Path: path, Since: start.Add(200 * time.Second)}, func(Line) error { return nil }); !errors.Is(err, errFormat) {
		t.Errorf("a segment whose end cannot be read is passed over: %v", err)
	}
}

// TestWalkEnds: by the callback, whose error is returned as it is, by the context,
// and at what was torn.
func TestWalkEnds(t *testing.T) {
	path, start := numbered(t, 50)
	ours := errors.New("enough")
	for _, want := range []error{nil, ours} {
		n := 0
		err := Walk(t.Context(), WalkConfig{Path: path}, func(Line) error {
			if n++; want == nil {
				return ErrStop
			}
			return ours
		})
		if err != want || n != 1 {
			t.Errorf("%d lines, %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	long := logPath(t)
	l := mustOpen(t, testConfig(long))
	for range 1100 {
		mustWrite(t, l, lookup("r"))
	}
	if err := Walk(ctx, WalkConfig{Path: long}, func(Line) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	appendBytes(t, path, `{"seq":999,"time":"2026-03-01T00:`)
	if got := requests(t, WalkConfig{Path: path}); got != row(0, 50, 1) {
		t.Errorf("with a torn end: %s", got)
	}
	appendBytes(t, path, "\x00\x00\n\x00")
	if got := requests(t, WalkConfig{Path: path, Since: start}); got != row(0, 50, 1) {
		t.Errorf("with blocks that were never written: %s", got)
	}
	appendBytes(t, segmentPath(path, 1), `{"seq":`)
	if err := Walk(t.Context(), WalkConfig{Path: path}, func(Line) error { return nil }); err == nil {
		t.Error("a closed segment may be torn")
	}
}

// TestWalkNeedsItsSegments: the oldest may be taken away, others not; no log is an
// error, an empty one not, and a second name of the active segment is not read twice.
func TestWalkNeedsItsSegments(t *testing.T) {
	path, _ := numbered(t, 60)
	if err := os.Link(path, segmentPath(path, 99)); err != nil {
		t.Fatal(err)
	}
	if got := requests(t, WalkConfig{Path: path}); got != row(0, 60, 1) {
		t.Fatalf("got %s", got)
	}
	if err := os.Remove(segmentPath(path, 1)); err != nil {
		t.Fatal(err)
	}
	if got := requests(t, WalkConfig{Path: path}); !strings.HasSuffix(row(0, 60, 1), got) || got == "" {
		t.Errorf("got %s", got)
	}
	if err := os.Remove(segmentPath(path, 3)); err != nil {
		t.Fatal(err)
	}
	if err := Walk(t.Context(), WalkConfig{Path: path}, func(Line) error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a segment is missing: %v", err)
	}
	if err := Walk(t.Context(), WalkConfig{Path: path + "x"}, func(Line) error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "audit.log")
	write(t, empty, nil)
	if got := requests(t, WalkConfig{Path: empty}); got != "" {
		t.Errorf("an empty log: %s", got)
	}
	write(t, empty, []byte("something else\n"))
	if err := Walk(t.Context(), WalkConfig{Path: empty}, func(Line) error { return nil }); !errors.Is(err, errFormat) {
		t.Errorf("no audit log: %v", err)
	}
}

// TestWalkWhileWriting: through rotations, every walk sees all that was written before
// it began, once, in order and without a gap.
func TestWalkWhileWriting(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.Now, c.RotateSize = nil, minRotateSize
	l := mustOpen(t, c)
	const n = 1500
	var written atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			if err := l.Write(lookup(strconv.Itoa(i))); err != nil {
				t.Error(err)
				return
			}
			written.Store(int64(i) + 1)
		}
	}()
	walks := 0
	for running := true; running; walks++ {
		select {
		case <-done:
			running = false
		default:
		}
		least, next := int(written.Load()), 0
		walked(t, WalkConfig{Path: path}, func(l Line) {
			if l.RequestID != strconv.Itoa(next) {
				t.Fatalf("request %s, want %d", l.RequestID, next)
			}
			next++
		})
		if next < least {
			t.Fatalf("%d lines, and %d were there before", next, least)
		}
	}
	t.Logf("%d walks over a log that grew to %d segments", walks, l.Status().Segment)
}

// TestClockSetBack: a segment is passed over by more than a minute only.
func TestClockSetBack(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := noon
	c.Now = func() time.Time { return now }
	l := mustOpen(t, c)
	mustWrite(t, l, lookup("noon"))
	now = noon.Add(-30 * time.Second)
	mustWrite(t, l, lookup("before"))
	mustClose(t, l)
	c.Incarnation++
	mustClose(t, mustOpen(t, c))
	if got := requests(t, WalkConfig{Path: path, Since: noon}); got != "noon" {
		t.Errorf("got %q", got)
	}
}

func BenchmarkWalk(b *testing.B) {
	path := logPath(b)
	c := testConfig(path)
	c.Now = nil
	l := mustOpen(b, c)
	for i := range 100_000 {
		mustWrite(b, l, lookup(fmt.Sprint(i)))
	}
	mustClose(b, l)
	for name, c := range map[string]WalkConfig{
		"all": {}, "request": {RequestID: "99999"}, "time": {Since: time.Now().Add(time.Hour)},
	} {
		c.Path = path
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(read(b, path))))
			for b.Loop() {
				if err := Walk(b.Context(), c, func(Line) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
