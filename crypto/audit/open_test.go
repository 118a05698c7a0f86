package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

func TestGoesOnWhereItEnded(t *testing.T) {
	path := logPath(t)
	for range 3 {
		l := mustOpen(t, testConfig(path))
		mustWrite(t, l, lookup("r"))
		mustClose(t, l)
	}
	if got, want := kinds(t, path), "segment"+strings.Repeat(" outcome checkpoint", 3); got != want {
		t.Fatal(got)
	}
	mustVerify(t, path)
}

// unsignedLog returns the bytes of a log as a kill would leave it: header, two
// lines, checkpoint, two lines.
func unsignedLog(t *testing.T) []byte {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	mustWrite(t, l, lookup("r1"))
	mustWrite(t, l, lookup("r2"))
	mustClose(t, l)
	l = mustOpen(t, testConfig(path))
	mustWrite(t, l, lookup("r3"))
	mustWrite(t, l, lookup("r4"))
	return read(t, path)
}

// Wherever the log is cut, it opens, keeps the whole lines, and says what was cut.
func TestTornAnywhere(t *testing.T) {
	good := unsignedLog(t)
	lastTwo := len(bytes.Join(bytes.SplitAfter(good, []byte("\n"))[:4], nil))
	path := logPath(t)
	for n := 0; n < len(good); n++ {
		if n > 5 && n < lastTwo && n%97 != 0 {
			continue // each costs some syncs
		}
		write(t, path, good[:n])
		if err := os.Chmod(path, fileMode); err != nil {
			t.Fatal(err)
		}
		mustClose(t, mustOpen(t, testConfig(path)))
		r := mustVerify(t, path)
		whole := bytes.LastIndexByte(good[:n], '\n') + 1
		cut := n - whole
		if cut > 0 {
			if whole == 0 {
				continue // the header is new, and the note follows it
			}
			at := bytes.Count(good[:n], []byte("\n"))
			if r.Adopted > 0 {
				at++ // first that the lines before were not signed
			}
			o := objects(t, path)[at]
			if o["kind"] != Note || o["outcome"] != "cut" || o["count"] != float64(cut) {
				t.Fatalf("cut at %d: %v", n, o)
			}
		}
		if !bytes.HasPrefix(read(t, path), good[:whole]) || r.Tail != 0 || r.AuthenticTo == 0 {
			t.Fatalf("cut at %d: %+v", n, r)
		}
	}
}

// A block that never reached the disk reads as zeros, with later blocks behind it.
func TestHoleInTheTail(t *testing.T) {
	good := unsignedLog(t)
	lines := bytes.SplitAfter(good, []byte("\n"))
	start := len(bytes.Join(lines[:4], nil))
	path := logPath(t)
	holed := bytes.Clone(good)
	clear(holed[start+40 : start+len(lines[4])+20])
	write(t, path, holed)
	mustClose(t, mustOpen(t, testConfig(path)))
	if r := mustVerify(t, path); r.Lines != 6 {
		t.Fatalf("%d lines", r.Lines)
	}
	write(t, path, append(good[:start:start], make([]byte, 3*maxLine)...))
	mustClose(t, mustOpen(t, testConfig(path)))
	mustVerify(t, path)
}

func TestAChangedTailIsRefused(t *testing.T) {
	good := unsignedLog(t)
	lines := bytes.SplitAfter(good, []byte("\n"))
	path := logPath(t)
	for start := len(bytes.Join(lines[:3], nil)); start < len(good)-1; start += 11 {
		changed := bytes.Clone(good)
		changed[start] ^= 1
		write(t, path, changed)
		if l, err := Open(t.Context(), testConfig(path)); err == nil {
			_ = l.Close()
			t.Fatalf("byte %d was changed and the log goes on", start)
		}
		if !bytes.Equal(read(t, path), changed) {
			t.Fatal("a refused log was written to")
		}
	}
}

