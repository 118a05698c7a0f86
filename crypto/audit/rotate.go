package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// newSuffix is behind the name of a segment that is being made.
const newSuffix = ".new"

// tryRotate starts the next segment. When that fails, the active one simply goes
// on, and it is tried again after a sixteenth of the size; so it does while the disk
// has no room for a second reserve. The caller holds mu.
func (l *Log) tryRotate() {
	if again, _ := l.group.unsynced(); again {
		return // the old segment has to be on the disk first
	}
	if err := l.rotate(l.incarnation); err != nil {
		l.rotateAt = l.size + l.rotateSize/16
		l.logger.Error("audit log: no new segment", "path", l.path, "error", err)
	}
}

// rotate ends the active segment with a checkpoint and puts a new one in its
// place. There is always a file at the path: the new segment is made beside it,
// header and all, the old one gets its number as a second name, and then the new
// one is renamed over the first. The caller holds mu.
func (l *Log) rotate(incarnation uint64) error {
	if err := l.checkpoint(); err != nil {
		return err
	}
	next := segment{incarnation: incarnation, number: l.segment + 1}
	if err := l.makeSegment(&next); err != nil {
		return fmt.Errorf("make segment %d: %w", next.number, err)
	}
	err := l.syncFile(l.f)
	l.group.finish(l.mark(), err)
	if err == nil {
		err = l.exchange()
	}
	if err != nil {
		return errors.Join(err, next.f.Close(), os.Remove(l.path+newSuffix))
	}
	old, size := l.f, l.size
	l.enter(next) // commit point: the new segment has the name
	err = syncDir(l.path)
	l.group.finish(l.mark(), err)
	_ = old.Truncate(size) // gives back what was in reserve; no harm if it stays
	return errors.Join(err, old.Close())
}

// segment is one that was just made.
type segment struct {
	f                   *os.File
	incarnation, number uint64
	size                int64
	head                [32]byte
	line                []byte // the header; in the buffer of the log
	reserve             reserve
}

// makeSegment writes and syncs a file with a header that continues the chain.
func (l *Log) makeSegment(s *segment) (err error) {
	path := l.path + newSuffix
	if s.f, err = create(path); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.f.Close(), os.Remove(path))
		}
	}()
	if err := lock(s.f); err != nil {
		return err
	}
	if err := s.provide(l.reserve, l.size); err != nil {
		return err
	}
	b := appendStart(l.buf[:0], l.seq+1, l.now(), kindSegment)
	b, s.head = seal(appendHeader(b, l.header(s.incarnation, s.number)), l.head)
	l.buf, s.line, s.size = b, b, int64(len(b))
	if _, err := s.f.Write(b); err != nil {
		return err
	}
	return l.syncFile(s.f)
}

// provide allocates the reserve, which must not be smaller than what is left of the
// old one in a segment of that size.
func (s *segment) provide(old reserve, size int64) error {
	s.reserve = reserve{want: old.want, bare: old.bare}
	if s.reserve.want == 0 {
		return nil
	}
	err := s.reserve.fill(s.f, 0)
	if s.reserve.left(0) < min(old.want, old.left(size)) {
		return err
	}
	s.reserve.low = err
	return nil
}

func (l *Log) header(incarnation, number uint64) header {
	return header{
		instance: l.instance, incarnation: incarnation, segment: number,
		previous: l.head, publicKey: l.publicKey,
	}
}

// exchange names the active segment by its number, and the new one as active.
// Link refuses to replace a file.
func (l *Log) exchange() error {
	closed := segmentPath(l.path, l.segment)
	if err := os.Link(l.path, closed); err != nil {
		return err
	}
	if err := os.Rename(l.path+newSuffix, l.path); err != nil {
		return errors.Join(err, os.Remove(closed))
	}
	return nil
}

// enter goes on in a segment that was just made. The caller holds mu.
func (l *Log) enter(s segment) {
	l.f, l.size, l.dirty = s.f, s.size, false
	l.segment, l.incarnation = s.number, s.incarnation
	l.seq++
	l.head = s.head
	l.mirror.add(s.line)
	l.rotateAt, l.reserve = l.rotateSize, s.reserve
	l.unsigned()
}

// unsigned notes that there are lines to sign. The caller holds mu.
func (l *Log) unsigned() {
	l.signed = false
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// finishRotation clears up after a rotation that was interrupted: the segment
// that was being made was never used, and the active one has its number as a
// second name at most.
func (l *Log) finishRotation(number uint64) error {
	if err := os.Remove(l.path + newSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	closed := segmentPath(l.path, number)
	st, err := os.Lstat(closed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	active, err := l.f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(st, active) {
		return fmt.Errorf("%s is there, and the active segment has the same number", closed)
	}
	return os.Remove(closed)
}
