package peer

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// fromFD uses LOCAL_PEERCRED and LOCAL_PEERPID (unix(4) of macOS). There are no
// pid namespaces, so nobody is contained. The kernel lists at most 16 groups,
// the first of which is the effective one.
func fromFD(fd int) (Caller, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Caller{}, os.NewSyscallError("getsockopt LOCAL_PEERCRED", err)
	}
	if cred.Ngroups < 1 || int(cred.Ngroups) > len(cred.Groups) {
		return Caller{}, errors.New("LOCAL_PEERCRED lists no group")
	}
	pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		return Caller{}, os.NewSyscallError("getsockopt LOCAL_PEERPID", err)
	}
	return Caller{UID: cred.Uid, GID: cred.Groups[0], Groups: append([]uint32(nil), cred.Groups[1:cred.Ngroups]...), PID: int32(pid)}, nil
}
