package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func logPath(t testing.TB) string { return filepath.Join(t.TempDir(), "audit.log") }

func TestWriteIsInTheFile(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	mustWrite(t, l, lookup("r1"))
	o := objects(t, path)[1]
	for key, want := range map[string]any{
		"seq": 2.0, "kind": "outcome", "requestId": "r1", "listener": "public", "uid": 33.0, "pid": 4711.0,
		"contained": false, "rule": "shop-web", "status": 200.0,
	} {
		if o[key] != want {
			t.Errorf("%s is %v, want %v", key, o[key], want)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
	mustClose(t, l)
	if got := kinds(t, path); got != "segment outcome checkpoint" {
		t.Fatal(got)
	}
	r := mustVerify(t, path)
	if r.AuthenticTo != 2 || r.Tail != 0 || r.Lines != 3 || r.Sequence != 3 {
		t.Fatalf("%+v", r)
	}
	if err := l.Write(lookup("late")); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("a closed log takes a line: %v", err)
	}
}

func TestModeDoesNotDependOnTheUmask(t *testing.T) {
	path := logPath(t)
	old := syscall.Umask(0o777)
	l, err := Open(t.Context(), testConfig(path))
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
}

func TestRefusedEvents(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	long := lookup("r")
	long.Route = strings.Repeat("x", maxLine)
	for name, e := range map[string]Event{
		"too long": long, "kind of ours": {Kind: kindCheckpoint}, "no kind": {},
	} {
		if err := l.Write(e); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustWrite(t, l, lookup("r"))
	mustClose(t, l)
	if r := mustVerify(t, path); r.Lines != 3 {
		t.Fatalf("%d lines", r.Lines)
	}
}

func TestLongestLine(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	e := Event{Kind: Note, Route: "x"}
	b, _ := seal(appendEvent(appendStart(nil, 2, l.now(), e.Kind), &e), l.head)
	e.Route = strings.Repeat("x", maxLine-len(b)+1)
	mustWrite(t, l, e)
	e.Route += "x"
	if err := l.Write(e); err == nil {
		t.Fatal("a line of 16385 bytes was taken")
	}
	mustClose(t, l)
	mustVerify(t, path)
	mustClose(t, mustOpen(t, testConfig(path)))
}

// Whatever a caller calls itself, a line is one line, valid JSON, and says it.
func TestEscaping(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	said := []string{
		`","kind":"checkpoint","x":"`, "a\nb\r\t\x00\x1b[2J", "\x7f\u0085\u009b", "\u2028\u2029\u202a",
		"snow ☃ 😀", "\\\\\"\\", "bad \xff\xfe utf-8 \xc3", "\ufffd", "</script>&",
	}
	for _, s := range said {
		mustWrite(t, l, Event{Kind: Note, Unit: s})
	}
	mustClose(t, l)
	mustVerify(t, path)
	for i, o := range objects(t, path)[1 : len(said)+1] {
		if want := strings.ToValidUTF8(said[i], "\ufffd"); i != 6 && o["unit"] != want {
			t.Errorf("%q came back as %q", want, o["unit"])
		}
	}
	for i, c := range string(read(t, path)) {
		if c < 0x20 && c != '\n' || c >= 0x7f && c < 0xa0 || c == 0x2028 {
			t.Fatalf("byte %d is a bare %U", i, c)
		}
	}
}

func TestSubject(t *testing.T) {
	l := mustOpen(t, testConfig(logPath(t)))
	s := l.Subject("shop", "human-1")
	// HMAC-SHA256 of 00000005 "human" 00000004 "shop" 00000007 "human-1", by openssl.
	if s != "7b092cfe0d44fa0f513dc350736f8b12c2fdf7d34fecbf9ca8d6fdc05a46aa17" {
		t.Error("the subject is another one: ", s)
	}
	if s == l.Subject("shoph", "uman-1") || s == l.Subject("shop", "human-2") {
		t.Error("two users have one subject")
	}
}

func TestCheckpointWithinASecond(t *testing.T) {
	path := logPath(t)
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, testConfig(path))
		time.Sleep(time.Second)
		if got := kinds(t, path); got != "segment checkpoint" {
			t.Fatal(got)
		}
		time.Sleep(time.Hour)
		if s := l.Status(); s.Sequence != 2 || s.Durable != 2 {
			t.Fatalf("an idle log wrote on: %+v", s)
		}
		for range 3 {
			mustWrite(t, l, lookup("r"))
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if got := kinds(t, path); got != "segment checkpoint outcome outcome outcome checkpoint" {
			t.Fatal(got)
		}
		if s := l.Status(); s.Durable != s.Sequence {
			t.Fatalf("a second later it is not synced: %+v", s)
		}
		mustClose(t, l)
		if s := l.Status(); s.Sequence != 6 {
			t.Fatal("a signed log was signed again at its end")
		}
	})
}

