package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// VerifyConfig says which log is to be verified.
type VerifyConfig struct {
	Path string // required; of the active segment
	// PublicKey is the key that must have signed. Without it the log is checked
	// against the key that it names itself, and nothing is authentic.
	PublicKey ed25519.PublicKey
	// First is the number of the oldest segment that has to be there. Default 1;
	// another one says that older segments were taken away on purpose.
	First uint64
	// Anchor is a line that was noted elsewhere while it was durable ([Log.Durable]).
	// A log that does not have it was cut off, replaced, or put back to an older state.
	Anchor *Position
}

// Report is what Verify found.
//
// Lines up to AuthenticTo were written by whoever holds the key, in this order,
// except those in AdoptedRanges. The Tail after the last checkpoint is consistent
// only: anyone could have written or changed it, which is the normal state of a
// log in use for up to a second, and of one whose writer was killed. The next
// start goes on behind such a tail and so signs it, but says first that it was
// found unsigned: those lines are the adopted ones, and remain unproven.
//
// That lines were cut off at the end, in the tail or with their checkpoints, shows
// only against an Anchor: nothing up to CompleteTo is missing or was changed since
// that was noted, whoever wrote it, except what VerifyConfig.First leaves out.
type Report struct {
	// Consistent: every line is in the format and follows from the one before, and
	// every checkpoint is signed by the key. It is false exactly if Problem says
	// why.
	Consistent  bool
	Lines       uint64 // lines that were read and found right
	AuthenticTo uint64 // sequence number; 0 when no PublicKey was given, or nothing is signed
	CompleteTo  uint64 // sequence number of the Anchor; 0 without one, or when the log lacks it
	Adopted     uint64 // lines that a checkpoint covers, and that were there unsigned before
	// AdoptedRanges says which those are: the first 100 ranges.
	AdoptedRanges []Range
	Tail          uint64 // right lines after the last checkpoint
	Sequence      uint64 // of the last right line
	Head          [32]byte
	Torn          int // bytes of a last line without an end, which the next start will cut
	Segments      int // segments that were entered
	Instance      string
	Incarnation   uint64
	PublicKey     ed25519.PublicKey // given, or else named by the log

	// The first thing that is wrong, where Verify stopped. The text holds nothing
	// out of the log but numbers.
	Problem string
	File    string
	Line    int // in File, from 1; 0 when it is the file itself
}

// Range is a row of lines by their sequence numbers, both included.
type Range struct{ From, To uint64 }

// maxRanges bounds Report.AdoptedRanges.
const maxRanges = 100

// Verify reads the whole log once and says what can be said of it. It may be in
// use. What is wrong with the log is in the report; an error means that it could
// not be read.
func Verify(ctx context.Context, c VerifyConfig) (Report, error) {
	if c.PublicKey != nil && len(c.PublicKey) != ed25519.PublicKeySize {
		return Report{}, errors.New("verify the audit log: the public key has the wrong length")
	}
	v := verifier{ctx: ctx, path: c.Path, anchor: c.Anchor, chain: chain{key: c.PublicKey}}
	v.chain.unproven = v.adopted
	if c.First > 1 {
		v.chain.adopt = true
		v.chain.segment = c.First - 1
	}
	if err := v.walk(); err != nil {
		return Report{}, fmt.Errorf("verify the audit log: %w", err)
	}
	v.lacks()
	return v.finish(c.PublicKey != nil), nil
}

type verifier struct {
	ctx    context.Context
	path   string
	anchor *Position
	chain  chain
	report Report
	// What is active is settled at the start, so that a log may grow and rotate
	// meanwhile: the file, its size, and its number (0 when it does not say).
	active *os.File
	size   int64
	number uint64
}

