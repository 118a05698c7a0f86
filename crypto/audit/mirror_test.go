package audit

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// TestMirror: every line of every segment, once, in order, and only what is in the
// file already.
func TestMirror(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.RotateSize = minRotateSize
	var got bytes.Buffer
	early := ""
	c.Mirror = func(line []byte) {
		if got.Len() == 0 && !bytes.HasPrefix(read(t, path), line) {
			early = string(line)
		}
		got.Write(append(line, '\n'))
	}
	l := mustOpen(t, c)
	for i := range 60 {
		mustWrite(t, l, lookup(fmt.Sprint(i)))
	}
	mustClose(t, l)
	var want bytes.Buffer
	for n := uint64(1); n < l.Status().Segment; n++ {
		want.Write(read(t, segmentPath(path, n)))
	}
	want.Write(read(t, path))
	if early != "" || !bytes.Equal(got.Bytes(), want.Bytes()) || l.Status().Unmirrored != 0 {
		t.Fatalf("%d bytes mirrored of %d, %d lines lost, too early: %q", got.Len(), want.Len(), l.Status().Unmirrored, early)
	}
	if l.Status().Segment < 5 {
		t.Fatal("too few segments")
	}
	got.Reset()
	l = mustOpen(t, c)
	mustWrite(t, l, lookup("again"))
	mustClose(t, l)
	if n := bytes.Count(got.Bytes(), []byte("\n")); n != 2 || !bytes.HasSuffix(read(t, path), got.Bytes()) {
		t.Errorf("%d lines after a restart", n)
	}
}

// TestSlowMirror: the log does not wait, what does not fit is counted and told, and
// what is taken afterwards is in order; Close gives up who never returns.
func TestSlowMirror(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	var said safeBuilder
	c.Logger = slog.New(slog.NewTextHandler(&said, nil))
	entered, release := make(chan struct{}, 1), make(chan struct{})
	var mu sync.Mutex
	var seqs []uint64
	c.Mirror = func(line []byte) {
		select {
		case entered <- struct{}{}:
			<-release
		default:
		}
		r, err := parseLine(append(line, '\n'))
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		seqs = append(seqs, r.seq)
		mu.Unlock()
	}
	l := mustOpen(t, c)
	const lines = 5000
	for range lines {
		mustWrite(t, l, lookup("r"))
	}
	lost := l.Status().Unmirrored
	if lost == 0 || lost >= lines || l.mirror.bytes.Load() > mirrorBytes {
		t.Fatalf("%d lines are lost, %d bytes wait", lost, l.mirror.bytes.Load())
	}
	close(release)
	mustClose(t, l)
	if uint64(len(seqs))+l.Status().Unmirrored != l.Status().Sequence {
		t.Errorf("%d lines mirrored, %d lost, of %d", len(seqs), l.Status().Unmirrored, l.Status().Sequence)
	}
	for i := range seqs[1:] {
		if seqs[i+1] <= seqs[i] {
			t.Fatalf("line %d behind %d", seqs[i+1], seqs[i])
		}
	}
	if n := strings.Count(said.String(), "mirror was too slow"); n == 0 || n > 3 {
		t.Errorf("it is told %d times", n)
	}
	mustVerify(t, path)
}

func TestMirrorNeverReturns(t *testing.T) {
	c := testConfig(logPath(t))
	var said safeBuilder
	c.Logger = slog.New(slog.NewTextHandler(&said, nil))
	end := make(chan struct{})
	defer close(end)
	c.Mirror = func([]byte) { <-end }
	l := mustOpen(t, c)
	mustWrite(t, l, lookup("r"))
	mustClose(t, l)
	if !strings.Contains(said.String(), "does not take the last lines") {
		t.Error("nobody is told")
	}
}

// safeBuilder is for loggers of several goroutines.
type safeBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuilder) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuilder) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
