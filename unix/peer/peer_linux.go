package peer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soPeerPIDFD is SO_PEERPIDFD of Linux 6.5 (include/uapi/asm-generic/socket.h).
const soPeerPIDFD = 77

// maxGroups is NGROUPS_MAX (limits.h): more than that no process can have.
const maxGroups = 65536

// maxProc bounds what is read of a file in /proc. A status with NGROUPS_MAX
// groups of ten digits has 720 kB.
const maxProc = 1 << 20

// hold is a pidfd, or the knowledge that there is none.
type hold struct {
	fd     int  // valid when open
	open   bool // fd is a pidfd
	gone   bool // exited, closed, or not to be held
	socket bool // the pidfd is the socket's own, and so that of who connected
}

// alive polls: a pidfd is readable once its process has terminated, reaped or not
// (pidfd_open(2)).
func (h *hold) alive() bool {
	if h.gone || !h.open {
		return !h.gone
	}
	fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		h.gone = err != nil || n > 0
		return !h.gone
	}
}

func (h *hold) close() error {
	h.gone = true
	if !h.open {
		return nil
	}
	h.open = false
	return os.NewSyscallError("close a pidfd", unix.Close(h.fd))
}

// take asks the socket.
func (p *Process) take(fd int, r Reader) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_PEERGROUPS", err)
	}
	p.caller = Caller{UID: cred.Uid, GID: cred.Gid, Groups: groups, PID: cred.Pid, Label: peerLabel(fd)}
	return p.hold.take(fd, cred.Pid, r)
}

// take fails only where no descriptor is free. Every other error but "the kernel
// does not know the option" means that the process is gone: ESRCH, EINVAL or
// ENODATA, by the kernel's version.
func (h *hold) take(fd int, pid int32, r Reader) error {
	err := unix.ENOPROTOOPT
	if !r.WithoutPeerPIDFD {
		h.fd, err = sockoptInt(fd, soPeerPIDFD)
	}
	if h.socket = err != unix.ENOPROTOOPT; !h.socket {
		if pid <= 0 {
			return nil // nothing to open: it cannot be told
		}
		h.fd, err = pidfdOpen(int(pid))
	}
	switch err {
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return fmt.Errorf("take a pidfd: %w", err)
	}
	h.open, h.gone = err == 0, err != 0
	return nil
}

func sockoptInt(fd, option int) (int, unix.Errno) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	return n, errno(err)
}

func pidfdOpen(pid int) (int, unix.Errno) {
	fd, err := unix.PidfdOpen(pid, 0)
	return fd, errno(err)
}

func errno(err error) unix.Errno {
	var e unix.Errno
	if err != nil && !errors.As(err, &e) {
		return unix.EINVAL
	}
	return e
}

// identify fails closed: what cannot be read stays unknown, and contained. All
// files belong to a number, not to a process; that the pidfd is alive after the
// last one was read proves that the number was not given to another one.
func (p *Process) identify() {
	if p.caller.PID <= 0 || p.hold.gone || !p.hold.open {
		return
	}
	dir := "/proc/" + strconv.Itoa(int(p.caller.PID)) + "/"
	found, err := p.look(dir)
	if err != nil || !p.hold.alive() {
		return
	}
	p.caller.Contained, p.caller.Unit, p.caller.Invocation = found.Contained, found.Unit, found.Invocation
	p.caller.Proven = p.hold.socket
}

// look reads unit and containment. Without the socket's own pidfd the process
// must have been the same one before and after, and of the user that connected.
func (p *Process) look(dir string) (found Caller, err error) {
	var start uint64
	if !p.hold.socket {
		if start, err = startOf(dir); err != nil {
			return found, err
		}
	}
	text, err := readProc(dir + "status")
	if err != nil {
		return found, err
	}
	st, err := parseStatus(text)
	if err != nil {
		return found, fmt.Errorf("understand the status of a process: %w", err)
	}
	text, err = readProc(dir + "cgroup")
	if err != nil && !errors.Is(err, unix.ENOENT) { // a kernel without cgroups has no units
		return found, err
	}
	found.Contained = st.nested
	if found.Unit, err = unitOf(text); err != nil {
		return found, fmt.Errorf("understand the cgroup of a process: %w", err)
	}
	if found.Unit != "" {
		id, _ := os.Readlink("/run/systemd/units/invocation:" + found.Unit) // for the record: none is fine
		found.Invocation = invocationID(id)
	}
	if p.hold.socket {
		return found, nil
	}
	again, err := startOf(dir)
	switch {
	case err != nil:
		return found, err
	case again != start || st.euid != p.caller.UID:
		return found, errors.New("another process has the number of the one that connected")
	}
	return found, nil
}

func startOf(dir string) (uint64, error) {
	text, err := readProc(dir + "stat")
	if err != nil {
		return 0, err
	}
	start, err := parseStart(text)
	if err != nil {
		return 0, fmt.Errorf("understand the stat of a process: %w", err)
	}
	return start, nil
}

func readProc(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxProc+1))
	if err == nil && len(text) > maxProc {
		err = errors.New("it is too long")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

// peerGroups asks for SO_PEERGROUPS, which x/sys does not wrap: the kernel
// answers ERANGE and the needed length when the buffer is too small.
func peerGroups(fd int) ([]uint32, error) {
	buf := make([]uint32, 32)
	for {
		size := uint32(len(buf) * 4)
		errno := getsockopt(fd, unix.SO_PEERGROUPS, unsafe.Pointer(&buf[0]), &size)
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

// peerLabel is SO_PEERSEC, as the label was at connect(2). One that does not fit
// is not worth a second question.
func peerLabel(fd int) string {
	var buf [512]byte
	size := uint32(len(buf))
	if getsockopt(fd, unix.SO_PEERSEC, unsafe.Pointer(&buf[0]), &size) != 0 {
		return "" // ENOPROTOOPT: no security module, or no label
	}
	return label(buf[:size])
}

func getsockopt(fd, option int, to unsafe.Pointer, size *uint32) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, uintptr(option),
		uintptr(to), uintptr(unsafe.Pointer(size)), 0)
	return errno
}
