package store

import (
	"context"
	"crypto/sha256"
	"io"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// Kept gives the tests what a write sees of the tokens that it seals anew.
func (s *Store) Kept(ctx context.Context, app user.ClientID, human user.HumanID, use func(user.Private)) error {
	row, err := s.known(ctx, app, human)
	if err != nil {
		return err
	}
	return s.kept(ctx, row, use)
}

// OpenArchive gives the tests a backup as a driver that remembers few places.
func OpenArchive(ctx context.Context, r io.ReaderAt, most int, stride int64) (Driver, error) {
	a := newArchive(r)
	a.most, a.stride = most, stride
	_, err := a.load(ctx)
	return a, err
}

// Resum writes the sum that an altered backup must have to get as far as its HMAC.
func Resum(backup []byte) {
	if body := len(backup) - 2*sumSize; body >= 0 {
		sum := sha256.Sum256(backup[:body])
		copy(backup[body:], sum[:])
	}
}

// Reencode reads a backup and writes it again. Its HMAC is copied.
func Reencode(ctx context.Context, r io.Reader, w io.Writer) error {
	in := newBackupReader(r)
	b, arrival, blob, err := in.header(ctx)
	if err != nil {
		return err
	}
	out := newBackupWriter(w)
	out.header(b, arrival, blob)
	for {
		h, value, ok, err := in.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		out.row(h.code, Row{Key: h.key, Revision: h.revision, Value: value})
	}
	tail, err := in.end(&b)
	if err != nil {
		return err
	}
	out.end(b, func([]byte) [sumSize]byte { return tail.mac })
	return out.err()
}
