package keyring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
)

// The blob, version 1. All numbers are big-endian.
//
//	bytes  what
//	    4  magic, "TVKR"
//	    1  format version, 0x01
//	   16  store id
//	    8  incarnation, from 1: +1 whenever a backup becomes the live store
//	    8  generation, from 1: +1 whenever a new blob is written
//	    2  number of keys, then for each:
//	         1  class: 1 public, 2 private, 3 intent, 4 index, 5 audit
//	        16  key id
//	         1  state: 1 active, 2 decrypt-only, 3 removed
//	         8  created, Unix seconds
//	         8  since, Unix seconds: when it came into its state
//	         4  length of the wrapped key, then the wrapped key:
//	            1 to 4096 bytes, none when the key is removed
//	   32  HMAC-SHA256 under the keyring MAC key, over all bytes before it
//
// The keys stand in strictly ascending order of (class, key id), no key id
// stands twice, each class has exactly one active key, and index and audit have
// no other. A removed key stays on the list for ever: its id is never given
// again, and it cannot come back. Nothing follows the HMAC. So a keyring has one
// encoding; whatever decodes encodes to the same bytes.
//
// The HMAC's key comes from the index key, which never changes in the life of a
// store. Who can write the store but not unwrap with Transit can neither change
// a state, nor add, drop or revive a key. He can put a whole older blob back;
// that is found at start (by the anchor in Vault) and by [Keyring.Reload].
const (
	blobMagic   = "TVKR"
	blobVersion = 0x01
	macSize     = 32

	maxKeys    = 1024
	maxWrapped = 4096
	// MaxBlob is the most that a blob can have, in bytes.
	MaxBlob = 4 + 1 + 16 + 8 + 8 + 2 + maxKeys*(1+16+1+8+8+4+maxWrapped) + macSize

	maxUnix = 253402300799 // 9999-12-31T23:59:59Z
)

// ErrDamaged is returned when the blob is not one that this store's keyring
// wrote: malformed, altered, or of another store. Asking again does not help.
var ErrDamaged = errors.New("keyring is damaged or was altered")

// entry is one key in the blob.
type entry struct {
	class          Class
	id             seal.KeyID
	state          State
	created, since int64 // Unix seconds
	wrapped        string
}

// document is the content of a blob.
type document struct {
	store       seal.StoreID
	incarnation uint64
	generation  uint64
	entries     []entry
}

// body encodes d without its MAC. The entries must be in order.
func (d *document) body() []byte {
	out := append([]byte(blobMagic), blobVersion)
	out = append(out, d.store[:]...)
	out = binary.BigEndian.AppendUint64(out, d.incarnation)
	out = binary.BigEndian.AppendUint64(out, d.generation)
	out = binary.BigEndian.AppendUint16(out, uint16(len(d.entries)))
	for _, e := range d.entries {
		out = append(out, e.class.code())
		out = append(out, e.id[:]...)
		out = append(out, e.state.code())
		out = binary.BigEndian.AppendUint64(out, uint64(e.created))
		out = binary.BigEndian.AppendUint64(out, uint64(e.since))
		out = binary.BigEndian.AppendUint32(out, uint32(len(e.wrapped)))
		out = append(out, e.wrapped...)
	}
	return out
}

// check says what is wrong with d, if anything. Decoding and encoding both ask.
func (d *document) check() error {
	if d.store == (seal.StoreID{}) || d.incarnation == 0 || d.generation == 0 {
		return errors.New("store id, incarnation or generation is zero")
	}
	if len(d.entries) > maxKeys {
		return fmt.Errorf("%d keys are more than %d", len(d.entries), maxKeys)
	}
	active := map[Class]int{}
	ids := map[seal.KeyID]bool{}
	for i, e := range d.entries {
		if err := e.check(); err != nil {
			return fmt.Errorf("%s key %s: %w", e.class, e.id, err)
		}
		if i > 0 && !d.entries[i-1].before(e) {
			return fmt.Errorf("%s key %s: out of order", e.class, e.id)
		}
		if ids[e.id] {
			return fmt.Errorf("%s key %s: the id stands twice", e.class, e.id)
		}
		ids[e.id] = true
		if e.state == Active {
			active[e.class]++
		}
	}
	for _, c := range classes {
		if active[c] != 1 {
			return fmt.Errorf("%d active %s keys where there must be one", active[c], c)
		}
	}
	return nil
}

