// Package peer says who is at the other end of a Unix socket, in the kernel's
// words.
//
// It trusts the kernel, and for a unit's name systemd's cgroup tree, in which
// only root and the units' own processes can write: nothing that a caller sends
// has any part in it. It never decides anything; rules are in unix/policy.
//
// The user and groups are those of connect(2), frozen in the socket (unix(7),
// SO_PEERCRED). The unit and whether the caller is contained stand in /proc
// under a number that may have passed to another process, so they are believed
// only when a pidfd shows afterwards that the process was there all the time:
//
//   - From Linux 6.5 the socket itself gives the pidfd of the very process that
//     connected (SO_PEERPIDFD). The identity is proven: [Caller.Proven].
//   - Before, the pidfd is opened by number when the connection is accepted, and
//     process, start time and effective user must be the same before and after.
//     BUG: a process that connects and is reaped before its connection is
//     accepted, and whose number the kernel gives in that time to a process with
//     the same effective user, is taken for that process: its unit and its
//     containment are then the other one's. User and groups are never affected.
//     Proven is false, and it is for the policy to give less.
//
// What that means for callers that are not plain processes; each line is tested:
//
//   - A descriptor that was passed on (SCM_RIGHTS) or inherited keeps the
//     identity of whoever connected it. A privileged process that passes one on
//     lends its identity to the receiver for as long as it lives itself: once
//     it has exited, [Process.Alive] is false.
//   - A process that executes another program after it connected stays the same
//     process: user and groups are those of connect, also when the program is
//     setuid. Before Linux 6.5 a change of the effective user between connect and
//     Identify makes the unit unknown.
//   - A user namespace changes nothing: the kernel translates the user into ours,
//     whatever the caller calls itself inside.
//   - A pid namespace other than the daemon's makes a caller contained. A caller
//     that shares the daemon's (--pid=host) is not contained, whatever else
//     is namespaced; its unit is the container manager's or its scope's.
//   - A caller from outside of the daemon's own pid namespace has pid 0, is
//     contained, and its unit unknown.
//   - A caller that is not dumpable looks like any other: status, stat and cgroup
//     stay readable.
//   - Where /proc of other users is hidden (hidepid, ProtectProc) everybody is
//     contained and without a unit.
package peer

import (
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
	// Unit of the system's manager: below the leading slices of the cgroup path
	// the first .service or .scope, and nothing below that. "": unknown, or none.
	Unit string
	// Invocation is the id of Unit's current start, 32 hexadecimal digits, for the
	// record only; "": unknown.
	Invocation string
	// Label is what a security module calls the caller (SO_PEERSEC), at most 128
	// printable bytes, for the record only; "": there is none.
	Label string
	// Contained: the process lives in another pid namespace than the daemon, or
	// that cannot be told. It is true whenever there is doubt.
	Contained bool
	// Proven: Unit and Contained were read while the kernel's own pidfd of the
	// process that connected showed it alive. Never before Linux 6.5.
	Proven bool
}

// Reader asks who is at the other end. The zero Reader is the one to use.
type Reader struct {
	// WithoutPeerPIDFD does without SO_PEERPIDFD, as a kernel before 6.5 must.
	// It is for tests: it only ever makes less known.
	WithoutPeerPIDFD bool
}

// Hold takes the identity of the process at the other end of c from the socket,
// and a hold on the process. It is cheap: it asks the kernel about the socket
// alone, and never reads /proc. The caller must Close the Process. An error means
// that nothing is known, or that no descriptor is free.
func (r Reader) Hold(c *net.UnixConn) (*Process, error) { return r.hold(c) }

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
