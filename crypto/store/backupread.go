package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/tokenvault/tokenvault/crypto/keyring"
)

// backupReader decodes a backup from its first byte to its last. It believes
// nothing: every length is bounded before anything is made for it.
type backupReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	n    int64 // bytes read
	at   int64 // where the last row began
	last rowHead
	rows [len(backupTables)]uint64
}

// rowHead is what stands before a value.
type rowHead struct {
	code     byte // 0: none
	key      [32]byte
	revision uint64
	size     int
}

// compare orders heads as they stand in a backup.
func (h rowHead) compare(code byte, key [32]byte) int {
	if h.code != code {
		return int(h.code) - int(code)
	}
	return bytes.Compare(h.key[:], key[:])
}

// parseRowHead refuses what no backup has.
func parseRowHead(b [rowHeadSize]byte) (rowHead, error) {
	h := rowHead{code: b[0], key: [32]byte(b[1:33]), revision: binary.BigEndian.Uint64(b[33:41])}
	size := binary.BigEndian.Uint32(b[41:45])
	switch {
	case h.code == backupEnd || int(h.code) > len(backupTables):
		return rowHead{}, malformed("there is no table %d", h.code)
	case h.revision == 0:
		return rowHead{}, malformed("a row without a revision")
	case uint64(size) > uint64(maxValue):
		return rowHead{}, malformed("a value of %d bytes", size)
	}
	h.size = int(size)
	return h, nil
}

// backupTail is what proves a backup.
type backupTail struct{ sum, mac [sumSize]byte }

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBackup, fmt.Sprintf(format, args...))
}

func newBackupReader(r io.Reader) *backupReader {
	return &backupReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
}

// fill reads len(b) bytes and adds them to the sum.
func (in *backupReader) fill(b []byte) error {
	n, err := io.ReadFull(in.r, b)
	in.n += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("it ends after %d bytes", in.n)
	}
	if err != nil {
		return fmt.Errorf("read a backup: %w", err)
	}
	in.sum.Write(b)
	return nil
}

// header reads what stands before the rows.
func (in *backupReader) header(ctx context.Context) (b Backup, arrival uint64, blob []byte, err error) {
	var head [len(backupMagic) + 1 + 8 + 8 + 8 + 4]byte
	if err := in.fill(head[:5]); err != nil {
		return b, 0, nil, err
	}
	if string(head[:4]) != backupMagic || head[4] != backupVersion {
		return b, 0, nil, malformed("it does not begin as one, or its format version is not known")
	}
	if err := in.fill(head[5:]); err != nil {
		return b, 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[29:])
	if size == 0 || size > keyring.MaxBlob {
		return b, 0, nil, malformed("a keyring of %d bytes", size)
	}
	blob = make([]byte, size)
	if err := in.fill(blob); err != nil {
		return b, 0, nil, err
	}
	if b, err = describe(ctx, blob); err != nil {
		return b, 0, nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	var r reader
	b.MadeAt = r.seconds("when it was made", head[5:13])
	if r.err != nil {
		return b, 0, nil, fmt.Errorf("%w: %w", ErrBackup, r.err)
	}
	b.Position = binary.BigEndian.Uint64(head[13:])
	return b, binary.BigEndian.Uint64(head[21:]), blob, nil
}

// next reads a row; ok is false where they end.
func (in *backupReader) next() (h rowHead, value []byte, ok bool, err error) {
	in.at = in.n
	var b [rowHeadSize]byte
	if err := in.fill(b[:1]); err != nil || b[0] == backupEnd {
		return h, nil, false, err
	}
	if err := in.fill(b[1:]); err != nil {
		return h, nil, false, err
	}
	if h, err = parseRowHead(b); err != nil {
		return h, nil, false, err
	}
	if in.last.compare(h.code, h.key) >= 0 {
		return h, nil, false, malformed("rows out of order")
	}
	in.last = h
	in.rows[h.code-1]++
	value = make([]byte, h.size)
	return h, value, true, in.fill(value)
}

// end reads what stands behind the rows, and completes b.
func (in *backupReader) end(b *Backup) (backupTail, error) {
	for i, t := range backupTables {
		var count [8]byte
		if err := in.fill(count[:]); err != nil {
			return backupTail{}, err
		}
		if binary.BigEndian.Uint64(count[:]) != in.rows[i] {
			return backupTail{}, malformed("it has not as many rows of %s as it says", t)
		}
		b.Rows[t.String()] = int(in.rows[i])
	}
	tail := backupTail{}
	want := [sumSize]byte(in.sum.Sum(nil))
	if err := errors.Join(in.fill(tail.sum[:]), in.fill(tail.mac[:])); err != nil {
		return backupTail{}, err
	}
	if tail.sum != want {
		return backupTail{}, malformed("its sum does not match")
	}
	if _, err := in.r.ReadByte(); err == nil {
		return backupTail{}, malformed("bytes after the end")
	} else if !errors.Is(err, io.EOF) {
		return backupTail{}, fmt.Errorf("read a backup: %w", err)
	}
	b.Bytes = in.n
	return tail, nil
}
