package secret

import (
	"fmt"
	"os"
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
	why := "memfd_secret: not asked for"
	if hidden {
		b, err := reserve(size)
		if err == nil {
			err = mapHidden(b)
		}
		if err == nil {
			return mapped{bytes: b, locked: true, guarded: true, hidden: true}
		}
		why = fmt.Sprintf("memfd_secret: %v", err)
	}
	b, err := reserve(size) // anew: a mapping that failed has left a hole in the first
	if err == nil {
		err = unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE)
	}
	if err != nil {
		return mapped{reason: fmt.Sprintf("%s; no memory outside the heap: %v", why, err)}
	}
	return lock(b, why)
}

// lock does for anonymous memory what can be done.
func lock(b []byte, why string) mapped {
	m := mapped{bytes: b, guarded: true, reason: why}
	if err := unix.Madvise(b, unix.MADV_DONTDUMP); err != nil {
		m.reason += fmt.Sprintf("; keep it out of core dumps: %v", err)
	}
	if err := unix.Madvise(b, unix.MADV_WIPEONFORK); err != nil {
		m.reason += fmt.Sprintf("; keep it from children: %v", err)
	}
	if err := unix.Mlock(b); err != nil {
		m.reason += fmt.Sprintf("; lock %d bytes: %v (%s)", len(b), err, lockLimit)
		return m
	}
	m.locked = true
	return m
}

const lockLimit = "RLIMIT_MEMLOCK, systemd's LimitMEMLOCK="

// reserve returns size bytes and a page before and behind them, none of which can be
// read or written yet.
func reserve(size int) ([]byte, error) {
	page := os.Getpagesize()
	size = (size + page - 1) / page * page
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(size+2*page), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(unsafe.Add(base, page)), size), nil
}

// mapHidden puts secret memory in the place of b. Its pages belong to this mapping
// alone once the descriptor is closed; they are locked and not dumped by their nature.
func mapHidden(b []byte) error {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(len(b))); err != nil {
		return fmt.Errorf("give it a size: %w", err)
	}
	const flags = unix.MAP_SHARED | unix.MAP_FIXED
	if _, err := unix.MmapPtr(fd, 0, unsafe.Pointer(&b[0]), uintptr(len(b)), unix.PROT_READ|unix.PROT_WRITE, flags); err != nil {
		return fmt.Errorf("map %d bytes: %w (%s)", len(b), err, lockLimit)
	}
	if err := unix.Madvise(b, unix.MADV_DONTFORK); err != nil {
		return fmt.Errorf("keep it from children: %w", err)
	}
	clear(b) // takes every page now: want of memory ends the process when it starts, not later
	return nil
}
