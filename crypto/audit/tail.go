package audit

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// firstWindow is how far from the end the last checkpoint is looked for at first.
const firstWindow = 1 << 20

// leftover is what was found behind the last checkpoint.
type leftover struct {
	cut      int64  // bytes that were torn, and are cut off
	unsigned uint64 // whole lines
}

// readTail checks the lines from the last checkpoint on, sets where the log
// stands, and cuts off a torn end.
func (l *Log) readTail(ctx context.Context, h header, size int64) (leftover, error) {
	start, err := l.tailStart(size)
	if err != nil {
		return leftover{}, err
	}
	c := chain{key: l.publicKey, instance: l.instance, incarnation: h.incarnation, segment: h.segment, adopt: true}
	if start == 0 {
		c.segment--
	}
	end, err := c.run(ctx, io.NewSectionReader(l.f, start, size-start), start == 0)
	if err != nil {
		return leftover{}, fmt.Errorf("byte %d: %w", start+end, err)
	}
	l.segment, l.incarnation = h.segment, h.incarnation
	l.seq, l.head, l.signed = c.seq, c.head, c.isSigned
	l.size = start + end
	l.dirty = l.size < size
	return leftover{cut: size - l.size, unsigned: c.tail}, l.clean()
}

// tailStart returns the offset of the line before the last checkpoint, or 0.
// (No string in a line holds the bytes that are searched: quotes are escaped.)
func (l *Log) tailStart(size int64) (int64, error) {
	for window := int64(firstWindow); ; window *= 8 {
		base := max(0, size-window)
		b := make([]byte, size-base)
		if _, err := l.f.ReadAt(b, base); err != nil && err != io.EOF {
			return 0, err
		}
		whole := b[:bytes.LastIndexByte(b, '\n')+1]
		found := bytes.LastIndex(whole, []byte(`"kind":"checkpoint"`))
		line := bytes.LastIndexByte(whole[:max(0, found)], '\n')
		if before := bytes.LastIndexByte(whole[:max(0, line)], '\n'); before >= 0 {
			return base + int64(before) + 1, nil
		}
		if base == 0 {
			return 0, nil
		}
	}
}

// run checks lines until the end, or until a torn one, and returns how many bytes
// were right. A line that does not fit is an error unless it is torn: without LF,
// or with a zero byte in it, which only a block that was never written has.
func (c *chain) run(ctx context.Context, r io.Reader, first bool) (end int64, err error) {
	in := newLines(r)
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return end, ctx.Err()
		}
		if err = in.next(); err == io.EOF {
			return end, nil
		}
		if err == nil {
			err = c.next(in.line, first && n == 0)
		}
		switch {
		case err == nil:
			end += int64(len(in.line))
		case err == io.ErrUnexpectedEOF || bytes.IndexByte(in.line, 0) >= 0:
			return end, nil
		default:
			return end, err
		}
	}
}
