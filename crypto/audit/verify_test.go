package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample makes a log of three segments in dir, closed, and returns its files in
// order, the active one last.
func sample(t testing.TB, dir string) (path string, files []string) {
	path = filepath.Join(dir, "audit.log")
	c := testConfig(path)
	for ; c.Incarnation <= 3; c.Incarnation++ {
		l := mustOpen(t, c)
		mustWrite(t, l, Event{Kind: Attempt, RequestID: "r1", Grant: "exchange"})
		mustWrite(t, l, lookup("r1"))
		mustClose(t, l)
	}
	return path, []string{segmentPath(path, 1), segmentPath(path, 2), path}
}

func TestSampleIsRight(t *testing.T) {
	path, _ := sample(t, t.TempDir())
	r := mustVerify(t, path)
	if r.Segments != 3 || r.Lines != 12 || r.AuthenticTo != 11 || r.Incarnation != 3 || r.Instance != "main" {
		t.Fatalf("%+v", r)
	}
}

// Every single byte, changed in two ways, is noticed: as a problem, or, where the
// LF of the very last line goes, as a torn end.
func TestEveryByteCounts(t *testing.T) {
	path, files := sample(t, t.TempDir())
	clean := mustVerify(t, path)
	for _, file := range files {
		good := read(t, file)
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for i := range good {
			for _, flip := range []byte{0x01, 0x20} { // 0x20 is the case of a letter
				if _, err := f.WriteAt([]byte{good[i] ^ flip}, int64(i)); err != nil {
					t.Fatal(err)
				}
				r := verify(t, path)
				last := file == path && i == len(good)-1
				if r.Consistent != last || last && r.Torn == 0 || r.AuthenticTo > clean.AuthenticTo {
					t.Fatalf("%s, byte %d ^ %#x: %+v", filepath.Base(file), i, flip, r)
				}
			}
			if _, err := f.WriteAt(good[i:i+1], int64(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustVerify(t, path)
}

// tamper runs edit on every line of the sample and wants a problem each time.
// Cutting off the end is what a chain cannot show, so the last line is let be.
func tamper(t *testing.T, what string, edit func(lines [][]byte, i int) [][]byte) {
	path, files := sample(t, t.TempDir())
	for _, file := range files {
		good := read(t, file)
		lines := bytes.SplitAfter(good, []byte("\n"))
		lines = lines[:len(lines)-1]
		for i := range lines[:len(lines)-1] {
			write(t, file, bytes.Join(edit(append([][]byte(nil), lines...), i), nil))
			if r := verify(t, path); r.Consistent {
				t.Errorf("%s: line %d of %s: not noticed", what, i+1, filepath.Base(file))
			}
		}
		write(t, file, good)
	}
	mustVerify(t, path)
}

func TestEveryLineCounts(t *testing.T) {
	tamper(t, "removed", func(l [][]byte, i int) [][]byte { return append(l[:i], l[i+1:]...) })
	tamper(t, "repeated", func(l [][]byte, i int) [][]byte {
		return append(append(append([][]byte{}, l[:i+1]...), l[i]), l[i+1:]...)
	})
	tamper(t, "swapped", func(l [][]byte, i int) [][]byte { l[i], l[i+1] = l[i+1], l[i]; return l })
	tamper(t, "inserted", func(l [][]byte, i int) [][]byte {
		return append(append(append([][]byte{}, l[:i]...), []byte("{}\n")), l[i:]...)
	})
	tamper(t, "an empty line", func(l [][]byte, i int) [][]byte { l[i] = append([]byte("\n"), l[i]...); return l })
}

func TestClosedSegmentsAreWhole(t *testing.T) {
	path, files := sample(t, t.TempDir())
	for _, file := range files[:2] {
		good := read(t, file)
		for n := range good {
			write(t, file, good[:n])
			if r := verify(t, path); r.Consistent {
				t.Fatalf("%s cut to %d bytes: not noticed", filepath.Base(file), n)
			}
		}
		write(t, file, good)
	}
}

// rechain gives the lines from i on the hashes that fit, as somebody would who
// does not have the key.
func rechain(t *testing.T, lines [][]byte, i int) {
	before, err := parseLine(lines[i-1])
	if err != nil {
		t.Fatal(err)
	}
	head := before.hash
	for ; i < len(lines); i++ {
		body := lines[i][:bytes.LastIndex(lines[i], []byte(hashField))]
		lines[i], head = seal(bytes.Clone(body), head)
	}
}

func TestRechainedLinesAreNotAuthentic(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	for _, r := range []string{"r1", "r2", "r3"} {
		mustWrite(t, l, lookup(r))
	}
	l.mu.Lock()
	if err := l.checkpoint(); err != nil {
		t.Fatal(err)
	}
	l.mu.Unlock()
	mustWrite(t, l, lookup("r4"))
	mustWrite(t, l, lookup("r5"))
	good := read(t, path) // as a kill would leave it: header, 3 lines, checkpoint, 2 lines
	copied := filepath.Join(t.TempDir(), "audit.log")
	for i := 1; i < 7; i++ {
		lines := bytes.SplitAfter(good, []byte("\n"))
		lines = lines[:len(lines)-1]
		lines[i] = bytes.Replace(lines[i], []byte(`"time":"2026`), []byte(`"time":"2025`), 1)
		rechain(t, lines, i)
		write(t, copied, bytes.Join(lines, nil))
		r := verify(t, copied)
		if signed := i < 4; r.Consistent == signed {
			t.Errorf("line %d was changed and the chain mended: %+v", i+1, r)
		}
		if i >= 4 && (r.AuthenticTo != 4 || r.Tail != 2) {
			t.Errorf("line %d: authentic to %d, tail %d", i+1, r.AuthenticTo, r.Tail)
		}
	}
}

// forged returns the log cut off behind its first checkpoint, with lines behind it
// that whoever can write the file can make: the chain has no key.
func forged(t *testing.T, log []byte, events ...Event) []byte {
	t.Helper()
	var kept []byte
	var last record
	for line := range bytes.Lines(log) {
		var err error
		if last, err = parseLine(line); err != nil {
			t.Fatal(err)
		}
		if kept = append(kept, line...); last.kind == kindCheckpoint {
			break
		}
	}
	head := last.hash
	for n, e := range events {
		var line []byte
		line, head = seal(appendEvent(appendStart(nil, last.seq+1+uint64(n), ticking()(), e.Kind), &e), head)
		kept = append(kept, line...)
	}
	return kept
}

// Lines that were appended while nobody held the key stay marked, although every
// later checkpoint covers them.
func TestForgedTailIsOnlyAdopted(t *testing.T) {
	note := Event{Kind: Note, Outcome: "unsigned", Count: 1}
	for name, c := range map[string]struct {
		events []Event
		torn   string
	}{
		"lines":                     {[]Event{lookup("f1"), lookup("f2")}, ""},
		"one line":                  {[]Event{lookup("f1")}, ""},
		"lines, and a torn one":     {[]Event{lookup("f1"), lookup("f2")}, `{"seq":7`},
		"a note that says it first": {[]Event{lookup("f1"), note, lookup("f2")}, ""},
		"nothing but such a note":   {[]Event{note}, ""},
	} {
		path := logPath(t)
		for _, r := range []string{"r1", "r2"} { // header, r1, checkpoint 3, r2, checkpoint
			l := mustOpen(t, testConfig(path))
			mustWrite(t, l, lookup(r))
			mustClose(t, l)
		}
		write(t, path, append(forged(t, read(t, path), c.events...), c.torn...))
		n := uint64(len(c.events))
		for range 2 {
			l := mustOpen(t, testConfig(path))
			mustWrite(t, l, lookup("r3"))
			mustClose(t, l)
			r := mustVerify(t, path)
			if r.Adopted != n || len(r.AdoptedRanges) != 1 || r.AdoptedRanges[0] != (Range{4, 3 + n}) || r.AuthenticTo <= 3+n || r.Tail != 0 {
				t.Fatalf("%s: %+v", name, r)
			}
		}
		if o := objects(t, path)[3+n]; o["kind"] != Note || o["outcome"] != "unsigned" || o["count"] != float64(n) {
			t.Fatalf("%s: the first line after them is %v", name, o)
		}
	}
}

// A log that was never signed: its header is adopted too, and until somebody with
// the key has opened it, nothing is authentic.
func TestNothingSigned(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	mustWrite(t, l, lookup("r1"))
	unsigned := read(t, path)
	mustClose(t, l)
	write(t, path, unsigned)
	if r := mustVerify(t, path); r.AuthenticTo != 0 || r.Tail != 2 || r.Adopted != 0 {
		t.Fatalf("%+v", r)
	}
	mustClose(t, mustOpen(t, testConfig(path)))
	if r := mustVerify(t, path); r.AuthenticTo != 3 || r.Adopted != 2 || r.AdoptedRanges[0] != (Range{1, 2}) {
		t.Fatalf("%+v", r)
	}
}

// What a killed writer leaves is signed by the next one. Nobody can tell it from
// what was forged, however often it happens.
func TestAdoptedRanges(t *testing.T) {
	path := logPath(t)
	var want []Range
	for n := range uint64(maxRanges + 2) {
		l := mustOpen(t, testConfig(path))
		mustWrite(t, l, lookup("r"))
		killed := read(t, path)
		mustClose(t, l)
		write(t, path, killed)
		to := uint64(bytes.Count(killed, []byte("\n")))
		want = append(want, Range{to, to})
		if n == 0 {
			want[0].From = 1 // the header
		}
		mustClose(t, mustOpen(t, testConfig(path)))
	}
	r := mustVerify(t, path)
	if r.Adopted != maxRanges+3 || !slices.Equal(r.AdoptedRanges, want[:maxRanges]) {
		t.Fatalf("%d lines in %d ranges", r.Adopted, len(r.AdoptedRanges))
	}
}

func TestCleanLogAdoptsNothing(t *testing.T) {
	path, _ := sample(t, t.TempDir())
	if r := mustVerify(t, path); r.Adopted != 0 || r.AdoptedRanges != nil {
		t.Fatalf("%+v", r)
	}
}

func TestWrongKey(t *testing.T) {
	path, _ := sample(t, t.TempDir())
	for name, c := range map[string]struct {
		config     VerifyConfig
		consistent bool
	}{
		"no key":    {VerifyConfig{Path: path}, true},
		"wrong key": {VerifyConfig{Path: path, PublicKey: testKey("marker-other").Public().(ed25519.PublicKey)}, false},
	} {
		r, err := Verify(t.Context(), c.config)
		if err != nil || r.Consistent != c.consistent || r.AuthenticTo != 0 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := Verify(t.Context(), VerifyConfig{Path: path, PublicKey: []byte("short")}); err == nil {
		t.Error("a key of five bytes was taken")
	}
}

// A log made by somebody else under the key in its own headers.
func TestForgedLog(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.Signer = testKey("marker-forger")
	l := mustOpen(t, c)
	mustWrite(t, l, lookup("r1"))
	mustClose(t, l)
	if r := verify(t, path); r.Consistent || r.AuthenticTo != 0 {
		t.Fatalf("%+v", r)
	}
}

func TestSegmentsAreAllThere(t *testing.T) {
	for name, edit := range map[string]func(path string, files []string) error{
		"first removed":                 func(_ string, f []string) error { return os.Remove(f[0]) },
		"middle removed":                func(_ string, f []string) error { return os.Remove(f[1]) },
		"active removed":                func(_ string, f []string) error { return os.Remove(f[2]) },
		"middle renamed over the first": func(_ string, f []string) error { return os.Rename(f[1], f[0]) },
		"first renamed over the active": func(_ string, f []string) error { return os.Rename(f[0], f[2]) },
		"two swapped": func(path string, f []string) error {
			return errors.Join(os.Rename(f[0], path+"x"), os.Rename(f[1], f[0]), os.Rename(path+"x", f[1]))
		},
		"a copy beyond the active": func(path string, f []string) error { return os.Link(f[0], segmentPath(path, 4)) },
		"a copy beside the active": func(path string, f []string) error { return os.Link(f[0], segmentPath(path, 3)) },
		"active empty":             func(_ string, f []string) error { return os.Truncate(f[2], 0) },
	} {
		path, files := sample(t, t.TempDir())
		if err := edit(path, files); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, path); r.Consistent {
			t.Errorf("%s: not noticed", name)
		} else if r.File == "" || strings.Contains(r.Problem, "r1") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestOlderSegmentsTakenAwayOnPurpose(t *testing.T) {
	path, files := sample(t, t.TempDir())
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	for first, want := range map[uint64]bool{0: false, 1: false, 2: true, 4: false} {
		r, err := Verify(t.Context(), VerifyConfig{Path: path, PublicKey: publicKey(), First: first})
		if err != nil || r.Consistent != want {
			t.Errorf("first %d: %+v, %v", first, r, err)
		}
		if want && (r.AuthenticTo != 11 || r.Lines != 8) {
			t.Errorf("first %d: %+v", first, r)
		}
	}
}

func TestVerifyStops(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	for range 2000 {
		mustWrite(t, l, Event{Kind: Note})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, VerifyConfig{Path: path}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), VerifyConfig{Path: filepath.Dir(path)}); err == nil {
		t.Fatal("a directory was read")
	}
}

// A log that was signed at its start is authentic up to there, however early its
// daemon is killed.
func TestSignedAtOnce(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	mustWrite(t, l, lookup("r1"))
	for range 2 { // the second has nothing to sign
		if err := l.Sign(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Status(); s.Durable != s.Sequence {
		t.Errorf("durable to %d of %d", s.Durable, s.Sequence)
	}
	killed := read(t, path)
	mustClose(t, l)
	write(t, path, killed)
	if r := mustVerify(t, path); r.AuthenticTo != 2 || r.Tail != 0 || r.Lines != 3 {
		t.Fatalf("%+v", r)
	}
	if err := l.Sign(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("after Close: %v", err)
	}
}
