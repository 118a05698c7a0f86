package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// positions returns that of every line of the log in files, in order.
func positions(t testing.TB, files ...string) []Position {
	t.Helper()
	var all []Position
	for i, file := range files {
		for line := range bytes.Lines(read(t, file)) {
			r, err := parseLine(line)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, Position{Segment: uint64(i) + 1, Sequence: r.seq, Head: r.hash})
		}
	}
	return all
}

func wantHolds(t testing.TB, path string, p Position, want bool) {
	t.Helper()
	got, err := Holds(t.Context(), path, p)
	if err != nil || got != want {
		t.Fatalf("line %d of segment %d: %v, %v", p.Sequence, p.Segment, got, err)
	}
}

func TestHolds(t *testing.T) {
	path, files := sample(t, t.TempDir())
	all := positions(t, files...)
	for i, p := range all {
		wantHolds(t, path, p, true)
		other := p
		other.Head[31] ^= 1
		wantHolds(t, path, other, false)
		other = p
		other.Sequence++
		wantHolds(t, path, other, false)
		other = p
		other.Segment = p.Segment%4 + 1
		wantHolds(t, path, other, false)
		other = p
		other.Head = all[(i+1)%len(all)].Head
		wantHolds(t, path, other, false)
	}
	wantHolds(t, path, Position{}, true)
	wantHolds(t, path, Position{Segment: 1}, false)
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	wantHolds(t, path, all[0], false)
	wantHolds(t, path, all[4], true)
	wantHolds(t, filepath.Join(t.TempDir(), "none"), all[0], false)
	if _, err := Holds(t.Context(), filepath.Dir(path), all[0]); err == nil {
		t.Error("a directory was read")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Holds(ctx, path, all[4]); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Every line is found, wherever the windows that are searched begin and end.
func TestHoldsInALongSegment(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	for len(read(t, path)) < 3*holdsWindow {
		for range 1000 {
			mustWrite(t, l, lookup("r"))
		}
	}
	log := read(t, path)
	all := positions(t, path) // behind it, as a checkpoint may come any time
	left := len(log)
	for i, line := range bytes.SplitAfter(log[:len(log)-1], []byte("\n")) {
		if i%997 == 0 || left%holdsWindow < 2000 || left%holdsWindow > holdsWindow-2000 {
			wantHolds(t, path, all[i], true)
		}
		left -= len(line)
	}
}

// A line is what its hash covers: neither its number nor a hash beside another text
// will do, and what was cut off is not there.
func TestHoldsIsNotFooled(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	for range 3 {
		mustWrite(t, l, lookup("r1"))
	}
	good := read(t, path)
	mustClose(t, l)
	all := positions(t, path)
	lines := bytes.SplitAfter(good, []byte("\n"))
	start := len(lines[0]) + len(lines[1])
	for i := range lines[2] {
		changed := bytes.Clone(good)
		changed[start+i] ^= 1
		write(t, path, changed)
		wantHolds(t, path, all[2], false)
	}
	write(t, path, good[:len(good)-1])
	wantHolds(t, path, all[3], false)
	wantHolds(t, path, all[2], true)
}

func TestDurable(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.RotateSize = minRotateSize
	l := mustOpen(t, c)
	if p := l.Durable(); p.Segment != 1 || p.Sequence != 1 {
		t.Fatalf("%+v", p)
	}
	for l.Status().Segment < 3 {
		if err := l.WriteDurable(t.Context(), lookup("r")); err != nil {
			t.Fatal(err)
		}
		p := l.Durable()
		if s := l.Status(); p.Sequence != s.Sequence || p.Head != s.Head || p.Segment != s.Segment {
			t.Fatalf("%+v, and the log is at %+v", p, s)
		}
		wantHolds(t, path, p, true)
	}
	p := l.Durable()
	mustWrite(t, l, lookup("r"))
	if l.Durable() != p {
		t.Fatal("a line that was not synced is durable")
	}
	mustClose(t, l)
	wantHolds(t, path, l.Durable(), true)
	l = mustOpen(t, c)
	if s := l.Status(); l.Durable().Head != s.Head {
		t.Fatal("what was found at the start is not durable")
	}
}

func TestVerifyWithAnchor(t *testing.T) {
	path, files := sample(t, t.TempDir())
	run := func(p Position, first uint64) Report {
		t.Helper()
		r, err := Verify(t.Context(), VerifyConfig{Path: path, PublicKey: publicKey(), First: first, Anchor: &p})
		if err != nil || r.Consistent != (r.Problem == "") {
			t.Fatalf("%+v, %v", r, err)
		}
		return r
	}
	all := positions(t, files...)
	for _, p := range all {
		if r := run(p, 0); !r.Consistent || r.CompleteTo != p.Sequence {
			t.Fatalf("line %d: %+v", p.Sequence, r)
		}
		other := p
		other.Head[0] ^= 1
		if r := run(other, 0); r.Consistent || r.CompleteTo != 0 || uint64(r.Lines) != p.Sequence-1 {
			t.Fatalf("another line %d: %+v", p.Sequence, r)
		}
		other = p
		other.Segment++
		if r := run(other, 0); r.Consistent || r.CompleteTo != 0 {
			t.Fatalf("line %d in another segment: %+v", p.Sequence, r)
		}
	}
	last := all[len(all)-1]
	if r := mustVerify(t, path); r.CompleteTo != 0 {
		t.Fatalf("without an anchor it is complete to %d", r.CompleteTo)
	}
	if r := run(Position{3, 13, last.Head}, 0); r.Consistent || r.CompleteTo != 0 || r.AuthenticTo != 11 {
		t.Fatalf("a line beyond the end: %+v", r)
	}
	// What no chain shows alone: the last segment's checkpoint and lines cut off.
	lines := bytes.SplitAfter(read(t, path), []byte("\n"))
	write(t, path, lines[0])
	if r := run(last, 0); r.Consistent || r.CompleteTo != 0 {
		t.Fatalf("cut off: %+v", r)
	}
	mustVerify(t, path)
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if r := run(all[4], 2); !r.Consistent || r.CompleteTo != 5 {
		t.Fatalf("%+v", r)
	}
	if r := run(all[2], 2); r.Consistent || r.CompleteTo != 0 {
		t.Fatalf("the anchor is in a segment that was taken away: %+v", r)
	}
}

// FuzzHolds: whatever is in the file, a line is held only if it stands there.
func FuzzHolds(f *testing.F) {
	path, files := sample(f, f.TempDir())
	all := positions(f, path)
	log := read(f, files[2])
	f.Add(log, uint8(0))
	f.Add(log[10:], uint8(1))
	f.Add(append(bytes.Clone(log), log...), uint8(2))
	f.Add(log[:len(log)-3], uint8(3))
	lines := bytes.SplitAfter(log, []byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		i := int(n) % len(all)
		p := all[i]
		if inWindow(b, true, lineStart(p.Sequence), p.Head) && !bytes.Contains(b, lines[i]) {
			t.Fatal("a line is held that is not there")
		}
	})
}
