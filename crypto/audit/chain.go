package audit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
)

// chain checks lines in order, and knows where the log stands after each.
type chain struct {
	key         ed25519.PublicKey // nil: the first header says it
	instance    string            // "": the first header says it
	incarnation uint64
	segment     uint64
	seq         uint64
	head        [32]byte
	// adopt takes number and hash of the next line as they are: the line before
	// it has not been read.
	adopt    bool
	signed   uint64 // every line up to here is under a valid signature
	isSigned bool   // the last line is a checkpoint
	tail     uint64 // lines since the last checkpoint
	// adopted is how many of those stand before a note that they were found
	// unsigned; unproven is told of them when a checkpoint covers them.
	adopted  uint64
	unproven func(Range)
}

// next checks one line, LF included. first says that it is the first of its file.
func (c *chain) next(line []byte, first bool) error {
	r, err := parseLine(line)
	if err != nil {
		return err
	}
	if first != (r.kind == kindSegment) {
		return errors.New("a segment begins with its header, which stands nowhere else")
	}
	if first {
		if err := c.enter(r); err != nil {
			return err
		}
	}
	if err := c.follow(r); err != nil {
		return err
	}
	if r.kind != kindCheckpoint {
		c.count(r)
	} else if err := c.verify(r); err != nil {
		return err
	}
	c.seq, c.head, c.adopt = r.seq, r.hash, false
	return nil
}

// count counts a line that nothing has signed yet.
func (c *chain) count(r record) {
	if r.kind == Note && r.event.Outcome == outcomeUnsigned {
		c.adopted = c.tail
	}
	c.isSigned = false
	c.tail++
}

// enter checks a header against what is known, and learns from it the rest.
func (c *chain) enter(r record) error {
	h := r.header
	if c.adopt {
		c.seq, c.head = r.seq-1, h.previous
	}
	if c.instance == "" {
		c.instance = h.instance
	}
	if c.key == nil {
		c.key = h.publicKey
	}
	switch {
	case h.instance != c.instance:
		return errors.New("the segment is of another instance")
	case !bytes.Equal(h.publicKey, c.key):
		return errors.New("the segment is of another key")
	case h.segment != c.segment+1:
		return fmt.Errorf("the segment has number %d and %d is expected", h.segment, c.segment+1)
	case h.incarnation < c.incarnation || h.incarnation == 0:
		return fmt.Errorf("the segment is of incarnation %d, after one of %d", h.incarnation, c.incarnation)
	case h.previous != c.head:
		return errors.New("the segment does not continue the one before it")
	case c.seq > 0 && !c.isSigned && !c.adopt:
		return errors.New("the segment before it does not end in a checkpoint")
	}
	c.segment, c.incarnation, c.adopt = h.segment, h.incarnation, false
	return nil
}

func (c *chain) follow(r record) error {
	if c.adopt {
		return nil
	}
	if r.seq != c.seq+1 {
		return fmt.Errorf("the line has number %d and %d is expected", r.seq, c.seq+1)
	}
	if lineHash(c.head, r.body) != r.hash {
		return errors.New("the hash does not fit the line and the one before it")
	}
	return nil
}

// verify checks a checkpoint. A first line that was adopted cannot be checked.
func (c *chain) verify(r record) error {
	if c.adopt {
		return nil
	}
	message := signedBytes(c.instance, c.incarnation, c.segment, c.seq, c.head)
	if !ed25519.Verify(c.key, message, r.signature) {
		return errors.New("the signature of the checkpoint is not by the key of the log")
	}
	if c.adopted > 0 && c.unproven != nil {
		first := c.seq - c.tail + 1
		c.unproven(Range{From: first, To: first + c.adopted - 1})
	}
	c.signed, c.tail, c.adopted, c.isSigned = c.seq, 0, 0, true
	return nil
}

// errTooLong is returned for a line that is longer than any in the format.
var errTooLong = fmt.Errorf("the line is longer than %d bytes", maxLine)

// lines reads lines one by one.
type lines struct {
	r    *bufio.Reader
	line []byte // the one last read, LF included unless it was torn
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, maxLine)} }

// next returns io.EOF at the end, and io.ErrUnexpectedEOF when the last line has
// no LF.
func (l *lines) next() (err error) {
	l.line, err = l.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return errTooLong
	case errors.Is(err, io.EOF) && len(l.line) > 0:
		return io.ErrUnexpectedEOF
	}
	return err
}