// walk goes through the segments in order until the active one, or a problem.
func (v *verifier) walk() error {
	closed, err := closedSegments(v.path) // before the active one is opened
	if err != nil {
		return err
	}
	if err := v.openActive(); err != nil {
		return err
	}
	if v.active != nil {
		defer v.active.Close()
	}
	for v.report.Problem == "" {
		done, err := v.segment(v.chain.segment + 1)
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	v.strays(closed)
	return nil
}

// openActive leaves active nil when there is no such file.
func (v *verifier) openActive() error {
	f, err := openRegular(v.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	v.active = f
	st, err := f.Stat()
	if err != nil {
		return err
	}
	v.size = st.Size()
	in := newLines(io.NewSectionReader(f, 0, v.size))
	if in.next() == nil {
		if r, err := parseLine(in.line); err == nil {
			v.number = r.header.segment
		}
	}
	return nil
}

// segment reads segment n, and reports whether it was the active one.
func (v *verifier) segment(n uint64) (done bool, err error) {
	if v.number != n {
		f, err := openRegular(segmentPath(v.path, n))
		if err == nil {
			defer f.Close()
			return false, v.lines(f, f.Name(), false)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if v.active == nil || v.number > n {
			v.problem(segmentPath(v.path, n), 0, fmt.Sprintf("segment %d is missing", n))
			return false, nil
		}
	}
	return true, v.lines(io.NewSectionReader(v.active, 0, v.size), v.path, true)
}

// lines reads one file.
func (v *verifier) lines(r io.Reader, file string, active bool) error {
	v.report.Segments++
	in := newLines(r)
	for n := 1; ; n++ {
		if n%1024 == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		err := in.next()
		switch {
		case err == nil:
			err = v.chain.next(in.line, n == 1)
		case err == io.EOF && n > 1:
			return nil
		case err == io.ErrUnexpectedEOF && active && n > 1:
			v.report.Torn = len(in.line)
			return nil
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			err = errors.New("the line has no end")
		case !errors.Is(err, errTooLong):
			return err
		}
		if err == nil {
			err = v.anchored()
		}
		if err != nil {
			v.problem(file, n, err.Error())
			return nil
		}
		v.report.Lines++
	}
}

// anchored compares the line that was just read with the anchor.
func (v *verifier) anchored() error {
	c, a := &v.chain, v.anchor
	if a == nil || c.seq != a.Sequence {
		return nil
	}
	if c.segment != a.Segment || c.head != a.Head {
		return errors.New("the line is another one than the anchor names")
	}
	v.report.CompleteTo = c.seq
	return nil
}

// lacks notes that the whole log was read without the line that the anchor names.
func (v *verifier) lacks() {
	if a := v.anchor; a != nil && v.report.Problem == "" && v.report.CompleteTo != a.Sequence {
		v.problem(v.path, 0, fmt.Sprintf("the log ends at line %d without line %d of segment %d, which the anchor names", v.chain.seq, a.Sequence, a.Segment))
	}
}

// strays looks for closed segments with the active one's number or a higher one.
// Its own number may be its second name, when a rotation was interrupted.
func (v *verifier) strays(closed []uint64) {
	for _, n := range closed {
		if v.report.Problem != "" {
			return
		}
		if n > v.chain.segment || n == v.chain.segment && !v.isActive(segmentPath(v.path, n)) {
			v.problem(segmentPath(v.path, n), 0, fmt.Sprintf("closed segment %d is there, and segment %d is active", n, v.chain.segment))
		}
	}
}

func (v *verifier) isActive(path string) bool {
	x, err := v.active.Stat()
	if err != nil {
		return false
	}
	y, err := os.Stat(path)
	return err == nil && os.SameFile(x, y)
}

func (v *verifier) adopted(r Range) {
	v.report.Adopted += r.To - r.From + 1
	if len(v.report.AdoptedRanges) < maxRanges {
		v.report.AdoptedRanges = append(v.report.AdoptedRanges, r)
	}
}

func (v *verifier) problem(file string, line int, what string) {
	v.report.Problem, v.report.File, v.report.Line = what, file, line
}

func (v *verifier) finish(authentic bool) Report {
	r, c := v.report, &v.chain
	r.Consistent = r.Problem == ""
	r.Tail, r.Sequence, r.Head = c.tail, c.seq, c.head
	r.Instance, r.Incarnation, r.PublicKey = c.instance, c.incarnation, c.key
	if authentic {
		r.AuthenticTo = c.signed
	}
	return r
}

// openRegular opens a file for reading, and refuses what is not a regular one.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// segmentPath is where a closed segment is.
func segmentPath(path string, n uint64) string { return fmt.Sprintf("%s.%06d", path, n) }

// closedSegments returns the numbers in the names of closed segments.
func closedSegments(path string) ([]uint64, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		suffix, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(suffix, 10, 64)
		if err == nil && filepath.Base(segmentPath(path, n)) == e.Name() {
			numbers = append(numbers, n)
		}
	}
	return numbers, nil
}
