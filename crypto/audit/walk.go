package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Line is one event as it stands in the log.
type Line struct {
	Event
	Seq     uint64 // number in the whole log
	Segment uint64
	Time    time.Time
	Raw     []byte // the JSON object, LF excluded; valid until the callback returns
}

// WalkConfig says which lines are wanted. The zero values want all of them.
type WalkConfig struct {
	Path string // required; of the active segment
	// Since and Until bound the time: Since included, Until not.
	Since, Until time.Time
	RequestID    string   // only lines of this request
	Subjects     []string // only lines of one of these ([Log.Subject])
}

// ErrStop is what the callback of [Walk] returns to end it without an error.
var ErrStop = errors.New("the walk over the audit log was ended")

// Walk calls each with every event of the log that c wants, oldest first. The log
// may be in use: what is written after the call began is left out, and so is a torn
// end. Checkpoints and headers are no events.
//
// It proves nothing: hashes and signatures are [Verify]'s job. A line that is not in
// the format is an error with file and line, unless its time is not wanted: of such
// a line only number and time are looked at. Old segments that were taken away are
// not missed; one in the midst is. Errors of each are returned as they are.
//
// A segment is passed over when it began after Until, or when its last line is from
// before Since.
//
// BUG: where the clock was set back by more than a minute, lines near that moment can
// stand in a segment that is passed over; without Since and Until none is.
func Walk(ctx context.Context, c WalkConfig, each func(Line) error) error {
	w := walker{WalkConfig: c, ctx: ctx, each: each, wanted: c.needles()}
	err := w.walk()
	switch {
	case err == nil || errors.Is(err, ErrStop):
		return nil
	case w.theirs:
		return err
	}
	return fmt.Errorf("read the audit log: %w", err)
}

// clockSlack is how much earlier than the line before it a line may be without being
// passed over with its segment.
const clockSlack = time.Minute

type walker struct {
	WalkConfig
	ctx    context.Context
	each   func(Line) error
	wanted [][]byte // what every wanted line has one of; nil: nothing
	theirs bool     // the error is the callback's
	line   Line     // of the segment that is read
}

// needles are the fields that tell a wanted line. No string in a line holds one:
// quotes are escaped.
func (c *WalkConfig) needles() (all [][]byte) {
	for _, s := range c.Subjects {
		all = append(all, appendText(nil, "subject", s))
	}
	if c.RequestID != "" && c.Subjects == nil {
		all = append(all, appendText(nil, "requestId", c.RequestID))
	}
	return all
}

// walk goes through the segments. The active one is opened first, and read as far as
// it is now: every older one has its number then.
func (w *walker) walk() error {
	f, err := openRegular(w.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	active, err := firstRecord(f)
	if err != nil && st.Size() > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s:1: %w", w.Path, err)
	}
	if err := w.older(active.header.segment); err != nil {
		return err
	}
	if !w.Until.IsZero() && active.time.Add(-clockSlack).After(w.Until) {
		return nil
	}
	w.line.Segment = active.header.segment
	return w.lines(io.NewSectionReader(f, 0, st.Size()), w.Path, true)
}

// older goes through the closed segments before number active.
func (w *walker) older(active uint64) error {
	numbers, err := closedSegments(w.Path)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return nil
	}
	found := false
	for n := slices.Min(numbers); n < active; n++ {
		switch err := w.segment(n); {
		case err == nil:
			found = true
		case found || !errors.Is(err, fs.ErrNotExist): // the oldest may be taken away meanwhile
			return err
		}
	}
	return nil
}

// segment goes through closed segment n, unless no line in it is wanted.
func (w *walker) segment(n uint64) error {
	f, err := openRegular(segmentPath(w.Path, n))
	if err != nil {
		return err
	}
	defer f.Close()
	if !w.overlaps(f) {
		return nil
	}
	w.line.Segment = n
	return w.lines(f, f.Name(), false)
}

// overlaps reports whether a line of f can be wanted. What cannot be read can.
func (w *walker) overlaps(f *os.File) bool {
	if w.Since.IsZero() && w.Until.IsZero() {
		return true
	}
	first, err := firstRecord(f)
	if err != nil {
		return true
	}
	last, err := lastLine(f)
	if err != nil {
		return true
	}
	return !(!w.Since.IsZero() && last.time.Add(clockSlack).Before(w.Since) ||
		!w.Until.IsZero() && first.time.Add(-clockSlack).After(w.Until))
}

// firstRecord reads the header of a segment, wherever f stands.
func firstRecord(f *os.File) (record, error) {
	in := newLines(io.NewSectionReader(f, 0, maxLine))
	if err := in.next(); err != nil {
		return record{}, err
	}
	r, err := parseLine(in.line)
	if err == nil && r.kind != kindSegment {
		err = errFormat
	}
	return r, err
}

// lines goes through one file.
func (w *walker) lines(r io.Reader, file string, active bool) error {
	in := newLines(r)
	for n := 1; ; n++ {
		if n%1024 == 0 && w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		err := in.next()
		if err == nil {
			err = w.one(in.line)
		}
		switch {
		case err == nil:
		case w.theirs:
			return err
		case err == io.EOF:
			return nil
		case active && (err == io.ErrUnexpectedEOF || bytes.IndexByte(in.line, 0) >= 0): // what Open cuts off
			return nil
		default:
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
}

// one hands over one line, if it is wanted.
func (w *walker) one(line []byte) error {
	t, ok := lineTime(line)
	if !ok {
		return errFormat
	}
	if !w.Since.IsZero() && t.Before(w.Since) || !w.Until.IsZero() && !t.Before(w.Until) || !w.has(line) {
		return nil
	}
	r, err := parseLine(line)
	if err != nil {
		return err
	}
	if r.kind == kindSegment || r.kind == kindCheckpoint || w.RequestID != "" && r.event.RequestID != w.RequestID {
		return nil
	}
	w.line.Event, w.line.Seq, w.line.Time, w.line.Raw = r.event, r.seq, r.time, line[:len(line)-1]
	w.line.Kind = r.kind
	err = w.each(w.line)
	w.theirs = err != nil
	return err
}

func (w *walker) has(line []byte) bool {
	for _, needle := range w.wanted {
		if bytes.Contains(line, needle) {
			return true
		}
	}
	return len(w.wanted) == 0
}

// lineTime reads the time of a line without the rest of it.
func lineTime(line []byte) (time.Time, bool) {
	const before, field = `{"seq":`, `,"time":"`
	if len(line) > len(before)+20+len(field)+len(timeLayout) {
		line = line[:len(before)+20+len(field)+len(timeLayout)]
	}
	rest, ok := bytes.CutPrefix(line, []byte(before))
	at := bytes.Index(rest, []byte(field))
	if !ok || at < 0 || len(rest) < at+len(field)+len(timeLayout) {
		return time.Time{}, false
	}
	rest = rest[at+len(field):]
	t, err := time.Parse(timeLayout, string(rest[:len(timeLayout)]))
	return t, err == nil
}
