// Package sandbox takes from the process what the daemon never needs: its memory
// in dumps and under debuggers, other files than its own, other TCP ports than
// those of Vault and Human API, and every system call that no part of it makes.
//
// Whoever gets code to run in the daemon holds its keys all the same; what he does
// not get is another program, the machine's other files, or a way out to a host of
// his own over TCP. It is the second line: the unit's own limits (User=,
// ProtectSystem=, SystemCallFilter=) are the first and hold without it.
//
// It trusts the kernel to do what it says it did, and the profile: what stands there
// is allowed. It never reads a secret, never starts a program, and never undoes
// anything: what it takes is gone for the process's life and for all its threads.
//
// What it cannot take away, and therefore does not claim:
//
//   - Landlock does not see stat(2), chmod(2), chown(2), flock(2), readlink(2) nor the
//     names of files, only what is opened, created, renamed and removed. Below Linux
//     6.2 (ABI 3) it does not see O_TRUNC on a file that may be read either.
//
//   - A rule for a file holds for that file and not for the one that is renamed over
//     its name later. Whatever is replaced while the daemon runs needs a rule for its
//     directory: see [Profile].Read.
//
//   - A daemon that is root reads of /etc the files that were there when it started.
//     After a change of the network that replaces /etc/resolv.conf it resolves no name
//     (Go then asks port 53 of this machine), and after useradd(8) a reload fails:
//     it has to be started anew. See always.
//
//   - Below Linux 6.7 (Landlock ABI 4, Debian 12 has 2) no TCP port is refused.
//
//   - Root keeps its capabilities. With CAP_PERFMON a daemon that is root reads other
//     processes' environ and maps under /proc on Linux 6.18, past Landlock; mem and
//     ptrace(2) stay closed to it. The service's own user has no capability.
//
// BUG: with Profile.Resolve a datagram can be sent to any host and port, on every
// kernel: seccomp does not see addresses and Landlock's rules for UDP (ABI 10) are not
// used. IPAddressAllow= in the unit is what limits that.
//
// BUG: a path socket of another program can be connected to as far as its mode allows.
// Landlock's rule for that (ABI 9) is not used.
package sandbox

import (
	"log/slog"
	"strings"
)

// Mode is how much a part that is missing matters.
type Mode string

// The modes of [Profile].Mode.
const (
	Off     Mode = "off"     // nothing is done
	Auto    Mode = "auto"    // what there is: the default
	Require Mode = "require" // all of it, or an error
)

// The names of the parts, as [Part].Name has them.
const (
	NotDumpable   = "not dumpable"
	NoCoreDumps   = "no core dumps"
	NoNewPrivs    = "no new privileges"
	LandlockFiles = "landlock files"
	LandlockTCP   = "landlock tcp"
	Seccomp       = "seccomp"
)

// Profile is what the process may still do once [Enter] has returned.
type Profile struct {
	// Mode defaults to Auto.
	Mode Mode
	// Read are the files that may be read, and the directories of which everything
	// may be read and listed. A path that is not there is skipped and logged. A file
	// stands for itself only: one that is replaced by rename(2) while the daemon runs
	// (a secret, the configuration) needs its directory here.
	//
	// Always readable are /proc (where a caller's environ and mem stay closed: a
	// process under Landlock may not trace others), the accounts, the resolver's
	// files, the certificates of the system and the time zones; see base.
	Read []string
	// Write are the directories in which everything may be read, written, made,
	// renamed and removed, and the files that may be read, written and cut. They must
	// be there when Enter is called; one that is not is skipped and logged.
	Write []string
	// Connect are the TCP ports that may be dialled, on any host.
	Connect []uint16
	// Listen are the TCP ports that may be bound from now on. Sockets that listen
	// already are not affected.
	Listen []uint16
	// Resolve says that names are looked up in DNS: TCP 53, and UDP.
	Resolve bool
	// Chown says that files or sockets get other owners or groups.
	Chown bool
	// MemfdSecret and Memfd say that memfd_secret(2) and memfd_create(2) are used.
	MemfdSecret, Memfd bool
	// Logger gets what was skipped. Nil: nobody.
	Logger *slog.Logger
}

// Part is one thing that is taken away.
type Part struct {
	Name string // one of the names above
	On   bool
	Why  string // when it is not on: what is missing, in words
}

// Missing returns what is not on, as one line: "landlock tcp (…), seccomp (…)". It
// is empty when everything is.
func Missing(parts []Part) string {
	var out []string
	for _, p := range parts {
		if !p.On {
			out = append(out, p.Name+" ("+p.Why+")")
		}
	}
	return strings.Join(out, ", ")
}

func (p Profile) logger() *slog.Logger {
	if p.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Logger
}

// off answers for all parts of Enter with one reason.
func off(why string) []Part {
	return []Part{{Name: LandlockFiles, Why: why}, {Name: LandlockTCP, Why: why}, {Name: Seccomp, Why: why}}
}
