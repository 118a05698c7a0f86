package secret

import (
	"crypto/sha256"
	"encoding"
	"hash"
	"sync"
)

// MAC is HMAC-SHA256 (RFC 2104) under one key, with the blocks that hold the key
// hashed already: a sum costs half as much as one that starts from the key, and
// leaves no copy of the key behind, as crypto/hmac does in every state it makes.
// Like a [Text] it cannot be printed, and copies of it share what they hold. Who
// has what a MAC holds can make sums, and so it is as secret as the key.
type MAC struct{ states func() *macStates }

// macStates are SHA-256 after the block key⊕ipad, and after key⊕opad, as
// crypto/sha256 marshals them.
type macStates struct{ inner, outer []byte }

// NewMAC prepares key, which the caller still owns.
func NewMAC(key Text) MAC {
	var k [sha256.BlockSize]byte
	defer clear(k[:])
	if b := key.Reveal(); len(b) <= len(k) {
		copy(k[:], b)
	} else {
		sum := sha256.Sum256(b)
		copy(k[:], sum[:])
		clear(sum[:])
	}
	s := &macStates{inner: after(&k, 0x36), outer: after(&k, 0x5c)}
	return MAC{states: func() *macStates { return s }}
}

// after is the state of SHA-256 behind the one block k⊕pad.
func after(k *[sha256.BlockSize]byte, pad byte) []byte {
	h := hashers.Get().(*hasher)
	defer h.putBack()
	h.resume(blank)
	for _, b := range k {
		h.buf = append(h.buf, b^pad)
	}
	h.state.Write(h.buf)
	return marshal(h.state)
}

// Sum is the HMAC of message, which it does not keep. It panics after Wipe.
func (m MAC) Sum(message []byte) (sum [sha256.Size]byte) {
	s := m.states()
	h := hashers.Get().(*hasher)
	defer h.putBack()
	h.resume(s.inner)
	h.buf = append(h.buf, message...) // so that message need not leave the caller's stack
	h.state.Write(h.buf)
	h.buf = h.state.Sum(h.buf[:0])
	h.resume(s.outer)
	h.state.Write(h.buf)
	copy(sum[:], h.state.Sum(h.buf[:0]))
	return sum
}

// Wipe overwrites what was made of the key. No Sum may be under way, and none may
// come after it. The zero MAC has nothing to wipe.
func (m MAC) Wipe() {
	if m.states == nil {
		return
	}
	s := m.states()
	clear(s.inner)
	clear(s.outer)
}

// hasher is a SHA-256 whose state can be replaced, and bytes for it to read. It is
// pooled because what is handed to an interface is on the heap.
type hasher struct {
	state hash.Hash
	buf   []byte
}

// hasherBuf fits two ids as they are in use; a longer message gets bytes of its own.
const hasherBuf = 512

var (
	blank   = marshal(sha256.New())
	hashers = sync.Pool{New: func() any { return &hasher{state: sha256.New(), buf: make([]byte, 0, hasherBuf)} }}
)

// marshal never fails for crypto/sha256.
func marshal(h hash.Hash) []byte {
	b, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		panic("secret: SHA-256 does not marshal: " + err.Error())
	}
	return b
}

// resume goes on from a marshaled state, which overwrites all of the one before.
func (h *hasher) resume(state []byte) {
	if err := h.state.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		panic("secret: a MAC was used that was wiped or never made")
	}
}

// putBack clears what h has seen.
func (h *hasher) putBack() {
	h.resume(blank)
	h.buf = h.buf[:cap(h.buf)]
	clear(h.buf)
	if h.buf = h.buf[:0]; cap(h.buf) == hasherBuf {
		hashers.Put(h)
	}
}
