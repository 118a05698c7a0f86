package audit

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	maxReserve = 1 << 40
	blockSize  = 4 << 10
	// The reserve is topped up in steps of an eighth of it within these bounds.
	minStep, maxStep = 64 << 10, 4 << 20
	// retryDelay is how long a disk that had no room is left alone.
	retryDelay = time.Second
)

// reserve is the blocks behind the end of the active segment.
type reserve struct {
	want  int64
	end   int64 // the file has its blocks up to this offset
	bare  bool  // the file system cannot allocate ahead: end is where to look next
	free  int64 // where it cannot: what was free at the last look
	low   error
	tried time.Time
}

// Low returns nil, or why the reserve cannot be kept: the disk is nearly full, which
// matches [ErrFull], or the file system refuses for another reason. Lines are then
// written out of what is left of it (Status.Reserve), and no segment is started,
// since a new one needs a reserve of its own before the old one's is given up. It
// looks again, at most once a second, whether there is room.
//
// Where the file system cannot allocate ahead (EOPNOTSUPP: NFS before 4.2, ext2, any
// system but Linux) nothing is held back, Status.Reserve is 0, and Low says only
// whether less than Config.Reserve is free.
//
// While the last line could not be written for any other reason (a file system that
// became read-only), Low says that, until one can.
func (l *Log) Low() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := &l.reserve; !l.closed && (r.low != nil || r.bare) && r.wait() <= 0 {
		l.retry()
	}
	if l.reserve.low == nil && !full(l.refused) {
		return l.refused
	}
	return l.reserve.low
}

// topUp sees to it that the reserve is whole. The caller holds mu.
func (l *Log) topUp() {
	r := &l.reserve
	if r.want == 0 || r.end-l.size >= r.want || r.low != nil && r.wait() > 0 {
		return
	}
	l.retry()
}

// retry is topUp without a pause after the last time. The caller holds mu.
func (l *Log) retry() {
	r, was := &l.reserve, l.reserve.low
	r.low = r.fill(l.f, l.size)
	switch {
	case r.low != nil && was == nil:
		l.logger.Warn("audit log: its reserve is not whole", "path", l.path, "left", r.left(l.size), "error", r.low)
	case r.low == nil && was != nil:
		l.logger.Info("audit log: its reserve is whole again", "path", l.path)
	}
}

func (r *reserve) wait() time.Duration { return retryDelay - time.Since(r.tried) }

// left is how much can still be written into blocks that are there.
func (r *reserve) left(size int64) int64 {
	if r.bare {
		return 0
	}
	return max(0, r.end-size)
}

// spare reports why an event that its caller gets for nothing is not written. The
// caller holds mu.
func (l *Log) spare() error {
	if l.closed || !l.reserve.scarce(l.size) {
		return nil
	}
	if l.topUp(); !l.reserve.scarce(l.size) {
		return nil
	}
	return fmt.Errorf("%w: %w: %w", ErrUnavailable, ErrSpared, l.reserve.low)
}

// scarce reports whether less than a third of the reserve is left, of which some was
// wanted.
func (r *reserve) scarce(size int64) bool {
	if r.want == 0 || !full(r.low) {
		return false
	}
	left := r.left(size)
	if r.bare {
		left = r.free
	}
	return left < r.want/3
}

// fill allocates what is missing, or as much as there is room for, and returns why
// the reserve is not whole.
func (r *reserve) fill(f *os.File, size int64) error {
	r.tried = time.Now()
	r.end = max(r.end, size)
	target := r.target(size)
	free, known := freeSpace(f)
	if r.bare {
		return r.look(size, free, known)
	}
	until := target
	if known { // on a full disk every vain try may wait for the file system's journal
		until = min(target, r.end+free)
	}
	err := r.take(f, until)
	if unsupported(err) {
		r.bare = true
		return r.look(size, free, known)
	}
	if r.end-size >= r.want {
		return nil
	}
	if err == nil {
		err = syscall.ENOSPC
	}
	return asFull(fmt.Errorf("%d of %d bytes are in reserve for the audit log: %w", r.end-size, r.want, err))
}

// look is fill where nothing can be allocated.
func (r *reserve) look(size, free int64, known bool) error {
	if known && free < r.want {
		r.end, r.free = size, free
		return asFull(fmt.Errorf("%d bytes are free, %d should be for the audit log: %w", free, r.want, syscall.ENOSPC))
	}
	r.end = r.target(size)
	return nil
}

func (r *reserve) target(size int64) int64 {
	step := min(max(r.want/8, minStep), maxStep)
	return (size + r.want + step + blockSize - 1) / blockSize * blockSize
}

// take allocates up to the offset until, in smaller and smaller pieces when there is
// no room. What is allocated already is never asked for again: tmpfs gives it back
// when it fails.
func (r *reserve) take(f *os.File, until int64) (err error) {
	for chunk := until - r.end; chunk > 0; {
		if err = allocate(f, r.end, chunk); err == nil {
			r.end += chunk
			chunk = min(chunk, until-r.end)
			continue
		}
		if !full(err) || chunk <= minStep {
			return err
		}
		chunk = chunk / 2 / blockSize * blockSize
	}
	return nil
}

// adopt finds the reserve that is with the file from before. Only the number of its
// blocks tells.
func (r *reserve) adopt(f *os.File, st os.FileInfo) {
	r.end = st.Size()
	sys, ok := st.Sys().(*syscall.Stat_t)
	if r.want == 0 || !ok {
		return
	}
	if there := min(sys.Blocks*512, r.target(r.end)); there > r.end {
		_ = r.take(f, there) // what is not there is asked for later
	}
}

// giveBack returns the blocks behind size to the file system. A file that keeps them
// is no worse for it.
func (r *reserve) giveBack(f *os.File, size int64) {
	if r.bare {
		return
	}
	_ = f.Truncate(size)
	r.end = size
}

// full reports whether there was no room.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// asFull adds ErrFull where it belongs.
func asFull(err error) error {
	if full(err) && !errors.Is(err, ErrFull) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
