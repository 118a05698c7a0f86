// Package seal turns one plaintext into one envelope that opens only as what it
// is: this row, of this store, for this purpose, at this revision.
//
// NaCl secretbox has no associated data. So nothing is bound beside the box: it
// is bound below it, by a key that is derived from what the row is. A box that
// was moved, renamed, swapped or taken from an older revision is opened with
// another key, and does not open.
//
// It trusts the data key that it is handed and the random numbers of the
// kernel, and nothing in an envelope. It never does I/O, keeps no key but
// what a [Key] holds until it is wiped, leaves no copy of a data key behind, and its
// errors never name a content.
//
// # Envelope, version 1
//
//	offset  bytes  what
//	     0      2  magic, "TV"
//	     2      1  format version, 0x01
//	     3     16  id of the data key
//	    19      8  revision of the row, big-endian
//	    27     24  nonce, random
//	    51   16+n  NaCl secretbox of the plaintext's n bytes, 0 ≤ n ≤ 1 MiB
//
//	record key = HKDF-SHA256(secret = data key (32 bytes),
//	                         salt   = store id,
//	                         info   = enc("tokenvault/seal/1", key id, purpose, row id, revision),
//	                         32 bytes)
//	enc(f1, f2, …) = each field behind its big-endian uint32 length
//
// The revision counts as its 8 big-endian bytes. All fields have one encoding,
// and nothing may follow the box: an envelope is canonical, and a changed bit
// anywhere in it is refused (magic and version by name, key id and revision
// because they are part of the derivation, nonce and box by Poly1305).
//
// What an envelope shows to whoever reads the store: which data key, how often
// the row was written, and the length of the plaintext.
//
// BUG: the length is not padded. Who sees the store sees how long a user's
// clientUserId and tokens are together; a caller that must hide it pads the
// plaintext.
//
// BUG: secretbox keeps what it makes of a record key on the stack, where nothing can
// clear it before it is overwritten. It opens that one revision of that one row.
package seal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/crypto/nacl/secretbox"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// KeySize is the length of a data key in bytes.
const KeySize = 32

// MaxPlaintext is the most that fits into one envelope, in bytes: far above any
// record, and small enough to be held in memory many times over.
const MaxPlaintext = 1 << 20

// Overhead is how much longer than its plaintext an envelope is, in bytes.
const Overhead = headerSize + nonceSize + secretbox.Overhead

const (
	magic         = "TV"
	formatVersion = 0x01

	offKey      = len(magic) + 1
	offRevision = offKey + 16
	headerSize  = offRevision + 8
	nonceSize   = 24

	// The label of version 1's record keys. A new format version takes a new one.
	labelRecord = "tokenvault/seal/1"
)

// KeyID names a data key. It is random, and no secret.
type KeyID [16]byte

// RowID names a row. It is an HMAC, and says nothing about the user.
type RowID [32]byte

// StoreID names a store. It is random, and no secret.
type StoreID [16]byte

// String is the id in hex.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// String is the id in hex.
func (id RowID) String() string { return hex.EncodeToString(id[:]) }

// String is the id in hex.
func (id StoreID) String() string { return hex.EncodeToString(id[:]) }

// Purpose says what a box is for. The set is closed.
type Purpose string

const (
	Public  Purpose = "public"  // a user's ids, publicToken, state and times
	Private Purpose = "private" // a user's accessToken
	Intent  Purpose = "intent"  // an exchange that is under way
	Index   Purpose = "index"   // clientUserId → row ids
	Session Purpose = "session" // what a finished exchange leaves behind
)

func (p Purpose) known() bool {
	switch p {
	case Public, Private, Intent, Index, Session:
		return true
	}
	return false
}

// Binding is what a box is bound to. All of it must be the same on opening.
type Binding struct {
	Store    StoreID
	Purpose  Purpose
	Row      RowID
	Revision uint64
}

var (
	// ErrMalformed is returned when the bytes are no envelope of a known version.
	ErrMalformed = errors.New("not an envelope")
	// ErrTampered is returned when an envelope does not open as what the caller
	// says it is: altered, moved, of another revision, or under another key.
	ErrTampered = errors.New("envelope does not belong here or was altered")
)

// Enc joins fields so that no two lists of fields give the same bytes: each
// stands behind its big-endian uint32 length. Nothing is normalised.
func Enc(fields ...[]byte) []byte {
	size := 0
	for _, f := range fields {
		size += 4 + len(f)
	}
	out := make([]byte, 0, size)
	for _, f := range fields {
		out = AppendField(out, f)
	}
	return out
}

// AppendField adds one field as [Enc] does.
func AppendField[T ~string | ~[]byte](b []byte, field T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(field))), field...)
}

// Key is a data key of one store, prepared: what HKDF extracts from the two is the
// same for every record, and is done once. The zero Key opens nothing.
type Key struct {
	store     StoreID
	extracted secret.MAC
}

// NewKey prepares a data key, which the caller still owns, for a use that is over
// soon. It fails when the key is not [KeySize] long.
func NewKey(key secret.Text, store StoreID) (Key, error) {
	return newKey(key, store, secret.NewMAC)
}

// KeepKey is [NewKey] for long: what is made of the key is in the locked region, as
// [secret.Keep] does it.
func KeepKey(key secret.Text, store StoreID) (Key, error) {
	return newKey(key, store, secret.KeepMAC)
}

