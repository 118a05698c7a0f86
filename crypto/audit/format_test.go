package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

var golden = filepath.Join("testdata", "v1", "audit.log")

// writeGolden writes every field there is, over two segments.
func writeGolden(t *testing.T, path string) {
	c := testConfig(path)
	l := mustOpen(t, c)
	root := uint32(0)
	mustWrite(t, l, Event{Kind: Attempt, RequestID: "req-1", Listener: "public", UID: &root, GID: &root, Contained: true, Grant: "exchange"})
	e := lookup("req-1")
	e.Error, e.Outcome, e.Count, e.PID = "user_mismatch", "rejected", 3, -1
	mustWrite(t, l, e)
	mustWrite(t, l, Event{Kind: Note, Unit: "\"\\\n\r\t\x01\x7f\u0085\u2028 ☃"})
	mustClose(t, l)
	c.Incarnation++
	l = mustOpen(t, c)
	mustWrite(t, l, lookup("req-2"))
	mustClose(t, l)
}

func TestGoldenOpens(t *testing.T) {
	if *update {
		if err := os.RemoveAll(filepath.Dir(golden)); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
			t.Fatal(err)
		}
		writeGolden(t, golden)
	}
	r := mustVerify(t, golden)
	if r.Lines != 8 || r.AuthenticTo != 7 || r.Segments != 2 || r.Incarnation != 2 || r.Torn != 0 {
		t.Fatalf("%+v", r)
	}
	for path := range map[string]bool{golden: true, segmentPath(golden, 1): true} {
		for line := range bytes.Lines(read(t, path)) {
			if _, err := parseLine(line); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestGoldenIsWhatIsWritten(t *testing.T) {
	path := logPath(t)
	writeGolden(t, path)
	for _, n := range []func(string) string{
		func(p string) string { return p }, func(p string) string { return segmentPath(p, 1) },
	} {
		if !bytes.Equal(read(t, n(path)), read(t, n(golden))) {
			t.Errorf("%s differs from the golden file", filepath.Base(n(path)))
		}
	}
}

// The hashes of the golden log by the words of the format, not by our code.
func TestGoldenByTheSpecification(t *testing.T) {
	previous := make([]byte, 32)
	for _, path := range []string{segmentPath(golden, 1), golden} {
		for line := range bytes.Lines(read(t, path)) {
			if !json.Valid(line) {
				t.Fatal("not JSON")
			}
			body := line[:bytes.LastIndex(line, []byte(`"hash"`))]
			sum := sha256.Sum256(append(previous, body...))
			if want := `"hash":"` + hex.EncodeToString(sum[:]) + "\"}\n"; string(line[len(body):]) != want {
				t.Fatalf("hash of a line is not %s", want)
			}
			previous = sum[:]
		}
	}
}

func TestStrictLines(t *testing.T) {
	good := bytes.SplitAfter(read(t, segmentPath(golden, 1)), []byte("\n"))[2]
	if _, err := parseLine(good); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"a leading zero":    {`"seq":`, `"seq":0`},
		"a plus sign":       {`"seq":`, `"seq":+`},
		"white space":       {`,"kind"`, `, "kind"`},
		"an escaped letter": {`"public"`, `"\u0070ublic"`},
		"other order":       {`"uid":33,"gid":33`, `"gid":33,"uid":33`},
		"a field twice":     {`"uid":33,`, `"uid":33,"uid":33,`},
		"an unknown field":  {`"uid":33,`, `"uid":33,"x":1,`},
		"an empty field":    {`"error":"user_mismatch"`, `"error":""`},
		"an id too large":   {`"uid":33,`, `"uid":4294967296,`},
		"another kind":      {`"kind":"outcome"`, `"kind":"Outcome"`},
		"no milliseconds":   {`.00`, ``},
		"another zone":      {`Z","kind"`, `+00:00","kind"`},
		"upper-case hash":   {`"hash":"`, `"hash":"A`},
		"CR":                {"\"}\n", "\"}\r\n"},
		"no LF":             {"\"}\n", "\"}"},
		"two objects":       {`,"hash"`, `}{"hash"`},
	} {
		bad := bytes.Replace(good, []byte(edit[0]), []byte(edit[1]), 1)
		if bytes.Equal(bad, good) {
			t.Errorf("%s: nothing was changed", name)
		}
		if _, err := parseLine(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzParseLine: what is accepted is exactly what would be written, and JSON.
func FuzzParseLine(f *testing.F) {
	for _, path := range []string{golden, segmentPath(golden, 1), goldenCallers} {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			f.Add(line)
		}
	}
	f.Add([]byte("\n"))
	f.Add([]byte(`{"seq":1,"time":"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		at, ok := lineTime(line)
		r, err := parseLine(line)
		if err != nil {
			return
		}
		if !ok || !at.Equal(r.time) {
			t.Fatalf("a walk takes its time for %v", at)
		}
		b := append(r.appendBody(nil), line[len(r.body):]...)
		if !bytes.Equal(b, line) || !json.Valid(line) || len(line) > maxLine {
			t.Fatalf("accepted, and written as %q", b)
		}
	})
}

// FuzzEvent: any event that is taken is read back, whatever its strings hold.
func FuzzEvent(f *testing.F) {
	f.Add("unit", "\",\"hash\":\"", int64(200), int32(1), uint32(7), "unconfined", uint8(3))
	f.Add("\x00\xff\u2028", "\\", int64(-1), int32(-5), uint32(0), "\",\"groups\":[1],", uint8(17))
	f.Fuzz(func(t *testing.T, unit, route string, status int64, pid int32, uid uint32, label string, n uint8) {
		e := Event{Kind: Note, Unit: unit, Route: route, Status: int(status), PID: pid, UID: &uid, Label: label, Groups: groups(int(n)), Unproven: n%2 == 1}
		b, hash := seal(appendEvent(appendStart(nil, 1, time.Unix(0, 0), e.Kind), &e), [32]byte{})
		if len(b) > maxLine {
			return
		}
		r, err := parseLine(b)
		if err != nil || r.event.GroupsCut != (n > maxGroups) || !slices.Equal(r.event.Groups, e.Groups[:min(int(n), maxGroups)]) {
			t.Fatalf("%q is not read back: %v", b, err)
		}
		if r.hash != hash || r.event.Status != e.Status || r.event.PID != pid || *r.event.UID != uid {
			t.Fatalf("%q is not read back: %v", b, err)
		}
		if !json.Valid(b) || bytes.Count(b, []byte("\n")) != 1 {
			t.Fatalf("%q", b)
		}
	})
}