func TestRefusedLogs(t *testing.T) {
	path, files := sample(t, t.TempDir())
	good := map[string][]byte{}
	for _, f := range files {
		good[f] = read(t, f)
	}
	config := func(edit func(*Config)) Config {
		c := testConfig(path)
		c.Incarnation = 3
		edit(&c)
		return c
	}
	for name, c := range map[string]Config{
		"another instance":    config(func(c *Config) { c.Instance = "other" }),
		"another key":         config(func(c *Config) { c.Signer = testKey("marker-other") }),
		"earlier incarnation": config(func(c *Config) { c.Incarnation = 2 }),
		"no incarnation":      config(func(c *Config) { c.Incarnation = 0 }),
		"no instance":         config(func(c *Config) { c.Instance = "" }),
		"no signer":           config(func(c *Config) { c.Signer = nil }),
		"short subject key":   config(func(c *Config) { c.SubjectKey = secret.FromString("short") }),
		"tiny segments":       config(func(c *Config) { c.RotateSize = 100 }),
		"no directory":        config(func(c *Config) { c.Path = filepath.Join(path+"x", "audit.log") }),
		"a directory":         config(func(c *Config) { c.Path = filepath.Dir(path) }),
	} {
		if l, err := Open(t.Context(), c); err == nil {
			_ = l.Close()
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "marker") {
			t.Errorf("%s: the error shows a key", name)
		}
	}
	for f, b := range good {
		if !bytes.Equal(read(t, f), b) {
			t.Errorf("%s was changed", filepath.Base(f))
		}
	}
	c := config(func(*Config) {})
	mustClose(t, mustOpen(t, c))
}

func TestRefusedFiles(t *testing.T) {
	for name, prepare := range map[string]func(path string) error{
		"readable by others":  func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"a symbolic link":     func(p string) error { return os.Symlink("elsewhere", p) },
		"a pipe":              func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"something else":      func(p string) error { return os.WriteFile(p, []byte("precious"), 0o600) },
		"something with LF":   func(p string) error { return os.WriteFile(p, []byte("precious\n"), 0o600) },
		"active file missing": func(p string) error { return os.WriteFile(segmentPath(p, 1), nil, 0o600) },
	} {
		path := logPath(t)
		old := syscall.Umask(0)
		err := prepare(path)
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := Open(t.Context(), testConfig(path)); err == nil {
			_ = l.Close()
			t.Errorf("%s: accepted", name)
		}
		if strings.HasPrefix(name, "something") && !bytes.HasPrefix(read(t, path), []byte("precious")) {
			t.Errorf("%s: it was overwritten", name)
		}
	}
}

func TestOneWriterAtATime(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.RotateSize = minRotateSize
	l := mustOpen(t, c)
	for range 2 { // before a rotation, and after it
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "held by another") {
			t.Fatal(err)
		}
		for n := l.Status().Segment; l.Status().Segment == n; {
			mustWrite(t, l, lookup("r"))
		}
	}
	mustClose(t, l)
	mustClose(t, mustOpen(t, c))
	mustVerify(t, path)
}

// A rotation that was interrupted after each of its steps.
func TestInterruptedRotation(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	mustWrite(t, l, lookup("r1"))
	mustClose(t, l)
	write(t, path+newSuffix, []byte(firstBytes))
	mustVerify(t, path)
	mustClose(t, mustOpen(t, testConfig(path)))
	if err := os.Link(path, segmentPath(path, 1)); err != nil {
		t.Fatal(err)
	}
	write(t, path+newSuffix, nil)
	mustVerify(t, path)
	mustClose(t, mustOpen(t, testConfig(path)))
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
}

// A segment that cannot be made does not stop the log, and is made later.
func TestRotationFails(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.RotateSize = minRotateSize
	l := mustOpen(t, c)
	write(t, segmentPath(path, 1), []byte("in the way"))
	for range 40 {
		mustWrite(t, l, lookup("r"))
	}
	if s := l.Status(); s.Segment != 1 {
		t.Fatalf("%+v", s)
	}
	if got := string(read(t, segmentPath(path, 1))); got != "in the way" {
		t.Fatal("a file in the way was replaced")
	}
	if err := os.Remove(segmentPath(path, 1)); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		mustWrite(t, l, lookup("r"))
	}
	if s := l.Status(); s.Segment == 1 {
		t.Fatal("it is not tried again")
	}
	mustClose(t, l)
	mustVerify(t, path)
}

func TestWrongPredecessor(t *testing.T) {
	path, files := sample(t, t.TempDir())
	c := testConfig(path)
	c.Incarnation = 3
	write(t, files[1], read(t, files[0]))
	if l, err := Open(t.Context(), c); err == nil {
		_ = l.Close()
		t.Fatal("the segment before is another one, and the log goes on")
	}
}
