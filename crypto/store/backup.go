package store

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
)

// A backup, version 1: one store at one moment, as one stream of bytes, whatever
// driver it came from. All numbers are big-endian.
//
//	bytes  what
//	    4  magic, "TVBK"
//	    1  format version, 0x01
//	    8  when it was made: seconds since 1970 in UTC
//	    8  position of the store, as its driver counted
//	    8  last arrival number that was given
//	    4  length of the keyring's blob, then the blob (see package keyring)
//	then each row, table by table in this order, by ascending key:
//	    1  table: 1 users, 2 index, 3 sessions, 4 intents, 5 marks
//	   32  key
//	    8  revision, ≥ 1
//	    4  length of the value, then the value: as in the store (see format.go)
//	then once:
//	    1  0x00
//	   40  how many rows each table has, 8 bytes each, in the same order
//	   32  sum: SHA-256 over all bytes before it
//	   32  HMAC-SHA256 over the sum, under the keyring's key for "backup"
//
// Nothing follows. No key stands twice, and so a store at a moment has one
// encoding: whatever is read writes the same bytes.
//
// The rows are sealed or blind as they are in the store, and the keys among them
// are wrapped: a backup shows what a stolen store shows, and opens only with the
// Transit key. The sum finds accidents without Vault. The HMAC proves that the
// whole of it was written by a holder of this store's keys: rows of two backups
// cannot be mixed, and none left out. Its key comes from the index key, which
// never changes in the life of a store.
const (
	backupMagic   = "TVBK"
	backupVersion = 0x01
	backupEnd     = 0x00

	rowHeadSize = 1 + 32 + 8 + 4
	sumSize     = sha256.Size

	// maxValue is the most that a row's value can have: both boxes of a user.
	maxValue = 1 + 2*(4+seal.MaxPlaintext+seal.Overhead)
)

// backupTables are in the order of their numbers in a backup, from 1.
var backupTables = [...]Table{Users, Index, Sessions, Intents, Marks}

// macPurpose names the HMAC key to the keyring.
const macPurpose = "backup"

// ErrBackup is matched when a stream is not a whole and unaltered backup of a
// format that is known here. Asking again does not help.
var ErrBackup = errors.New("not a whole and unaltered backup")

// Backup says what a backup is of.
type Backup struct {
	StoreID     string // in hex
	Incarnation uint64 // of the store that it was made of
	Generation  uint64 // of its keyring
	Position    uint64 // of the store, as its driver counted
	MadeAt      time.Time
	Rows        map[string]int // by table name
	Bytes       int64          // length of the backup
}

// Backup writes the store as it is at one moment between call and return, while
// exchanges go on; memory is constant. What was acknowledged before the call is
// in it. It looks into no box: [ReadBackup] does.
//
// Until w has taken all of it the driver cannot use again the room of what is
// removed or replaced meanwhile, so w should not be slow; ctx ends it, and so does
// a disk that fills (ErrFull). An error of w is returned without a kind. Whoever
// reads a stream that was cut off finds out.
func (s *Store) Backup(ctx context.Context, w io.Writer) (Backup, error) {
	if err := s.enter(); err != nil {
		return Backup{}, err
	}
	defer s.inUse.RUnlock()
	out := newBackupWriter(w)
	var b Backup
	err := s.driver.Snapshot(ctx, func(snap Snapshot) (err error) {
		b, err = s.backUp(ctx, out, snap)
		return err
	})
	switch {
	case out.sink.err != nil:
		return Backup{}, fmt.Errorf("write a backup: %w", out.sink.err)
	case err != nil:
		return Backup{}, unavailable("back up the store", err)
	}
	return b, nil
}

func (s *Store) backUp(ctx context.Context, out *backupWriter, snap Snapshot) (Backup, error) {
	blob, _ := snap.Keyring()
	b, err := describe(ctx, blob)
	if err != nil {
		return Backup{}, err
	}
	b.MadeAt, b.Position = s.seconds(), snap.Position()
	out.header(b, snap.Arrival(), blob)
	for i, t := range backupTables {
		err := snap.Rows(t, func(row Row) error {
			out.row(byte(i+1), row)
			b.Rows[t.String()]++
			return errors.Join(out.err(), ctx.Err())
		})
		if err != nil {
			return Backup{}, fmt.Errorf("copy %s: %w", t, err)
		}
	}
	mac := s.keys.MAC(macPurpose)
	defer mac.Wipe()
	out.end(b, func(sum []byte) [sumSize]byte { return mac.Sum(sum) })
	b.Bytes = out.sink.n
	return b, out.err()
}

// describe is what the keyring's blob of a backup says about it, without proof.
func describe(ctx context.Context, blob []byte) (Backup, error) {
	info, err := keyring.Peek(ctx, &heldBlob{blob: blob, version: 1})
	if err != nil {
		return Backup{}, err
	}
	b := Backup{StoreID: info.StoreID.String(), Incarnation: info.Incarnation, Generation: info.Generation, Rows: make(map[string]int, len(Tables))}
	for _, t := range Tables {
		b.Rows[t.String()] = 0
	}
	return b, nil
}

// backupWriter encodes. The first error of the writer beneath is kept, and
// nothing is written after it.
type backupWriter struct {
	buf  *bufio.Writer
	sink *sink
	sum  hash.Hash
}

// sink counts, and keeps the error apart from those of the store.
type sink struct {
	w   io.Writer
	n   int64
	err error
}

func (s *sink) Write(b []byte) (n int, err error) {
	n, s.err = s.w.Write(b)
	s.n += int64(n)
	return n, s.err
}

func newBackupWriter(w io.Writer) *backupWriter {
	out := &backupWriter{sink: &sink{w: w}, sum: sha256.New()}
	out.buf = bufio.NewWriterSize(io.MultiWriter(out.sink, out.sum), 64<<10)
	return out
}

// err is nil as long as everything was taken. bufio keeps it.
func (o *backupWriter) err() error {
	_, err := o.buf.Write(nil)
	return err
}

func (o *backupWriter) header(b Backup, arrival uint64, blob []byte) {
	head := append([]byte(backupMagic), backupVersion)
	head = append(head, seconds(b.MadeAt)...)
	head = binary.BigEndian.AppendUint64(head, b.Position)
	head = binary.BigEndian.AppendUint64(head, arrival)
	o.buf.Write(seal.AppendField(head, blob))
}

func (o *backupWriter) row(code byte, row Row) {
	head := append(o.buf.AvailableBuffer(), code)
	head = append(head, row.Key[:]...)
	head = binary.BigEndian.AppendUint64(head, row.Revision)
	head = binary.BigEndian.AppendUint32(head, uint32(len(row.Value)))
	o.buf.Write(head)
	o.buf.Write(row.Value)
}

func (o *backupWriter) end(b Backup, mac func(sum []byte) [sumSize]byte) {
	tail := []byte{backupEnd}
	for _, t := range backupTables {
		tail = binary.BigEndian.AppendUint64(tail, uint64(b.Rows[t.String()]))
	}
	o.buf.Write(tail)
	o.buf.Flush()
	sum := o.sum.Sum(nil)
	proof := mac(sum)
	o.buf.Write(sum)
	o.buf.Write(proof[:])
	o.buf.Flush()
}

// authentic checks the end of a backup against the keys of its store.
func (e backupTail) authentic(keys *keyring.Keyring) error {
	mac := keys.MAC(macPurpose)
	defer mac.Wipe()
	if want := mac.Sum(e.sum[:]); !hmac.Equal(want[:], e.mac[:]) {
		return fmt.Errorf("%w: its HMAC does not match", ErrBackup)
	}
	return nil
}
