package audit

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// noRoom makes the syncs of l fail as they do where room is found late, and returns
// what ends that.
func noRoom(l *Log) (end func()) {
	var mu sync.Mutex
	failing := true
	l.syncFile = func(f *os.File) error {
		mu.Lock()
		defer mu.Unlock()
		if failing {
			return os.NewSyscallError("fdatasync", syscall.ENOSPC)
		}
		return syncData(f)
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		failing = false
	}
}

// A sync that finds no room breaks nothing; the next one writes again what the
// kernel may have given up.
func TestSyncFindsNoRoom(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.RotateSize = minRotateSize
	l := mustOpen(t, c)
	if err := l.WriteDurable(t.Context(), lookup("r1")); err != nil {
		t.Fatal(err)
	}
	before := l.Durable()
	end := noRoom(l)
	for range 40 { // beyond the size at which a segment ends
		wantFull(t, l.WriteDurable(t.Context(), lookup("r2")))
	}
	if l.Durable() != before || l.Status().Segment != 1 {
		t.Fatalf("durable to %+v in segment %d", l.Durable(), l.Status().Segment)
	}
	l.mu.Lock()
	end()
	l.tryRotate() // its sync would be believed
	segment := l.segment
	l.mu.Unlock()
	if segment != 1 || l.Durable() != before {
		t.Fatal("a segment was closed while its lines may not be on the disk")
	}
	if err := l.WriteDurable(t.Context(), lookup("r3")); err != nil {
		t.Fatal(err)
	}
	for l.Status().Segment < 3 {
		mustWrite(t, l, lookup("r4"))
	}
	mustClose(t, l)
	mustVerify(t, path)
	wantHolds(t, path, before, true)
	wantHolds(t, path, l.Durable(), true)
}

// Pages that were thrown away show, and then the log is broken.
func TestLinesThatFoundNoRoomAreGone(t *testing.T) {
	for name, spoil := range map[string]func(f *os.File, at int64) error{
		"zeros":   func(f *os.File, at int64) error { _, err := f.WriteAt(make([]byte, 100), at); return err },
		"another": func(f *os.File, at int64) error { _, err := f.WriteAt([]byte("2"), at+8); return err },
		"shorter": func(f *os.File, at int64) error { return f.Truncate(at) },
	} {
		path := logPath(t)
		l := mustOpen(t, testConfig(path))
		at := l.Status()
		size := int64(len(read(t, path)))
		end := noRoom(l)
		wantFull(t, l.WriteDurable(t.Context(), lookup("r")))
		end()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			err = errors.Join(spoil(f, size), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := l.WriteDurable(t.Context(), lookup("r")); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
		if l.Durable().Sequence != at.Sequence {
			t.Errorf("%s: durable to %+v", name, l.Durable())
		}
	}
}

// held makes the first sync of l wait; the other ones run. entered is closed when it
// has begun.
func held(l *Log, sync1 func(*os.File) error) (entered chan struct{}, release func()) {
	entered = make(chan struct{})
	wait := make(chan struct{})
	var calls atomic.Int32
	l.syncFile = func(f *os.File) error {
		if calls.Add(1) > 1 {
			return syncData(f)
		}
		close(entered)
		<-wait
		return sync1(f)
	}
	return entered, func() { close(wait) }
}

// A sync that fails after another one has said that the same lines are on the disk:
// the kernel tells an error only once, so neither is believed.
func TestAnErrorIsToldOnce(t *testing.T) {
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC} {
		l := mustOpen(t, testConfig(logPath(t)))
		entered, release := held(l, func(*os.File) error { return errno })
		done := make(chan error, 1)
		go func() { done <- l.WriteDurable(t.Context(), lookup("r")) }()
		<-entered
		l.mu.Lock()
		l.group.finish(l.mark(), nil) // as a rotation does
		l.mu.Unlock()
		release()
		<-done
		select {
		case <-l.Broken():
		default:
			t.Errorf("%v was not heard", errno)
		}
	}
}

// A rotation closes the file under a sync: that is no failure, since it has synced it.
func TestRotationUnderASync(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	entered, release := held(l, syncData)
	done := make(chan error, 1)
	go func() { done <- l.WriteDurable(t.Context(), lookup("r")) }()
	<-entered
	l.mu.Lock()
	err := l.rotate(1)
	l.mu.Unlock()
	release()
	if err = errors.Join(err, <-done, l.group.failed()); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	mustVerify(t, path)
}

// Many writers while the disk fills and empties: every line is whole or not there,
// and every one that was answered with success is.
func TestWritersOnAFillingDisk(t *testing.T) {
	dir := tmpfs(t, "4096")
	l, c := reserved(t, dir, 64<<10)
	var written, refused sync.Map
	var all sync.WaitGroup
	work := make(chan string)
	for range 8 {
		all.Go(func() {
			for id := range work {
				switch err := l.WriteDurable(t.Context(), lookup(id)); {
				case err == nil:
					written.Store(id, true)
				case errors.Is(err, ErrFull) && !errors.Is(err, ErrBroken):
					refused.Store(id, true)
				default:
					t.Error(err)
				}
			}
		})
	}
	next := 0
	until := func(m *sync.Map) { // it holds 50 more
		for before := count(m); count(m) < before+50 && !t.Failed(); next++ {
			work <- fmt.Sprint(next)
		}
	}
	for range 5 {
		release := fill(t, dir, 16<<10)
		until(&refused)
		release()
		until(&written)
	}
	close(work)
	all.Wait()
	mustClose(t, l)
	mustVerify(t, c.Path)
	for _, o := range objects(t, c.Path) {
		written.Delete(o["requestId"])
	}
	if n := count(&written); n != 0 {
		t.Errorf("%d lines that were answered for are not there", n)
	}
}

func count(m *sync.Map) (n int) {
	m.Range(func(any, any) bool { n++; return true })
	return n
}
