package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// holdsWindow is how much is searched at a time.
const holdsWindow = 1 << 20

// Holds reports whether the log whose active segment is at path has the line that p
// names, with that hash. It reads the segment of the line only, from its end, and
// needs no key: who knows the hash of a line knows all lines up to it. Whether what
// stands before it is still right is [Verify]'s job. The log may be in use. A log or
// segment that is not there does not hold it; the zero Position names nothing, and is
// held by every log. An error means that it could not be read.
func Holds(ctx context.Context, path string, p Position) (bool, error) {
	if p == (Position{}) {
		return true, nil
	}
	f, err := openSegment(path, p.Segment)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for line %d in the audit log: %w", p.Sequence, err)
	}
	defer f.Close()
	found, err := holds(ctx, f, p)
	if err != nil {
		return false, fmt.Errorf("look for line %d in the audit log: %w", p.Sequence, err)
	}
	return found, nil
}

// openSegment opens segment n under the name that it has now.
func openSegment(path string, n uint64) (*os.File, error) {
	f, err := openRegular(path)
	if err == nil {
		in := newLines(f)
		if in.next() == nil {
			if r, err := parseLine(in.line); err == nil && r.header.segment == n {
				return f, nil
			}
		}
		_ = f.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return openRegular(segmentPath(path, n)) // also one that was closed meanwhile
}

// holds searches the file backwards, window by window.
func holds(ctx context.Context, f *os.File, p Position) (bool, error) {
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	start := lineStart(p.Sequence)
	for to := st.Size(); to > 0; to = max(0, to-holdsWindow) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		from := max(0, to-holdsWindow-2*maxLine) // a line of this window may begin there
		b := make([]byte, to-from)
		if n, err := f.ReadAt(b, from); err == io.EOF {
			b = b[:n]
		} else if err != nil {
			return false, err
		}
		if inWindow(b, from == 0, start, p.Head) {
			return true, nil
		}
	}
	return false, nil
}

// lineStart is how the line with that number begins.
func lineStart(sequence uint64) []byte {
	return append(strconv.AppendUint([]byte(`{"seq":`), sequence, 10), ',')
}

// inWindow looks in b, which may begin and end within a line, for a line that begins
// with start and has the hash. No string in a line holds start: quotes are escaped.
func inWindow(b []byte, whole bool, start []byte, hash [32]byte) bool {
	if whole && bytes.HasPrefix(b, start) {
		if r, err := parseLine(firstLine(b)); err == nil && r.hash == hash && lineHash(r.header.previous, r.body) == hash {
			return true
		}
	}
	for at := 0; ; {
		i := bytes.Index(b[at:], start)
		if i < 0 {
			return false
		}
		at += i
		if isLine(b[:at], firstLine(b[at:]), hash) {
			return true
		}
		at += len(start)
	}
}

// isLine reports whether line, which stands behind before, has the hash.
func isLine(before, line []byte, hash [32]byte) bool {
	body, claimed, ok := splitHash(line)
	if !ok || claimed != hash || len(before) < hashLen {
		return false
	}
	_, previous, ok := splitHash(before[len(before)-hashLen:])
	return ok && lineHash(previous, body) == hash
}

// firstLine is b up to its first LF, or all of it.
func firstLine(b []byte) []byte {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i+1]
	}
	return b
}
