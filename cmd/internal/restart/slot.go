package restart

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
)

// The area, version 1, is two slots of half its size. All numbers are big-endian.
//
//	bytes  what
//	    8  magic, "TVMEMORY"
//	    4  format version, 1
//	    8  sequence, from 1: +1 with every slot that is written
//	    4  length of the body, then the body (codec.go)
//	   32  SHA-256 over all bytes before it, written last
//	       zeros to the end of the slot
//
// The slot with the higher sequence of those that are whole is valid. A new one is
// written beside it, and only when that is whole is the old one cleared: a process
// that dies at any point leaves one of them. The SHA-256 finds what is unfinished,
// and not what somebody wrote on purpose: who can write here is the daemon.
const (
	slotMagic     = "TVMEMORY"
	formatVersion = 1
	headSize      = len(slotMagic) + 4 + 8 + 4
)

// slotSize is what a body of n bytes needs.
func slotSize(n int) int { return headSize + n + sha256.Size }

// fill writes a slot that has room for it. Nothing of it is on the heap meanwhile.
func fill(slot []byte, sequence uint64, c Contents, m moment) {
	clear(slot)
	w := writer{out: slot}
	w.raw([]byte(slotMagic))
	w.uint32(formatVersion)
	w.uint64(sequence)
	w.uint32(uint32(measure(c, m)))
	w.contents(c, m)
	barrier()
	sum := sha256.Sum256(slot[:w.n])
	copy(slot[w.n:], sum[:])
	barrier()
}

// whole returns the sequence of a slot that is whole, or 0.
func whole(slot []byte) uint64 {
	if len(slot) < slotSize(0) || string(slot[:len(slotMagic)]) != slotMagic {
		return 0
	}
	at := slot[len(slotMagic):]
	n := uint64(binary.BigEndian.Uint32(at[12:]))
	if binary.BigEndian.Uint32(at) != formatVersion || n > uint64(len(slot)-slotSize(0)) {
		return 0
	}
	end := headSize + int(n)
	if sum := sha256.Sum256(slot[:end]); !bytes.Equal(sum[:], slot[end:end+sha256.Size]) {
		return 0
	}
	return binary.BigEndian.Uint64(at[4:])
}

// content is the body of a slot that is whole.
func content(slot []byte) []byte {
	n := binary.BigEndian.Uint32(slot[headSize-4:])
	return slot[headSize:][:n]
}

// newest returns which slot is valid and its sequence, or -1 and 0.
func newest(slots [2][]byte) (sequence uint64, current int) {
	current = -1
	for i, s := range slots {
		if n := whole(s); n > sequence {
			sequence, current = n, i
		}
	}
	return sequence, current
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