// The first caller's sync is held; all who come meanwhile share the second one.
func TestCallersShareASync(t *testing.T) {
	l := mustOpen(t, testConfig(logPath(t)))
	const callers = 64
	var calls atomic.Int32
	entered, release := make(chan struct{}), make(chan struct{})
	l.syncFile = func(f *os.File) error {
		if calls.Add(1) == 1 {
			close(entered)
			<-release
		}
		return syncData(f)
	}
	var all sync.WaitGroup
	durable := func() {
		if err := l.WriteDurable(t.Context(), lookup("r")); err != nil {
			t.Error(err)
		}
	}
	all.Go(durable)
	<-entered
	first := l.Status().Sequence
	for range callers - 1 {
		all.Go(durable)
	}
	for l.Status().Sequence < first+callers-1 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	all.Wait()
	if n := calls.Load(); n != 2 {
		t.Fatalf("%d callers cost %d syncs", callers, n)
	}
}

func TestDurableIsSyncedBeforeItReturns(t *testing.T) {
	l := mustOpen(t, testConfig(logPath(t)))
	for range 20 {
		before := l.Status()
		if err := l.WriteDurable(t.Context(), lookup("r")); err != nil {
			t.Fatal(err)
		}
		if s := l.Status(); s.Durable < before.Sequence+1 || s.Syncs == before.Syncs {
			t.Fatalf("returned before its sync: %+v", s)
		}
	}
}

func TestGivingUpTheWait(t *testing.T) {
	l := mustOpen(t, testConfig(logPath(t)))
	entered, release := make(chan struct{}), make(chan struct{})
	l.syncFile = func(f *os.File) error {
		entered <- struct{}{}
		<-release
		return syncData(f)
	}
	go func() { _ = l.WriteDurable(context.Background(), lookup("r1")) }()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.WriteDurable(ctx, lookup("r2")); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	go func() { <-entered }()
	close(release)
	mustClose(t, l)
}

func TestFailedSyncIsFinal(t *testing.T) {
	l := mustOpen(t, testConfig(logPath(t)))
	l.syncFile = func(*os.File) error { return syscall.EIO }
	err := l.WriteDurable(t.Context(), lookup("r1"))
	if !errors.Is(err, ErrBroken) || !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	<-l.Broken()
	l.syncFile = syncData
	if err := l.Write(lookup("r2")); !errors.Is(err, ErrBroken) {
		t.Fatalf("a log whose sync has failed goes on: %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
}

// The kernel takes a part of a line only: it is cut off again, and the log goes on.
func TestPartialWrite(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	mustWrite(t, l, lookup("r1"))
	size := uint64(len(read(t, path)))
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	for part := range uint64(3) {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size + 50*part, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		err := l.Write(lookup("lost"))
		if rerr := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); rerr != nil {
			t.Fatal(rerr)
		}
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.EFBIG) {
			t.Fatal(err)
		}
		if n := uint64(len(read(t, path))); n != size {
			t.Fatalf("%d bytes of the lost line stayed", n-size)
		}
	}
	mustWrite(t, l, lookup("r2"))
	mustClose(t, l)
	if r := mustVerify(t, path); r.Lines != 4 {
		t.Fatalf("%d lines", r.Lines)
	}
}

// Many writers, small segments, and a reader who verifies the log as it grows.
func TestConcurrentWritersAndVerifier(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.Now, c.RotateSize = nil, minRotateSize
	l := mustOpen(t, c)
	const writers, each = 8, 60
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				e, err := lookup(fmt.Sprintf("%d-%d", w, i)), error(nil)
				if i%4 == 0 {
					err = l.WriteDurable(t.Context(), e)
				} else {
					err = l.Write(e)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		mustVerify(t, path)
	}
	mustClose(t, l)
	r := mustVerify(t, path)
	seen := map[any]bool{}
	for n := uint64(1); n <= l.Status().Segment; n++ {
		file := segmentPath(path, n)
		if n == l.Status().Segment {
			file = path
		}
		for _, o := range objects(t, file) {
			seen[o["requestId"]] = o["kind"] == Outcome
		}
	}
	delete(seen, nil)
	if len(seen) != writers*each || r.Tail != 0 || r.Segments < 20 {
		t.Fatalf("%d events in %d segments, tail %d", len(seen), r.Segments, r.Tail)
	}
}

func TestNothingShowsTheKeys(t *testing.T) {
	l := mustOpen(t, testConfig(logPath(t)))
	shown := fmt.Sprintf("%v %+v %#v", l, l, l)
	j, _ := json.Marshal(l.Status())
	for _, marker := range []string{"marker", fmt.Sprintf("%x", "marker"), fmt.Sprint([]byte("marker"))[1:20]} {
		if strings.Contains(shown+string(j), marker) {
			t.Error("a key is printed")
		}
	}
}

// A process that is killed leaves every line that Write has returned for.
func TestKilled(t *testing.T) {
	path := os.Getenv("AUDIT_TEST_KILLED")
	if path != "" {
		l := mustOpen(t, testConfig(path))
		for i := range 50 {
			mustWrite(t, l, lookup(fmt.Sprint(i)))
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	path = logPath(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "AUDIT_TEST_KILLED="+path)
	if err := cmd.Run(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatal(err)
	}
	if r := mustVerify(t, path); r.Lines != 51 || r.AuthenticTo != 0 || r.Tail != 51 {
		t.Fatalf("%+v", r)
	}
	mustClose(t, mustOpen(t, testConfig(path)))
	if r := mustVerify(t, path); r.Lines != 53 || r.AuthenticTo != 52 || r.Adopted != 51 {
		t.Fatalf("%+v", r)
	}
}
