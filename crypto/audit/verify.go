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
}

// Report is what Verify found.
//
// Lines up to AuthenticTo were written by whoever holds the key, in this order.
// The Tail after the last checkpoint is consistent only: anyone could have
// written or changed it, which is the normal state of a log in use for up to a
// second, and of one whose writer was killed.
//
// That lines were cut off at the end, in the tail or with their checkpoints, does
// not show here, but by comparing Sequence and Head with what was noted elsewhere.
type Report struct {
	// Consistent: every line is in the format and follows from the one before, and
	// every checkpoint is signed by the key. It is false exactly if Problem says
	// why.
	Consistent  bool
	Lines       uint64 // lines that were read and found right
	AuthenticTo uint64 // sequence number; 0 when no PublicKey was given
	Tail        uint64 // right lines after the last checkpoint
	Sequence    uint64 // of the last right line
	Head        [32]byte
	Torn        int // bytes of a last line without an end, which the next start will cut
	Segments    int // segments that were entered
	Instance    string
	Incarnation uint64
	PublicKey   ed25519.PublicKey // given, or else named by the log

	// The first thing that is wrong, where Verify stopped. The text holds nothing
	// out of the log but numbers.
	Problem string
	File    string
	Line    int // in File, from 1; 0 when it is the file itself
}

// Verify reads the whole log once and says what can be said of it. It may be in
// use. What is wrong with the log is in the report; an error means that it could
// not be read.
func Verify(ctx context.Context, c VerifyConfig) (Report, error) {
	if c.PublicKey != nil && len(c.PublicKey) != ed25519.PublicKeySize {
		return Report{}, errors.New("verify the audit log: the public key has the wrong length")
	}
	v := verifier{ctx: ctx, path: c.Path, chain: chain{key: c.PublicKey}}
	if c.First > 1 {
		v.chain.adopt = true
		v.chain.segment = c.First - 1
	}
	if err := v.walk(); err != nil {
		return Report{}, fmt.Errorf("verify the audit log: %w", err)
	}
	return v.finish(c.PublicKey != nil), nil
}

type verifier struct {
	ctx    context.Context
	path   string
	chain  chain
	report Report
}

// walk goes through the segments in order until the active one, or a problem.
func (v *verifier) walk() error {
	for {
		want := v.chain.segment + 1
		f, active, err := openSegment(v.path, want)
		if errors.Is(err, fs.ErrNotExist) {
			v.problem(segmentPath(v.path, want), 0, fmt.Sprintf("segment %d is missing", want))
			return nil
		}
		if err != nil {
			return err
		}
		err = v.segment(f, active)
		_ = f.Close() // read only
		if err != nil || v.report.Problem != "" {
			return err
		}
		if active {
			return v.strays()
		}
	}
}

// segment reads one file.
func (v *verifier) segment(f *os.File, active bool) error {
	v.report.Segments++
	in := newLines(f)
	for n := 1; ; n++ {
		if n%1024 == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		err := in.next()
		switch {
		case err == io.EOF && n > 1:
			return nil
		case err == io.ErrUnexpectedEOF && active && n > 1:
			v.report.Torn = len(in.line)
			return nil
		case err == io.EOF || err == io.ErrUnexpectedEOF || errors.Is(err, errTooLong):
			v.problem(f.Name(), n, "the line is missing, without an end, or too long")
			return nil
		case err != nil:
			return err
		}
		if v.take(in.line, f.Name(), n); v.report.Problem != "" {
			return nil
		}
	}
}

func (v *verifier) take(line []byte, file string, n int) {
	if err := v.chain.next(line, n == 1); err != nil {
		v.problem(file, n, err.Error())
		return
	}
	v.report.Lines++
}

// strays looks for segments with a higher number than the active one.
func (v *verifier) strays() error {
	numbers, err := closedSegments(v.path)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n > v.chain.segment {
			v.problem(segmentPath(v.path, n), 0, fmt.Sprintf("a closed segment %d beyond the active segment %d", n, v.chain.segment))
			return nil
		}
	}
	return nil
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

// openSegment opens segment n, closed or active. The active file is opened first:
// should it be rotated away between the two calls, it is found by its number.
func openSegment(path string, n uint64) (f *os.File, active bool, err error) {
	a, aerr := openRegular(path)
	if aerr != nil && !errors.Is(aerr, fs.ErrNotExist) {
		return nil, false, aerr
	}
	c, err := openRegular(segmentPath(path, n))
	if errors.Is(err, fs.ErrNotExist) {
		return a, true, aerr
	}
	if a != nil && err == nil && sameFile(a, c) {
		_ = c.Close() // a rotation was interrupted: this one is active still
		return a, true, nil
	}
	if a != nil {
		_ = a.Close()
	}
	return c, false, err
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
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
