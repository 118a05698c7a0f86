package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

const (
	defaultRotateSize = 256 << 20
	minRotateSize     = 4 << 10
	maxInstance       = 255
	subjectKeySize    = 32

	// firstBytes begin every log.
	firstBytes = `{"seq":1,"time":"`
)

// Open opens the log at c.Path, or begins one, and goes on where it ends.
//
// Lines after the last checkpoint are kept, but nothing tells what a killed writer
// left there from what somebody else appended: before anything is signed, a note
// with outcome "unsigned" and their number says so, and [Verify] reports them as
// adopted. A last line without an end, and what follows a block that never reached
// the disk (it reads as zeros) after the last checkpoint, is cut off, and a note
// with outcome "cut" and the number of bytes is written. Any other line after the last
// checkpoint that does not fit, a log of another instance, key or later
// incarnation, and one that another process holds, are errors. What is before the
// last checkpoint is not read: that is [Verify]'s job. An error on a full disk
// matches [ErrFull]: the same call works when there is room.
func Open(ctx context.Context, c Config) (*Log, error) {
	l, err := c.log()
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	if err := l.open(ctx, c.Incarnation); err != nil {
		if l.f != nil {
			_ = l.f.Close()
		}
		return nil, fmt.Errorf("open the audit log %s: %w", c.Path, asFull(err))
	}
	l.done.Add(1)
	go l.checkpoints()
	l.mirror.start(c.Mirror)
	return l, nil
}

// log checks c and fills in the defaults.
func (c Config) log() (*Log, error) {
	switch {
	case c.Path == "":
		return nil, errors.New("no path")
	case c.Instance == "" || len(c.Instance) > maxInstance:
		return nil, fmt.Errorf("the instance must have 1 to %d bytes", maxInstance)
	case c.Incarnation == 0:
		return nil, errors.New("no incarnation")
	case len(c.Signer) != ed25519.PrivateKeySize:
		return nil, errors.New("the signer has the wrong length")
	case c.SubjectKey.Len() != subjectKeySize:
		return nil, fmt.Errorf("the subject key must have %d bytes", subjectKeySize)
	case c.RotateSize != 0 && c.RotateSize < minRotateSize:
		return nil, fmt.Errorf("the rotate size must be at least %d bytes", minRotateSize)
	case c.Reserve < 0 || c.Reserve > maxReserve:
		return nil, fmt.Errorf("the reserve must be 0 to %d bytes", int64(maxReserve))
	}
	l := &Log{
		path: c.Path, instance: c.Instance, rotateSize: c.RotateSize, now: c.Now, logger: c.Logger,
		publicKey: c.Signer.Public().(ed25519.PublicKey),
		sign:      func(message []byte) []byte { return ed25519.Sign(c.Signer, message) },
		subject:   secret.KeepMAC(c.SubjectKey),
		syncFile:  syncData,
		reserve:   reserve{want: c.Reserve},
		group:     group{broken: make(chan struct{})},
		wake:      make(chan struct{}, 1),
		stop:      make(chan struct{}),
	}
	if l.rotateSize == 0 {
		l.rotateSize = defaultRotateSize
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.logger == nil {
		l.logger = slog.New(slog.DiscardHandler)
	}
	if c.Mirror != nil {
		l.mirror = newMirror(l.path, l.logger)
	}
	l.rotateAt = l.rotateSize
	return l, nil
}

func (l *Log) open(ctx context.Context, incarnation uint64) error {
	if st, err := os.Stat(filepath.Dir(l.path)); err != nil {
		return err
	} else if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", filepath.Dir(l.path))
	}
	f, err := openActive(l.path)
	if err != nil {
		return err
	}
	l.f = f
	st, err := f.Stat()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserve.adopt(f, st)
	left, err := l.resume(ctx, st.Size(), incarnation)
	if err != nil {
		return err
	}
	if err := l.settle(left, incarnation); err != nil {
		return err
	}
	l.topUp()
	err = errors.Join(l.syncFile(l.f), syncDir(l.path))
	l.group.finish(l.mark(), err)
	return err
}

