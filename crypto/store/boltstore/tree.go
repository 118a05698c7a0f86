package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"unsafe"

	"go.etcd.io/bbolt"
)

// This file reads the tree of a bbolt file without bbolt's cursors, which trust
// what they read: a branch that leads back to itself makes them recurse until the
// process ends. Here every step is bounded. The format (host byte order; bbolt
// v1.5.0, internal/common/page.go):
//
//	page     id uint64, flags uint16, count uint16, overflow uint32, elements
//	branch   pos uint32, ksize uint32, child uint64
//	leaf     flags uint32, pos uint32, ksize uint32, vsize uint32
//	bucket   root uint64, sequence uint64, and a page when root is 0
//
// A key begins pos bytes behind its element, a value behind its key. A slice that
// goes beyond its page panics, which guard turns into ErrDamaged.
const (
	headerLen  = 16
	elementLen = 16
	bucketLen  = 16

	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10
	bucketFlag   = 0x01 // of a leaf's element

	// maxDepth is beyond any tree that fits a disk: a branch page has dozens of
	// children.
	maxDepth = 32
)

var order = binary.NativeEndian

// tree is one bucket's tree as a transaction began with it.
type tree struct {
	data     []byte // all pages in use
	pageSize uint64
	root     page
}

// page is one page with what overflows from it.
type page struct {
	bytes []byte
	leaf  bool
	count int
}

// treeOf finds the bucket of that name. The result is valid as long as tx is;
// what a write transaction has changed itself is not seen.
func treeOf(tx *bbolt.Tx, name []byte) (tree, error) {
	info := tx.DB().Info()
	t := tree{
		// The address lies in bbolt's mapping, which is not moved while tx is open.
		data:     unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&info.Data))), tx.Size()),
		pageSize: uint64(info.PageSize),
	}
	var err error
	if t.root, err = t.page(uint64(tx.Cursor().Bucket().Root())); err != nil {
		return t, err
	}
	value, flags, found, err := t.get(name)
	switch {
	case err != nil:
		return t, err
	case !found:
		return t, fmt.Errorf("%w: %s is missing", ErrDamaged, name)
	case flags != bucketFlag || len(value) < bucketLen:
		return t, fmt.Errorf("%w: %s is no bucket", ErrDamaged, name)
	}
	if id := order.Uint64(value); id != 0 {
		t.root, err = t.page(id)
	} else {
		t.root, err = asPage(value[bucketLen:])
	}
	return t, err
}

// page returns the page with that id.
func (t tree) page(id uint64) (page, error) {
	pages := uint64(len(t.data)) / t.pageSize
	if id < 2 || id >= pages {
		return page{}, fmt.Errorf("%w: page %d of %d is referred to", ErrDamaged, id, pages)
	}
	head := t.data[id*t.pageSize:]
	overflow := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != id || id+overflow >= pages {
		return page{}, fmt.Errorf("%w: page %d says something else", ErrDamaged, id)
	}
	return asPage(head[:(overflow+1)*t.pageSize])
}

func asPage(b []byte) (page, error) {
	if len(b) < headerLen {
		return page{}, fmt.Errorf("%w: a page of %d bytes", ErrDamaged, len(b))
	}
	flags := order.Uint16(b[8:])
	p := page{bytes: b, leaf: flags == leafFlag, count: int(order.Uint16(b[10:]))}
	if flags != leafFlag && flags != branchFlag || headerLen+p.count*elementLen > len(b) {
		return p, fmt.Errorf("%w: a page with flags %#x and %d elements", ErrDamaged, flags, p.count)
	}
	if !p.leaf && p.count == 0 {
		return p, fmt.Errorf("%w: a branch without children", ErrDamaged)
	}
	return p, nil
}

func (p page) element(i int) []byte { return p.bytes[headerLen+i*elementLen:] }

func (p page) key(i int) []byte {
	e := p.element(i)
	pos, size := uint64(order.Uint32(e)), uint64(order.Uint32(e[4:]))
	if p.leaf {
		pos, size = size, uint64(order.Uint32(e[8:]))
	}
	return e[pos : pos+size : pos+size]
}

