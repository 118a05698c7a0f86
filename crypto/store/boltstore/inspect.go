package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// What bbolt keeps in pages 0 and 1, behind the page's header (bbolt v1.5.0,
// internal/common/meta.go); of the two the valid one with the higher transaction
// counts:
//
//	magic uint32, version uint32, page size uint32, flags uint32,
//	root uint64, sequence uint64, freelist uint64, pages uint64,
//	transaction uint64, FNV-1a of all before uint64
const (
	metaLen      = 64
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	manyFree     = 0xFFFF // as a freelist's count: the first number is the count
	maxPageSize  = 64 << 10
	leastPages   = 4 // two metas, a freelist, a root
	freeIDLen    = 8
	maxFreePages = 1 << 31 / freeIDLen // numbers on a freelist of 2 GiB
)

// head is what a meta page says.
type head struct {
	pageSize                           int64
	root, freelist, pages, transaction uint64
}

// inspect looks at what bbolt believes without checking when it opens a file: it
// finds a file that is none of bbolt's, that was cut short, or whose list of free
// pages makes no sense. It reads a few pages, whatever the file's size.
func inspect(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return fmt.Errorf("%w: it is empty", ErrDamaged)
	}
	h, err := readHead(file)
	if err != nil {
		return err
	}
	if need := int64(h.pages) * h.pageSize; info.Size() < need {
		return fmt.Errorf("%w: it was cut short: %d bytes, of at least %d", ErrDamaged, info.Size(), need)
	}
	var root [headerLen]byte
	if _, err := file.ReadAt(root[:], int64(h.root)*h.pageSize); err != nil {
		return err
	}
	if flags := order.Uint16(root[8:]); order.Uint64(root[:]) != h.root || flags != leafFlag && flags != branchFlag {
		return fmt.Errorf("%w: its root page says something else", ErrDamaged)
	}
	return inspectFree(file, h)
}

// readHead returns the meta that counts.
func readHead(file *os.File) (h head, err error) {
	first, err := headAt(file, 0)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return h, err
	}
	size := int64(os.Getpagesize())
	if err == nil {
		size = first.pageSize
	}
	second, err2 := headAt(file, size)
	switch {
	case err != nil && err2 != nil:
		return h, err
	case err != nil || err2 == nil && second.transaction > first.transaction:
		return second, nil
	}
	return first, nil
}

func headAt(file *os.File, at int64) (h head, err error) {
	b := make([]byte, metaLen)
	if _, err := file.ReadAt(b, at+headerLen); err == io.EOF {
		return h, fmt.Errorf("%w: it was cut short within its first pages", ErrDamaged)
	} else if err != nil {
		return h, err
	}
	if order.Uint32(b) != boltMagic || order.Uint32(b[4:]) != boltVersion {
		return h, fmt.Errorf("%w: it does not begin like a store", ErrDamaged)
	}
	sum := fnv.New64a()
	sum.Write(b[:metaLen-8]) // never fails
	if order.Uint64(b[metaLen-8:]) != sum.Sum64() {
		return h, fmt.Errorf("%w: the checksum of its first pages is wrong", ErrDamaged)
	}
	h = head{
		pageSize: int64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]),
		pages: order.Uint64(b[40:]), transaction: order.Uint64(b[48:]),
	}
	if h.pageSize < 1024 || h.pageSize > maxPageSize || h.pages < leastPages || h.pages > 1<<62/uint64(h.pageSize) ||
		h.root < 2 || h.root >= h.pages || h.freelist < 2 || h.freelist >= h.pages {
		return h, fmt.Errorf("%w: its first pages contradict themselves", ErrDamaged)
	}
	return h, nil
}

// inspectFree checks that the list of free pages fits its own pages, is in order
// and names pages of the file: bbolt writes to what stands there.
func inspectFree(file *os.File, h head) error {
	wrong := fmt.Errorf("%w: its list of free pages is wrong", ErrDamaged)
	at := int64(h.freelist) * h.pageSize
	b := make([]byte, headerLen+freeIDLen)
	if _, err := file.ReadAt(b, at); err != nil {
		return err
	}
	count, overflow := uint64(order.Uint16(b[10:])), uint64(order.Uint32(b[12:]))
	at += headerLen
	if count == manyFree {
		count = order.Uint64(b[headerLen:])
		at += freeIDLen
	}
	room := (int64(overflow)+1)*h.pageSize - (at - int64(h.freelist)*h.pageSize)
	if order.Uint64(b) != h.freelist || order.Uint16(b[8:]) != freelistFlag ||
		h.freelist+overflow >= h.pages || count > maxFreePages || int64(count)*freeIDLen > room {
		return wrong
	}
	ids := make([]byte, count*freeIDLen)
	if _, err := file.ReadAt(ids, at); err != nil {
		return err
	}
	for last := uint64(1); len(ids) > 0; ids = ids[freeIDLen:] {
		id := order.Uint64(ids)
		if id <= last || id >= h.pages {
			return wrong
		}
		last = id
	}
	return nil
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