// settle records what was found behind the last checkpoint, and moves to a new
// incarnation. The caller holds mu.
func (l *Log) settle(left leftover, incarnation uint64) error {
	if left.unsigned > 0 {
		l.logger.Warn("audit log: its last lines were not signed", "path", l.path, "lines", left.unsigned)
		if err := l.note(outcomeUnsigned, int(left.unsigned)); err != nil {
			return err
		}
	}
	if left.cut > 0 {
		l.logger.Warn("audit log: a torn end was cut off", "path", l.path, "bytes", left.cut)
		if err := l.note(outcomeCut, int(left.cut)); err != nil {
			return err
		}
	}
	if incarnation > l.incarnation {
		return l.succeed(incarnation)
	}
	if !l.signed {
		l.unsigned()
	}
	return nil
}

// succeed starts the segment of a new incarnation. On a full disk the blocks that
// it needs are in the reserve of the old one. The caller holds mu.
func (l *Log) succeed(incarnation uint64) error {
	err := l.rotate(incarnation)
	if full(err) && l.reserve.left(l.size) > 0 {
		l.reserve.giveBack(l.f, l.size)
		err = l.rotate(incarnation)
	}
	return err
}

// note writes one of the log's own notes. The caller holds mu.
func (l *Log) note(outcome string, count int) error {
	l.signed = false
	b := appendStart(l.buf[:0], l.seq+1, l.now(), Note)
	return l.append(appendEvent(b, &Event{Outcome: outcome, Count: count}))
}

// resume finds where the chain ends, cuts off what is torn, and returns what was
// found behind the last checkpoint.
func (l *Log) resume(ctx context.Context, size int64, incarnation uint64) (leftover, error) {
	in := newLines(io.NewSectionReader(l.f, 0, size))
	switch err := in.next(); {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return l.begin(in.line, size, incarnation)
	case err != nil:
		return leftover{}, err
	}
	r, err := parseLine(in.line)
	if err != nil || r.kind != kindSegment {
		return leftover{}, errors.New("its first line is not the header of a segment")
	}
	h := r.header
	if h.incarnation > incarnation {
		return leftover{}, fmt.Errorf("it is of incarnation %d and the store of %d", h.incarnation, incarnation)
	}
	if err := l.continues(h); err != nil {
		return leftover{}, err
	}
	if err := l.finishRotation(h.segment); err != nil {
		return leftover{}, err
	}
	return l.readTail(ctx, h, size)
}

// begin writes the first header of a log. torn is what there is of one.
func (l *Log) begin(torn []byte, size int64, incarnation uint64) (leftover, error) {
	if want := []byte(firstBytes); !bytes.HasPrefix(torn, want[:min(len(want), len(torn))]) && len(bytes.Trim(torn, "\x00")) > 0 {
		return leftover{}, errors.New("it holds something else than an audit log")
	}
	closed, err := closedSegments(l.path)
	if err != nil {
		return leftover{}, err
	}
	if len(closed) > 0 {
		return leftover{}, fmt.Errorf("the active segment is missing, and there is %s", segmentPath(l.path, closed[0]))
	}
	if err := l.finishRotation(1); err != nil {
		return leftover{}, err
	}
	l.dirty = size > 0
	b := appendStart(l.buf[:0], 1, l.now(), kindSegment)
	if err := l.append(appendHeader(b, l.header(incarnation, 1))); err != nil {
		return leftover{}, err
	}
	l.segment, l.incarnation = 1, incarnation
	return leftover{cut: size}, nil
}

// continues checks that the segment before the active one ends in the hash that
// the header names. One that was taken away proves nothing either way.
func (l *Log) continues(h header) error {
	if h.segment == 1 {
		return nil
	}
	f, err := openRegular(segmentPath(l.path, h.segment-1))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := lastLine(f)
	if err != nil {
		return fmt.Errorf("last line of segment %d: %w", h.segment-1, err)
	}
	if r.hash != h.previous {
		return fmt.Errorf("the active segment does not continue segment %d", h.segment-1)
	}
	return nil
}
