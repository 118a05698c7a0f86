package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// FollowConfig says what is followed.
type FollowConfig struct {
	Path string // required; of the active segment
	Last int    // so many events that are there already come first; of the active segment alone
	// Every is how often the file is looked at. Default 200 ms.
	Every time.Duration
}

// Follow calls each with the last events of the log and then with every one that is
// written, over rotations and restarts of the daemon, until ctx ends (nil), each
// returns [ErrStop] (nil), or something is wrong. Like [Walk] it proves nothing. A
// log that is not there yet is waited for; a line counts once it is whole.
func Follow(ctx context.Context, c FollowConfig, each func(Line) error) error {
	if c.Every <= 0 {
		c.Every = 200 * time.Millisecond
	}
	f := follower{FollowConfig: c, walker: walker{WalkConfig: WalkConfig{Path: c.Path}, ctx: ctx, each: each}}
	defer f.close()
	for {
		err := f.step()
		switch {
		case errors.Is(err, ErrStop):
			return nil
		case f.walker.theirs:
			return err
		case err != nil:
			return fmt.Errorf("follow the audit log: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Every):
		}
	}
}

type follower struct {
	FollowConfig
	walker walker
	f      *os.File // the segment that is read; nil: none yet
	at     int64    // where its next line begins
}

func (f *follower) close() {
	if f.f != nil {
		_ = f.f.Close()
	}
}

// step reads all there is now, also of segments that were closed meanwhile.
func (f *follower) step() error {
	if f.f == nil {
		if err := f.begin(); err != nil || f.f == nil {
			return err
		}
	}
	for {
		active, err := f.active()
		if err == nil {
			err = f.read(f.walker.one)
		}
		if err != nil || active {
			return err
		}
		more, err := f.next()
		if err != nil || !more {
			return err
		}
	}
}

// active reports whether the segment is still the one that is written. It is asked
// before the segment is read: what is closed by then gets no further line.
func (f *follower) active() (bool, error) {
	here, err := f.f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // between two segments
	}
	return err == nil && os.SameFile(here, there), err
}

// begin opens the active segment where its last events begin.
func (f *follower) begin() error {
	file, n, err := openFollowed(f.Path)
	if err != nil || file == nil {
		return err
	}
	f.f, f.walker.line.Segment = file, n
	var starts []int64
	err = f.read(func(line []byte) error {
		if r, err := parseLine(line); err == nil && r.kind != kindSegment && r.kind != kindCheckpoint {
			starts = append(starts, f.at)
			starts = starts[max(0, len(starts)-f.Last):]
		}
		return nil
	})
	if len(starts) > 0 {
		f.at = starts[0]
	}
	return err
}

// openFollowed opens a file and reads its number; nil without an error: it is not there
// yet, or its header is not.
func openFollowed(path string) (*os.File, uint64, error) {
	file, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	r, err := firstRecord(file)
	if err == nil {
		return file, r.header.segment, nil
	}
	_ = file.Close()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, 0, nil
	}
	return nil, 0, fmt.Errorf("%s:1: %w", path, err)
}

// read hands over every whole line from f.at on.
func (f *follower) read(each func(line []byte) error) error {
	in := newLines(io.NewSectionReader(f.f, f.at, 1<<62))
	for {
		err := in.next()
		if err == io.EOF || err == io.ErrUnexpectedEOF { // the rest is being written
			return nil
		}
		if err == nil && f.walker.ctx.Err() != nil {
			return ErrStop
		}
		if err == nil {
			err = each(in.line)
		}
		if err != nil {
			return err
		}
		f.at += int64(len(in.line))
	}
}

// next goes on to the segment after this one: closed meanwhile, too, or active.
func (f *follower) next() (bool, error) {
	want := f.walker.line.Segment + 1
	file, n, err := openFollowed(segmentPath(f.Path, want))
	if err == nil && file == nil {
		file, n, err = openFollowed(f.Path)
	}
	if err != nil || file == nil {
		return false, err
	}
	if n < want { // it was opened just before it was closed
		return false, file.Close()
	}
	if n > want {
		return false, errors.Join(fmt.Errorf("segment %d was taken away before it was read", want), file.Close())
	}
	f.close()
	f.f, f.at, f.walker.line.Segment = file, 0, n
	return true, nil
}
