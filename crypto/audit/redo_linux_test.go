package audit

import (
	"errors"
	"fmt"
	"os"
	"sync"
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
	end()
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

// A sync that fails after another one has said that the same lines are on the disk:
// the kernel tells an error only once, so neither is believed.
func TestAnErrorIsToldOnce(t *testing.T) {
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC} {
		l := mustOpen(t, testConfig(logPath(t)))
		entered, release := make(chan struct{}), make(chan struct{})
		l.syncFile = func(*os.File) error {
			entered <- struct{}{}
			<-release
			return errno
		}
		done := make(chan error, 1)
		go func() { done <- l.WriteDurable(t.Context(), lookup("r")) }()
		<-entered
		l.mu.Lock()
		l.group.finish(l.mark(), nil) // as a rotation does
		l.mu.Unlock()
		close(release)
		<-done
		select {
		case <-l.Broken():
		default:
			t.Errorf("%v was not heard", errno)
		}
	}
}

// Many writers while the disk fills and empties: every line is whole or not there,
// and every one that was answered with success is.
func TestWritersOnAFillingDisk(t *testing.T) {
	dir := tmpfs(t, "3072")
	l, c := reserved(t, dir, 64<<10)
	var written, refused sync.Map
	var all sync.WaitGroup
	stop := make(chan struct{})
	for w := range 8 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", w, n)
				switch err := l.WriteDurable(t.Context(), lookup(id)); {
				case err == nil:
					written.Store(id, true)
				case errors.Is(err, ErrFull) && !errors.Is(err, ErrBroken):
					refused.Store(id, true)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		release := fill(t, dir, 16<<10)
		for before := count(&refused); count(&refused) < before+50; {
			_ = l.Low()
		}
		release()
		for before := count(&written); count(&written) < before+50; {
			_ = l.Low()
		}
	}
	close(stop)
	all.Wait()
	mustClose(t, l)
	mustVerify(t, c.Path)
	for _, o := range objects(t, c.Path) {
		written.Delete(o["requestId"])
	}
	if n := count(&written); n != 0 {
		t.Errorf("%d lines that were answered for are not there", n)
	}
	t.Logf("figure: %d writes were refused while the disk was full", count(&refused))
}

func count(m *sync.Map) (n int) {
	m.Range(func(any, any) bool { n++; return true })
	return n
}
