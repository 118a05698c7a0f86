package secret

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
	"slices"
	"sync"
)

// MAC is HMAC-SHA256 (RFC 2104) under one key, with the blocks that hold the key
// hashed already: a sum costs half as much as one that starts from the key, and
// leaves no copy of the key behind, as crypto/hmac does in every state it makes.
// Like a [Text] it cannot be printed, and copies of it share what they hold. Who
// has what a MAC holds can make sums, and so it is as secret as the key.
type MAC struct{ states Text }

// NewMAC prepares key, which the caller still owns. What is made of it is on the
// heap: for a MAC that is wiped soon.
func NewMAC(key Text) MAC { return newMAC(key, New) }

// KeepMAC is [NewMAC] with what is made of the key in the locked region, as [Keep]
// does it.
func KeepMAC(key Text) MAC { return newMAC(key, Keep) }

// newMAC holds SHA-256 after the block key⊕ipad, and after key⊕opad, as crypto/sha256
// marshals them.
func newMAC(key Text, hold func([]byte) Text) MAC {
	h := hashers.Get().(*hasher)
	defer h.putBack()
	clear(h.key[:]) // a short key is followed by zeros
	if b := key.Reveal(); len(b) <= len(h.key) {
		copy(h.key[:], b)
	} else {
		h.digest(blank, 0, b)
		copy(h.key[:], h.sum())
	}
	m := MAC{states: hold(make([]byte, 2*stateSize))}
	states := m.states.Reveal()
	copy(states, h.after(0x36))
	copy(states[stateSize:], h.after(0x5c))
	return m
}

// after is the state of SHA-256 behind the one block h.key⊕pad, in h.packed.
func (h *hasher) after(pad byte) []byte {
	h.resume(blank)
	h.buf = h.buf[:0]
	for _, b := range h.key {
		h.buf = append(h.buf, b^pad)
	}
	h.state.Write(h.buf)
	return h.marshal()
}

// Extract is HKDF-Extract with SHA-256 (RFC 5869 section 2.2): what keys are derived
// with, 32 bytes, the caller's to wipe. Of key, which the caller still owns, no copy is
// left, as crypto/hkdf leaves one.
func Extract(key Text, salt []byte) Text {
	out := make([]byte, sha256.Size)
	NewMAC(New(salt)).SumInto((*[sha256.Size]byte)(out), key.Reveal())
	return Text{held: func() ([]byte, *place) { return out, nil }}
}

// Sum is the HMAC of message, which it does not keep. It panics after Wipe.
func (m MAC) Sum(message []byte) (sum [sha256.Size]byte) {
	m.SumInto(&sum, message)
	return sum
}

// SumInto is Sum for a result that is a secret: there is no copy of it but in sum.
func (m MAC) SumInto(sum *[sha256.Size]byte, message []byte) {
	states := m.states.Reveal()
	if len(states) != 2*stateSize {
		panic("secret: a MAC was used that was never made")
	}
	h := hashers.Get().(*hasher)
	defer h.putBack()
	h.digest(states[:stateSize], sha256.BlockSize, message)
	copy(sum[:], h.sum())
	h.digest(states[stateSize:], sha256.BlockSize, sum[:])
	copy(sum[:], h.sum())
}

// Wipe overwrites what was made of the key. No Sum may be under way, and none may
// come after it. The zero MAC has nothing to wipe.
func (m MAC) Wipe() { m.states.Wipe() }

// hasher is a SHA-256 whose state can be replaced, and bytes for it to read. It is
// pooled because what is handed to an interface is on the heap.
//
// crypto/sha256 copies what does not fill a block into its state, and its Sum copies
// the state to the stack, where nothing clears it: a key that is hashed would be there
// for the next to read. So only whole blocks are written, padded here, and the digest
// is taken out of the marshaled state.
type hasher struct {
	state  hash.Hash
	buf    []byte
	key    [sha256.BlockSize]byte // of newMAC; here, because a stack that grows leaves its old one behind
	packed [stateSize]byte
}

const (
	// hasherBuf fits two ids as they are in use, and padding; a longer message gets
	// bytes of its own.
	hasherBuf = 512
	// stateSize and stateSum are a state as crypto/sha256 marshals it, in bytes: four of
	// magic, the digest so far, a block that is not full, the length.
	stateSize = stateSum + sha256.Size + sha256.BlockSize + 8
	stateSum  = 4
)

var (
	blank   = (&hasher{state: sha256.New()}).marshal()
	hashers = sync.Pool{New: func() any { return &hasher{state: sha256.New(), buf: make([]byte, 0, hasherBuf)} }}
)

// marshal returns the state, in h.packed. It never fails for crypto/sha256.
func (h *hasher) marshal() []byte {
	b, err := h.state.(encoding.BinaryAppender).AppendBinary(h.packed[:0])
	if err != nil || len(b) != stateSize {
		panic("secret: SHA-256 does not marshal as it did")
	}
	return b
}

// resume goes on from a marshaled state, which overwrites all of the one before.
func (h *hasher) resume(state []byte) {
	if err := h.state.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		panic("secret: a MAC was used that was wiped")
	}
}

// digest goes on from a state that has read before bytes, whole blocks, and ends with
// message and its padding (FIPS 180-4 section 5.1.1).
func (h *hasher) digest(state []byte, before int, message []byte) {
	h.resume(state)
	h.buf = append(slices.Grow(h.buf[:0], len(message)+2*sha256.BlockSize), message...)
	h.buf = append(h.buf, 0x80)
	for len(h.buf)%sha256.BlockSize != sha256.BlockSize-8 {
		h.buf = append(h.buf, 0)
	}
	h.buf = binary.BigEndian.AppendUint64(h.buf, 8*uint64(before+len(message)))
	h.state.Write(h.buf)
}

// sum is what digest ended with, in h.packed.
func (h *hasher) sum() []byte { return h.marshal()[stateSum : stateSum+sha256.Size] }

// putBack clears what h has seen.
func (h *hasher) putBack() {
	h.resume(blank)
	clear(h.packed[:])
	clear(h.key[:])
	h.buf = h.buf[:cap(h.buf)]
	clear(h.buf)
	if h.buf = h.buf[:0]; cap(h.buf) == hasherBuf {
		hashers.Put(h)
	}
}
