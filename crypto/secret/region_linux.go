package secret

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapRegion returns size bytes between two pages that cannot be touched: of
// memfd_secret(2) (Linux 5.14; off by default below 6.5) when hidden is asked for and
// there is such a thing, else anonymous memory that is locked, left out of core dumps
// and empty in a child of fork(2). It returns what it could get, and why not more;
// no bytes at all only when the kernel has none to give.
//
// It is never unmapped: it lives as long as the process.
func mapRegion(size int, hidden bool) mapped {
	page := os.Getpagesize()
	size = (size + page - 1) / page * page
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(size+2*page), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return mapped{reason: fmt.Sprintf("no memory outside the heap: %v", err)}
	}
	inner := unsafe.Add(base, page)
	m := mapped{guarded: true, bytes: unsafe.Slice((*byte)(inner), size)}
	var why []string
	if !hidden {
		why = append(why, "memfd_secret: not asked for")
	} else if err := mapHidden(inner, size); err != nil {
		why = append(why, fmt.Sprintf("memfd_secret: %v", err))
	} else {
		m.locked, m.hidden = true, true
		return m
	}
	if err := unix.Mprotect(m.bytes, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return mapped{reason: fmt.Sprintf("no memory outside the heap: %v", err)}
	}
	for what, advice := range map[string]int{"keep out of core dumps": unix.MADV_DONTDUMP, "keep from children": unix.MADV_WIPEONFORK} {
		if err := unix.Madvise(m.bytes, advice); err != nil {
			why = append(why, fmt.Sprintf("%s: %v", what, err))
		}
	}
	if err := unix.Mlock(m.bytes); err != nil {
		why = append(why, fmt.Sprintf("lock %d bytes: %v (RLIMIT_MEMLOCK, systemd's LimitMEMLOCK=)", size, err))
	} else {
		m.locked = true
	}
	m.reason = strings.Join(why, "; ")
	return m
}

// mapHidden puts size bytes of secret memory in the place at. Its pages belong to
// this mapping alone once the descriptor is closed; they are locked and not dumped by
// their nature.
func mapHidden(at unsafe.Pointer, size int) error {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return fmt.Errorf("give it a size: %w", err)
	}
	if _, err := unix.MmapPtr(fd, 0, at, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return fmt.Errorf("map it: %w (RLIMIT_MEMLOCK, systemd's LimitMEMLOCK=)", err)
	}
	bytes := unsafe.Slice((*byte)(at), size)
	if err := unix.Madvise(bytes, unix.MADV_DONTFORK); err != nil {
		return fmt.Errorf("keep it from children: %w", err)
	}
	clear(bytes) // takes every page now: want of memory ends the process when it starts, not later
	return nil
}
