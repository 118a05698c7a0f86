package peer

import (
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soPeerPIDFD is SO_PEERPIDFD of Linux 6.5 (include/uapi/asm-generic/socket.h).
const soPeerPIDFD = 77

// maxGroups is NGROUPS_MAX (limits.h): more than that no process can have.
const maxGroups = 65536

// pidfdOption is what fromFD asks for a pidfd; a test sets it to an option that
// no kernel has, and so stands for a kernel before 6.5.
var pidfdOption = soPeerPIDFD

func fromFD(fd int) (Caller, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Caller{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return Caller{}, os.NewSyscallError("getsockopt SO_PEERGROUPS", err)
	}
	return Caller{
		UID: cred.Uid, GID: cred.Gid, Groups: groups, PID: cred.Pid,
		Contained: contained(fd, cred.Pid),
	}, nil
}

// contained fails closed: whatever cannot be read counts as contained. The
// status file belongs to a number, not to a process; a pidfd that is still
// alive afterwards proves that the number was not given to another one.
//
// BUG: before Linux 6.5 there is no such pidfd. A contained process that passes
// its connection on and exits can then be taken for whoever gets its number.
func contained(fd int, pid int32) bool {
	if pid <= 0 {
		return true
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/status")
	if err != nil {
		return true
	}
	in, err := nested(string(status))
	return err != nil || in || gone(fd)
}

// gone reports whether the process at the other end has exited; false where
// the kernel cannot say.
func gone(fd int) bool {
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, pidfdOption)
	if err != nil {
		return !errors.Is(err, unix.ENOPROTOOPT) // ESRCH, ENODATA: reaped
	}
	defer func() { _ = unix.Close(pidfd) }()
	// A pidfd is readable once its process has terminated (pidfd_open(2)).
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err != nil || n > 0
	}
}

// peerGroups asks for SO_PEERGROUPS, which x/sys does not wrap: the kernel
// answers ERANGE and the needed length when the buffer is too small.
func peerGroups(fd int) ([]uint32, error) {
	buf := make([]uint32, 32)
	for {
		size := uint32(len(buf) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return buf[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(buf) && size/4 <= maxGroups:
			buf = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}