func (e entry) check() error {
	switch {
	case e.class.code() == 0:
		return errors.New("unknown class")
	case e.state.code() == 0:
		return errors.New("unknown state")
	case !e.class.data() && e.state != Active:
		return fmt.Errorf("it is %s, and lives as long as the store", e.state)
	case e.created < 0 || e.since < e.created || e.since > maxUnix:
		return errors.New("its times are impossible")
	case e.state == Active && e.since != e.created:
		return errors.New("its times are impossible")
	case (e.state == Removed) != (e.wrapped == ""):
		return errors.New("a key has a wrapped form until it is removed, and none after")
	case len(e.wrapped) > maxWrapped:
		return fmt.Errorf("its wrapped form has %d bytes, more than %d", len(e.wrapped), maxWrapped)
	}
	return nil
}

func (e entry) before(o entry) bool {
	if e.class != o.class {
		return e.class.code() < o.class.code()
	}
	return bytes.Compare(e.id[:], o.id[:]) < 0
}

// decode reads a blob strictly. Its MAC is returned, and not checked: that needs
// the index key, which is inside. The error matches [ErrDamaged].
func decode(blob []byte) (d *document, body, mac []byte, err error) {
	if len(blob) < macSize || len(blob) > MaxBlob {
		return nil, nil, nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(blob))
	}
	body, mac = blob[:len(blob)-macSize], blob[len(blob)-macSize:]
	r := reader{rest: body}
	d = r.document()
	switch {
	case r.err != nil:
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrDamaged, r.err)
	case len(r.rest) != 0:
		return nil, nil, nil, fmt.Errorf("%w: %d bytes follow the last key", ErrDamaged, len(r.rest))
	}
	if err := d.check(); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return d, body, mac, nil
}

// reader takes fields off the front of a blob. After its first error it yields
// zeros.
type reader struct {
	rest []byte
	err  error
}

var errShort = errors.New("it ends too early")

func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.rest) {
		r.err = errShort
	}
	if r.err != nil {
		return make([]byte, min(n, maxWrapped))
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) document() *document {
	if string(r.take(len(blobMagic))) != blobMagic && r.err == nil {
		r.err = fmt.Errorf("it does not start with %q", blobMagic)
	}
	if v := r.take(1)[0]; v != blobVersion && r.err == nil {
		r.err = fmt.Errorf("format version %d is not known", v)
	}
	d := &document{store: seal.StoreID(r.take(16)), incarnation: r.uint64(), generation: r.uint64()}
	n := int(binary.BigEndian.Uint16(r.take(2)))
	for range n {
		if r.err != nil {
			break
		}
		d.entries = append(d.entries, r.entry())
	}
	return d
}

func (r *reader) entry() entry {
	e := entry{class: classOf(r.take(1)[0]), id: seal.KeyID(r.take(16)), state: stateOf(r.take(1)[0])}
	e.created, e.since = int64(r.uint64()), int64(r.uint64())
	n := binary.BigEndian.Uint32(r.take(4))
	if n > maxWrapped && r.err == nil {
		r.err = fmt.Errorf("a wrapped key of %d bytes", n)
	}
	e.wrapped = string(r.take(int(min(n, maxWrapped))))
	return e
}

// unixSeconds is t as the blob keeps it.
func unixSeconds(t time.Time) (int64, error) {
	s := t.Unix()
	if s < 0 || s > maxUnix {
		return 0, fmt.Errorf("the clock says %s", t.UTC().Format(time.RFC3339))
	}
	return s, nil
}
