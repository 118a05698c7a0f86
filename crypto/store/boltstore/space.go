package boltstore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// space keeps disk allocated to the file behind the pages that it uses. bbolt
// writes to pages that are free, which have their disk already, and then to those
// behind the last one in use, in order; and it lets the file be longer than what
// it uses. So the blocks that are allocated ahead are those that the next commits
// write to.
//
// The reserve is topped up by a step when it is no longer whole, so that a commit
// in some thousands pays for it; the next commit's own sync makes it last. A file
// system that cannot allocate ahead cannot promise anything: its free room is
// looked at instead.
type space struct {
	file    *os.File
	reserve int64 // bytes; 0: nothing is done
	now     func() time.Time
	logger  *slog.Logger

	// Of the writer alone:
	end  int64 // up to here, and behind what is used, the disk is the file's own
	bare bool  // the file system cannot allocate ahead

	mu     sync.Mutex
	left   int64     // under mu; bytes of the reserve
	low    error     // under mu; why the reserve is not whole
	looked time.Time // under mu; when the disk was asked last
}

const (
	// probeEvery is how often a disk that was full is asked whether it still is.
	probeEvery = time.Second
	leastStep  = 1 << 20
)

// step is how much more than the reserve is taken at once: an eighth of it.
func (s *space) step() int64 { return max(s.reserve/8, leastStep) }

// begin finds out what the file has already; used is where its content ends.
func (s *space) begin(used int64) {
	if s.reserve == 0 {
		return
	}
	s.end = used
	info, err := s.file.Stat()
	if err != nil {
		return // keep says why
	}
	has, err := allocated(s.file)
	if hole := info.Size() - has; err == nil && hole > 0 {
		if room, err := roomOf(s.file); err != nil || room < hole || allocate(s.file, 0, info.Size()) != nil {
			has = 0
		} else {
			has = info.Size()
		}
	}
	if err == nil && has >= info.Size() {
		s.end = max(used, info.Size())
	}
	s.keep(used)
}

// keep tops the reserve up, if it has to be and can be. The writer calls it before
// and after it commits.
func (s *space) keep(used int64) {
	if s.reserve == 0 {
		return
	}
	low, due := s.due()
	well := s.end-used >= s.reserve
	if s.bare || low != nil {
		well = !due // as far as is known
	}
	if well {
		s.set(used, low)
		return
	}
	err := s.extend(used)
	if err != nil {
		err = fmt.Errorf("%w: a reserve of %d bytes cannot be kept: %w", store.ErrFull, s.reserve, err)
	}
	s.mu.Lock()
	s.looked = s.now()
	s.mu.Unlock()
	s.set(used, err)
}

// extend brings the reserve to its size and a step more.
func (s *space) extend(used int64) error {
	if s.bare {
		return s.enough(s.reserve)
	}
	from, want := max(used, s.end), used+s.reserve+s.step()
	if want <= from {
		return nil
	}
	if err := s.enough(want - from); err != nil { // so that an attempt does not eat up the rest
		return err
	}
	err := allocate(s.file, from, want-from)
	if errors.Is(err, errors.ErrUnsupported) {
		s.bare = true
		s.logger.Warn("the file system cannot allocate disk ahead: the store has no reserve, and is careful instead")
		return s.enough(s.reserve)
	}
	if err == nil {
		s.end = want
	}
	return err
}

// enough is nil when the file system has that many bytes free, or does not say.
func (s *space) enough(n int64) error {
	room, err := roomOf(s.file)
	if errors.Is(err, errors.ErrUnsupported) || err == nil && room >= n {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%d bytes are free, and %d are needed: %w", room, n, syscall.ENOSPC)
	}
	return err
}

// fail is called after a commit failed because the disk took no more.
func (s *space) fail(err error) {
	if s.reserve == 0 {
		return
	}
	s.mu.Lock()
	s.looked = s.now()
	s.mu.Unlock()
	s.set(s.end, err)
}

// set publishes what was found, and logs when that is news.
func (s *space) set(used int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = max(s.end-used, 0)
	switch {
	case err != nil && s.low == nil:
		s.logger.Error("the disk is nearly full: nothing new is begun", "error", err, "reserve_bytes", s.left)
	case err == nil && s.low != nil:
		s.logger.Info("the disk has room again", "reserve_bytes", s.left)
	}
	s.low = err
}

// due reports what was found last, and whether it is time to ask the disk again.
func (s *space) due() (low error, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := s.now().Sub(s.looked)
	return s.low, s.looked.IsZero() || since >= probeEvery || since < 0
}

// short reports that less than half of the reserve is left, so that nothing may
// keep used up pages from being used again.
func (s *space) short() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.low != nil && s.left < s.reserve/2
}
