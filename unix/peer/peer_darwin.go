package peer

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// hold has nothing to hold on to: macOS has no pidfd.
type hold struct{}

func (hold) alive() bool  { return true }
func (hold) close() error { return nil }

// identify: there are no pid namespaces, so nobody is contained, and no units.
func (p *Process) identify() { p.caller.Contained = false }

// take uses LOCAL_PEERCRED and LOCAL_PEERPID (unix(4) of macOS). The kernel lists
// at most 16 groups, the first of which is the effective one.
func (p *Process) take(fd int, _ Reader) error {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return os.NewSyscallError("getsockopt LOCAL_PEERCRED", err)
	}
	if cred.Ngroups < 1 || int(cred.Ngroups) > len(cred.Groups) {
		return errors.New("LOCAL_PEERCRED lists no group")
	}
	pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		return os.NewSyscallError("getsockopt LOCAL_PEERPID", err)
	}
	p.caller = Caller{UID: cred.Uid, GID: cred.Groups[0], Groups: append([]uint32(nil), cred.Groups[1:cred.Ngroups]...), PID: int32(pid)}
	return nil
}