func (p page) value(i int) (value []byte, flags uint32) {
	e := p.element(i)
	at := uint64(order.Uint32(e[4:])) + uint64(order.Uint32(e[8:]))
	end := at + uint64(order.Uint32(e[12:]))
	return e[at:end:end], order.Uint32(e)
}

// search returns the first element whose key is not below key; in a branch the
// one that leads to it.
func (p page) search(key []byte) int {
	if p.leaf {
		return sort.Search(p.count, func(i int) bool { return bytes.Compare(p.key(i), key) >= 0 })
	}
	after := sort.Search(p.count, func(i int) bool { return bytes.Compare(p.key(i), key) > 0 })
	return max(after-1, 0)
}

// step is a page on the way from the root, and where in it the way goes on.
type step struct {
	page page
	at   int
}

// walk goes through a tree's leaves in key order.
type walk struct {
	tree tree
	path []step // ends with a leaf, or is empty when there is nothing left
}

// seek goes to the first key that is not below key; nil: to the first of all.
func (t tree) seek(key []byte) (w walk, err error) {
	w = walk{tree: t, path: make([]step, 0, 6)}
	if err := w.down(t.root, key); err != nil {
		return w, err
	}
	return w, w.settle()
}

// down adds the way from p to the leaf for key.
func (w *walk) down(p page, key []byte) (err error) {
	for {
		if len(w.path) == maxDepth {
			return fmt.Errorf("%w: a tree deeper than %d pages", ErrDamaged, maxDepth)
		}
		s := step{page: p}
		if key != nil {
			s.at = p.search(key)
		}
		w.path = append(w.path, s)
		if p.leaf {
			return nil
		}
		if p, err = w.tree.page(order.Uint64(p.element(s.at)[8:])); err != nil {
			return err
		}
		if p.leaf && p.count == 0 { // only a root may be empty
			return fmt.Errorf("%w: an empty page", ErrDamaged)
		}
	}
}

// settle moves on to the next leaf when the path stands behind the last element of
// one.
func (w *walk) settle() error {
	for len(w.path) > 0 {
		last := &w.path[len(w.path)-1]
		if last.at >= last.page.count {
			w.path = w.path[:len(w.path)-1]
			if len(w.path) > 0 {
				w.path[len(w.path)-1].at++
			}
			continue
		}
		if last.page.leaf {
			return nil
		}
		p, err := w.tree.page(order.Uint64(last.page.element(last.at)[8:]))
		if err != nil {
			return err
		}
		if err := w.down(p, nil); err != nil {
			return err
		}
	}
	return nil
}

// current is false when there is nothing left. The bytes are the file's.
func (w *walk) current() (key, value []byte, flags uint32, ok bool) {
	if len(w.path) == 0 {
		return nil, nil, 0, false
	}
	s := w.path[len(w.path)-1]
	value, flags = s.page.value(s.at)
	return s.page.key(s.at), value, flags, true
}

// next fails when the following key is not above the current one: a tree in
// which a page is reached twice would have no end.
func (w *walk) next() error {
	last := &w.path[len(w.path)-1]
	before := last.page.key(last.at)
	last.at++
	if err := w.settle(); err != nil {
		return err
	}
	if key, _, _, ok := w.current(); ok && bytes.Compare(key, before) <= 0 {
		return fmt.Errorf("%w: keys out of order", ErrDamaged)
	}
	return nil
}

// get returns what is stored under key. The bytes are the file's.
func (t tree) get(key []byte) (value []byte, flags uint32, found bool, err error) {
	p := t.root
	for depth := 1; !p.leaf; depth++ {
		if depth == maxDepth {
			return nil, 0, false, fmt.Errorf("%w: a tree deeper than %d pages", ErrDamaged, maxDepth)
		}
		if p, err = t.page(order.Uint64(p.element(p.search(key))[8:])); err != nil {
			return nil, 0, false, err
		}
	}
	at := p.search(key)
	if at == p.count || !bytes.Equal(p.key(at), key) {
		return nil, 0, false, nil
	}
	value, flags = p.value(at)
	return value, flags, true, nil
}
