package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// rewrite writes the lines that are not known to be on the disk a second time, after
// a sync has found no room (network file systems allocate that late). The kernel may
// have marked their pages as written, and the next sync would then succeed without
// them (fsync(2), NOTES: errors are reported once). Pages that it has thrown away
// read as something else, and break the log. The caller holds mu.
func (l *Log) rewrite() error {
	again, from := l.group.unsynced()
	if !again {
		return nil
	}
	if from.Segment != l.segment { // all of the segment before is on the disk
		from.size = 0
	}
	lines := make([]byte, l.size-from.size)
	if _, err := l.f.ReadAt(lines, from.size); err != nil && err != io.EOF {
		return err
	}
	if err := l.follows(from, lines); err != nil {
		return err
	}
	if err := l.overwrite(lines, from.size); err != nil {
		return err
	}
	return syncDir(l.path) // a rotation may not have got there
}

// follows checks that lines lead from the line at from to the head.
func (l *Log) follows(from mark, lines []byte) error {
	c := chain{
		key: l.publicKey, instance: l.instance, incarnation: l.incarnation,
		segment: from.Segment, seq: from.Sequence, head: from.Head, isSigned: true,
	}
	first := from.size == 0
	if first {
		c.incarnation, c.segment = 0, l.segment-1
	}
	end, err := c.run(context.Background(), bytes.NewReader(lines), first)
	if err == nil && (end != int64(len(lines)) || c.head != l.head) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("lines that found no room are gone: %w", err)
	}
	return nil
}

// overwrite writes lines where they stand already. The log's own descriptor only
// appends.
func (l *Log) overwrite(lines []byte, at int64) (err error) {
	f, err := os.OpenFile(l.path, os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	x, err := l.f.Stat()
	if err != nil {
		return err
	}
	y, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(x, y) {
		return errors.New("another file has its name")
	}
	_, err = f.WriteAt(lines, at)
	return err
}
