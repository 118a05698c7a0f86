package doctor

import (
	"os"

	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
	"golang.org/x/sys/unix"
)

// running is this machine's kernel.
var running = kernel{
	pidfd:     func() error { return closed(unix.PidfdOpen(os.Getpid(), 0)) },
	peerPidfd: peerPidfd,
	secretmem: func() error { return closed(unix.MemfdSecret(0)) },
	sandbox:   sandbox.Available,
	synced:    synced,
	free:      free,
}

func closed(fd int, err error) error {
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// peerPidfd asks a socket pair for SO_PEERPIDFD (Linux 6.5).
func peerPidfd() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	return closed(unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD))
}

// synced asks whether something keeps the kernel's clock right (adjtimex(2)).
func synced() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, err
}

// free is what a user may still write in a directory, in bytes, and on which file
// system that is.
func free(dir string) (bytes uint64, fs [2]int32, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fs, err
	}
	if s.Files > 0 && s.Ffree == 0 {
		return 0, s.Fsid.Val, nil // no inode, no file
	}
	return s.Bavail * uint64(s.Bsize), s.Fsid.Val, nil
}
