package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disks are file systems that fill for real.
var disks = map[string]func(testing.TB) string{
	"tmpfs": func(t testing.TB) string { return tmpfs(t, "4096") },
	"ext4":  func(t testing.TB) string { return image(t, 8<<20) },
}

func onDisks(t *testing.T, test func(t *testing.T, dir string)) {
	for name, disk := range disks {
		t.Run(name, func(t *testing.T) { test(t, disk(t)) })
	}
}

// The disk fills with other people's data: the log goes on out of its reserve, then
// refuses without harm, and goes on by itself when there is room.
func TestFullDisk(t *testing.T) {
	onDisks(t, func(t *testing.T, dir string) {
		const reserve = 512 << 10
		l, c := reserved(t, dir, reserve)
		if s := l.Status(); s.Reserve < reserve || l.Low() != nil {
			t.Fatalf("%d bytes in reserve, %v", s.Reserve, l.Low())
		}
		release := fill(t, dir, 0)
		n := writeUntilFull(t, l)
		if least := reserve / 600; n < least {
			t.Errorf("%d lines went into the reserve, want %d", n, least)
		}
		wantFull(t, l.Low())
		wantFull(t, l.WriteDurable(t.Context(), lookup("durable")))
		wantFull(t, l.Sign(t.Context()))
		if got := bytes.Count(read(t, c.Path), []byte("\n")); uint64(got) != l.Status().Sequence {
			t.Errorf("%d lines are in the file, %d in the chain", got, l.Status().Sequence)
		}
		mustVerify(t, c.Path)
		release()
		mustWrite(t, l, lookup("again"))
		retryNow(l)
		if err := l.Low(); err != nil || l.Status().Reserve < reserve {
			t.Errorf("there is room, and %d bytes in reserve: %v", l.Status().Reserve, err)
		}
		mustClose(t, l)
		if r := mustVerify(t, c.Path); r.Tail != 0 || r.Torn != 0 || r.Adopted != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// The reserve follows the end of the log, with few system calls.
func TestReserveIsToppedUp(t *testing.T) {
	l, c := reserved(t, tmpfs(t, "8192"), 256<<10)
	var moved int
	end := l.reserve.end
	for range 4000 {
		mustWrite(t, l, lookup("0123456789abcdef"))
		if left := l.Status().Reserve; left < c.Reserve {
			t.Fatalf("%d bytes are in reserve", left)
		}
		if l.reserve.end != end {
			end = l.reserve.end
			moved++
		}
	}
	if st, err := os.Stat(c.Path); err != nil || int64(moved) > st.Size()/minStep+1 {
		t.Errorf("%d steps for %d bytes, %v", moved, st.Size(), err)
	}
	mustClose(t, l)
}

// While the disk is low it is asked about once a second, not with every line.
func TestLowIsLeftAlone(t *testing.T) {
	dir := tmpfs(t, "1024")
	l, _ := reserved(t, dir, 256<<10)
	release := fill(t, dir, 0)
	defer release()
	for l.Status().Reserve >= 256<<10 {
		mustWrite(t, l, lookup("r"))
	}
	wantFull(t, l.Low())
	l.mu.Lock()
	tried := time.Now().Add(time.Hour)
	l.reserve.tried = tried
	l.mu.Unlock()
	for range 50 {
		mustWrite(t, l, lookup("r"))
		wantFull(t, l.Low())
	}
	if l.reserve.tried != tried {
		t.Error("it was asked again")
	}
}

// Who starts again on a full disk finds the reserve that was there, also when a line
// was torn, and goes on in it.
func TestReserveSurvivesARestart(t *testing.T) {
	onDisks(t, func(t *testing.T, dir string) {
		const reserve = 512 << 10
		l, c := reserved(t, dir, reserve)
		mustWrite(t, l, lookup("r1"))
		mustClose(t, l)
		fill(t, dir, 0)
		for _, torn := range []string{"", `{"seq":4,"time":"`} {
			appendBytes(t, c.Path, torn)
			l = mustOpen(t, c)
			if err := l.Low(); err != nil && l.Status().Reserve < reserve-3*blockSize {
				t.Fatalf("torn %q: %d bytes in reserve: %v", torn, l.Status().Reserve, err)
			}
			mustWrite(t, l, lookup("r2"))
			mustClose(t, l)
		}
		r := mustVerify(t, c.Path)
		if r.Lines != 8 || r.Tail != 0 { // one is the note of the cut
			t.Fatalf("%+v", r)
		}
		l = mustOpen(t, c)
		if n := writeUntilFull(t, l); n < (reserve-16<<10)/600 {
			t.Errorf("%d lines went into it", n)
		}
	})
}

func appendBytes(t testing.TB, path, b string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(b)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A disk that is full when the log is closed, opened, or made: each fails as full,
// leaves nothing half-made, and works when there is room.
func TestFullAtStartAndEnd(t *testing.T) {
	onDisks(t, func(t *testing.T, dir string) {
		release := fill(t, dir, 0)
		c := testConfig(filepath.Join(dir, "audit.log"))
		_, err := Open(t.Context(), c)
		wantFull(t, err)
		release()
		l := mustOpen(t, c)
		release = fill(t, dir, 0)
		writeUntilFull(t, l)
		err = l.Close()
		if l.signed {
			t.Fatal("there was room for the checkpoint")
		}
		wantFull(t, err)
		appendTorn(t, c.Path)
		_, err = Open(t.Context(), c)
		wantFull(t, err) // the note that lines were found unsigned
		release()
		mustClose(t, mustOpen(t, c))
		if r := mustVerify(t, c.Path); r.Tail != 0 || r.Adopted == 0 {
			t.Fatalf("%+v", r)
		}
	})
}

// appendTorn leaves a piece of a line in the last block, if there is room for one.
func appendTorn(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _ = f.WriteString(`{"seq":`)
}

// A new segment needs room for its own reserve before the old one's is given up:
// until then the old one goes on.
func TestNoRotationWhileLow(t *testing.T) {
	onDisks(t, func(t *testing.T, dir string) {
		c := testConfig(filepath.Join(dir, "audit.log"))
		c.Reserve, c.RotateSize = 256<<10, 32<<10
		l := mustOpen(t, c)
		release := fill(t, dir, 128<<10)
		for range 200 {
			mustWrite(t, l, lookup("r"))
		}
		if s := l.Status(); s.Segment != 1 || s.Reserve == 0 {
			t.Fatalf("on a full disk it is in segment %d, %d bytes in reserve", s.Segment, s.Reserve)
		}
		if _, err := os.Stat(c.Path + newSuffix); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the segment that found no room is still there: %v", err)
		}
		writeUntilFull(t, l)
		release()
		release = fill(t, dir, 128<<10)
		l.mu.Lock()
		l.reserve.tried = time.Now().Add(time.Hour)
		l.mu.Unlock()
		for range 100 {
			mustWrite(t, l, lookup("r"))
		}
		if s := l.Status(); s.Segment != 1 {
			t.Fatalf("nothing is in reserve, and it is in segment %d", s.Segment)
		}
		release()
		l.reserve.tried = time.Time{}
		for range 200 {
			retryNow(l)
			mustWrite(t, l, lookup("r"))
		}
		if s := l.Status(); s.Segment == 1 || s.Reserve < c.Reserve {
			t.Errorf("there is room, and it is in segment %d, %d bytes in reserve", s.Segment, s.Reserve)
		}
		mustClose(t, l)
		mustVerify(t, c.Path)
		st, err := os.Stat(segmentPath(c.Path, 1))
		if err != nil || st.Sys().(*syscall.Stat_t).Blocks*512 > st.Size()+2*blockSize {
			t.Errorf("a closed segment keeps a reserve: %v", err)
		}
	})
}

// A store that was accepted starts a new incarnation, also on a full disk: in the
// blocks that the old segment had in reserve.
func TestNewIncarnationOnAFullDisk(t *testing.T) {
	onDisks(t, func(t *testing.T, dir string) {
		l, c := reserved(t, dir, 256<<10)
		mustClose(t, l)
		release := fill(t, dir, 0)
		c.Incarnation = 2
		l = mustOpen(t, c)
		if s := l.Status(); s.Segment != 2 || s.Reserve < c.Reserve/2 {
			t.Errorf("segment %d, %d bytes in reserve", s.Segment, s.Reserve)
		}
		mustWrite(t, l, lookup("r"))
		release()
		mustClose(t, l)
		mustVerify(t, c.Path)
	})
}

// ext2 has no fallocate(2): then Low is what statfs(2) says.
func TestNothingCanBeAllocatedAhead(t *testing.T) {
	dir := image(t, 8<<20, "-O", "^has_journal,^extents,^64bit")
	l, c := reserved(t, dir, 256<<10)
	if s := l.Status(); s.Reserve != 0 || l.Low() != nil || !l.reserve.bare {
		t.Fatalf("%d bytes in reserve, %v", s.Reserve, l.Low())
	}
	release := fill(t, dir, 128<<10)
	retryNow(l)
	wantFull(t, l.Low())
	mustWrite(t, l, lookup("r"))
	release()
	retryNow(l)
	if err := l.Low(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	mustVerify(t, c.Path)
}

// A file system that became read-only while the log was open: Low says so, until a
// line can be written.
func TestTurnsReadOnly(t *testing.T) {
	dir := image(t, 8<<20)
	command(t, "mount", "-o", "remount,errors=remount-ro", dir)
	l, _ := reserved(t, dir, 64<<10)
	mustWrite(t, l, lookup("r1"))
	if err := l.Low(); err != nil {
		t.Fatal(err)
	}
	device := filepath.Base(strings.TrimSpace(command(t, "findmnt", "-n", "-o", "SOURCE", dir)))
	if err := os.WriteFile("/sys/fs/ext4/"+device+"/trigger_fs_error", []byte("a test"), 0); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(lookup("r2")); !errors.Is(err, syscall.EROFS) {
		t.Fatal(err)
	}
	if err := l.Low(); !errors.Is(err, syscall.EROFS) {
		t.Errorf("low: %v", err)
	}
	_ = l.Close() // its last checkpoint has no place
}

func TestReadOnly(t *testing.T) {
	dir := tmpfs(t, "1024")
	l, c := reserved(t, dir, 64<<10)
	mustWrite(t, l, lookup("r1"))
	mustClose(t, l)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), c)
	if !errors.Is(err, syscall.EROFS) || errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	mustVerify(t, c.Path)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	mustClose(t, mustOpen(t, c))
}

// A device that is gone (EXT4_IOC_SHUTDOWN stops the file system as a failing disk
// does): what is written fails, and with the first sync the log is broken.
func TestDeviceGone(t *testing.T) {
	dir := image(t, 8<<20)
	l, _ := reserved(t, dir, 64<<10)
	mustWrite(t, l, lookup("r1"))
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.IoctlSetPointerInt(int(d.Fd()), 0x8004587d, 2); err != nil { // EXT4_IOC_SHUTDOWN, NOLOGFLUSH
		t.Fatal(err)
	}
	err = l.Write(lookup("r2"))
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.EIO) || errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	err = l.syncTo(t.Context(), l.Status().Sequence)
	if !errors.Is(err, ErrBroken) || !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	wantBroken(t, l)
}

// What was half written and cannot be cut off must not get anything behind it.
func TestCutFails(t *testing.T) {
	dir := tmpfs(t, "256")
	l, c := reserved(t, dir, 0)
	writeUntilFull(t, l)
	appendTorn(t, c.Path)
	ro, err := os.Open(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	f := l.f
	defer f.Close()
	l.f = ro // neither takes a line nor can be cut
	if err := l.Write(lookup("r")); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
	wantBroken(t, l)
}

// figure: how many lookups are recorded on a full disk.
func TestLinesInAReserve(t *testing.T) {
	for _, mib := range []int64{1, 64} {
		dir := tmpfs(t, "81920")
		l, _ := reserved(t, dir, mib<<20)
		fill(t, dir, 0)
		n := writeUntilFull(t, l)
		t.Logf("figure: a reserve of %d MiB holds %d lines of a lookup", mib, n)
		if n < int(mib<<20)/600 {
			t.Errorf("%d lines in %d MiB", n, mib)
		}
	}
}
