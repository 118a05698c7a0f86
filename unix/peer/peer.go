// Package peer says who is at the other end of a Unix socket, in the kernel's
// words.
//
// It trusts the kernel alone: nothing that a caller sends has any part in it.
// The identity is that of connect(2): a descriptor that was passed on, or
// inherited, keeps the identity of whoever opened it (unix(7), SO_PEERCRED).
// It never decides anything; rules are in unix/policy.
package peer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// OverflowID stands for every user or group that the kernel cannot express in
// our user namespace (proc_sys_kernel(5), overflowuid). It names nobody.
const OverflowID = 65534

// Caller is one process, as it was when it connected.
type Caller struct {
	UID    uint32   // effective user
	GID    uint32   // effective group
	Groups []uint32 // supplementary groups; read-only, shared by copies
	PID    int32    // in the daemon's pid namespace; 0: outside of it
	// Unit is the systemd unit. It is always "": finding it is not built yet.
	Unit string
	// Contained: the process lives in another pid namespace than the daemon, or
	// that cannot be told. It is true whenever there is doubt.
	Contained bool
}

// FromConn returns the process at the other end of c.
func FromConn(c *net.UnixConn) (Caller, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Caller{}, fmt.Errorf("reach the descriptor of a connection: %w", err)
	}
	var caller Caller
	var inner error
	if err := raw.Control(func(fd uintptr) { caller, inner = fromFD(int(fd)) }); err != nil {
		return Caller{}, fmt.Errorf("hold the descriptor of a connection: %w", err)
	}
	if inner != nil {
		return Caller{}, fmt.Errorf("ask the kernel for the credentials of a connection: %w", inner)
	}
	return caller, nil
}

// Overflow returns the ids that the kernel shows for unmapped users and groups
// beside [OverflowID]. Where they cannot be read they are [OverflowID].
func Overflow() (uid, gid uint32) {
	return overflowID("/proc/sys/kernel/overflowuid"), overflowID("/proc/sys/kernel/overflowgid")
}

func overflowID(path string) uint32 {
	b, err := os.ReadFile(path)
	if err != nil {
		return OverflowID
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return OverflowID
	}
	return uint32(n)
}

var errNoNSpid = errors.New("no NSpid line")

// nested reports whether a /proc/PID/status names more than one pid for its
// process: one for each pid namespace from ours down to its own
// (proc_pid_status(5), NSpid, since Linux 4.1).
func nested(status string) (bool, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			switch n := len(strings.Fields(rest)); n {
			case 0:
				return true, errNoNSpid
			default:
				return n > 1, nil
			}
		}
	}
	return true, errNoNSpid
}