func newKey(key secret.Text, store StoreID, hold func(secret.Text) secret.MAC) (Key, error) {
	if key.Len() != KeySize {
		return Key{}, fmt.Errorf("a data key has %d bytes, not %d", KeySize, key.Len())
	}
	extracted := secret.Extract(key, store[:])
	defer extracted.Wipe()
	return Key{store: store, extracted: hold(extracted)}, nil
}

// Wipe clears k and all copies of it. Nothing may be opened with them meanwhile or
// afterwards.
func (k Key) Wipe() { k.extracted.Wipe() }

// Seal puts plaintext into a new envelope under the data key that id names. It
// fails only on what the caller got wrong: a key that is not [KeySize] long, a
// purpose that does not exist, more than [MaxPlaintext].
func Seal(key secret.Text, id KeyID, b Binding, plaintext []byte) ([]byte, error) {
	prepared, err := NewKey(key, b.Store)
	if err != nil {
		return nil, fmt.Errorf("seal box of row %s: %w", b.Row, err)
	}
	defer prepared.Wipe()
	return prepared.Seal(id, b, plaintext)
}

// Seal is the function [Seal] with a key that was prepared.
func (k Key) Seal(id KeyID, b Binding, plaintext []byte) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("seal %s box of row %s: %d bytes are more than %d", b.Purpose, b.Row, len(plaintext), MaxPlaintext)
	}
	var record [KeySize]byte
	defer clear(record[:])
	if err := k.record(&record, id, b); err != nil {
		return nil, fmt.Errorf("seal box of row %s: %w", b.Row, err)
	}
	var nonce [nonceSize]byte
	rand.Read(nonce[:]) // never fails: the program ends instead (crypto/rand)

	out := make([]byte, 0, Overhead+len(plaintext))
	out = append(out, magic...)
	out = append(out, formatVersion)
	out = append(out, id[:]...)
	out = binary.BigEndian.AppendUint64(out, b.Revision)
	out = append(out, nonce[:]...)
	return secretbox.Seal(out, plaintext, &nonce, &record), nil
}

// Open returns the plaintext of an envelope, which the caller owns. The error
// matches [ErrMalformed] or [ErrTampered], or says what is wrong with the key or
// the purpose.
func Open(key secret.Text, b Binding, envelope []byte) ([]byte, error) {
	prepared, err := NewKey(key, b.Store)
	if err != nil {
		return nil, fmt.Errorf("open box of row %s: %w", b.Row, err)
	}
	defer prepared.Wipe()
	return prepared.Open(b, envelope)
}

// Open is the function [Open] with a key that was prepared.
func (k Key) Open(b Binding, envelope []byte) ([]byte, error) {
	h, err := ParseHeader(envelope)
	if err != nil {
		return nil, err
	}
	if h.Revision != b.Revision {
		return nil, fmt.Errorf("open %s box of row %s: revision %d where %d is expected: %w", b.Purpose, b.Row, h.Revision, b.Revision, ErrTampered)
	}
	var record [KeySize]byte
	defer clear(record[:])
	if err := k.record(&record, h.Key, b); err != nil {
		return nil, fmt.Errorf("open box of row %s: %w", b.Row, err)
	}
	nonce := [nonceSize]byte(envelope[headerSize:])
	plaintext, ok := secretbox.Open(nil, envelope[headerSize+nonceSize:], &nonce, &record)
	if !ok {
		return nil, fmt.Errorf("open %s box of row %s with key %s: %w", b.Purpose, b.Row, h.Key, ErrTampered)
	}
	return plaintext, nil
}

// Header is what an envelope says about itself. It is a claim, until [Open] has
// opened the envelope with it.
type Header struct {
	Key      KeyID
	Revision uint64
}

// ParseHeader reads the header of an envelope whose outer form is right. The
// error matches [ErrMalformed].
func ParseHeader(envelope []byte) (Header, error) {
	switch {
	case len(envelope) < Overhead:
		return Header{}, fmt.Errorf("%w: %d bytes, and the shortest has %d", ErrMalformed, len(envelope), Overhead)
	case len(envelope) > Overhead+MaxPlaintext:
		return Header{}, fmt.Errorf("%w: %d bytes, and the longest has %d", ErrMalformed, len(envelope), Overhead+MaxPlaintext)
	case string(envelope[:len(magic)]) != magic:
		return Header{}, fmt.Errorf("%w: it does not start with %q", ErrMalformed, magic)
	case envelope[len(magic)] != formatVersion:
		return Header{}, fmt.Errorf("%w: format version %d is not known", ErrMalformed, envelope[len(magic)])
	}
	return Header{
		Key:      KeyID(envelope[offKey:]),
		Revision: binary.BigEndian.Uint64(envelope[offRevision:]),
	}, nil
}

// record derives the key of one box into out, which the caller clears.
func (k Key) record(out *[KeySize]byte, id KeyID, b Binding) error {
	if !b.Purpose.known() {
		return fmt.Errorf("there is no purpose %q", b.Purpose)
	}
	if b.Store != k.store {
		return errors.New("the key is of another store")
	}
	var info [128]byte // fits all
	m := AppendField(info[:0], labelRecord)
	m = AppendField(m, id[:])
	m = AppendField(m, b.Purpose)
	m = AppendField(m, b.Row[:])
	m = binary.BigEndian.AppendUint64(append(m, 0, 0, 0, 8), b.Revision)
	// HKDF-Expand of 32 bytes is one block (RFC 5869 section 2.3): T(1).
	k.extracted.SumInto(out, append(m, 1))
	return nil
}
