package sandbox

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// kernel is what Enter asks before it takes anything away. Tests answer for older
// ones.
type kernel struct {
	landlock func() (abi int, err error)
	seccomp  func() error
}

var running = kernel{landlock: ll.LandlockGetABIVersion, seccomp: seccompWorks}

// Enter takes from all threads of the process what p does not name. With Require the
// first part that is missing is an error that names it, found before anything is
// taken; with Auto what there is is applied, and an error is a profile that makes no
// sense or a kernel that breaks its word. What was applied before an error stays.
//
// From then on names are looked up by Go's own resolver: the C library's loads
// modules.
func Enter(p Profile) ([]Part, error) { return enter(p, running) }

func enter(p Profile, k kernel) ([]Part, error) {
	switch p.Mode {
	case Off:
		return off("sandbox.mode is off"), nil
	case "":
		p.Mode = Auto
	case Auto, Require:
	default:
		return nil, fmt.Errorf("enter the sandbox: mode %q is not known", p.Mode)
	}
	parts, abi := available(k)
	if p.Mode == Require {
		for _, part := range append(Harden(), parts...) {
			if !part.On {
				return parts, fmt.Errorf("enter the sandbox: %s is missing: %s", part.Name, part.Why)
			}
		}
	}
	return parts, apply(p, parts, abi)
}

// available says which parts this kernel has.
func available(k kernel) ([]Part, int) {
	abi, err := k.landlock()
	files, tcp := landlockFiles(abi, err), landlockTCP(abi, err)
	return []Part{part(LandlockFiles, files), part(LandlockTCP, tcp), part(Seccomp, k.seccomp())}, abi
}

func landlockFiles(abi int, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return errors.New("landlock_create_ruleset(2) is not permitted: a filter of the service manager or container forbids it")
	case errors.Is(err, unix.EOPNOTSUPP):
		return errors.New("landlock is in the kernel but not switched on at boot (lsm=)")
	case err != nil:
		return fmt.Errorf("the kernel has no Landlock: %w", err)
	case abi < 2:
		return fmt.Errorf("landlock ABI %d is older than 2 (Linux 5.19), which first lets files move between directories", abi)
	}
	return nil
}

func landlockTCP(abi int, err error) error {
	if err := landlockFiles(abi, err); err != nil {
		return err
	}
	if abi < 4 {
		return fmt.Errorf("landlock ABI %d is older than 4 (Linux 6.7), which first knows TCP ports", abi)
	}
	return nil
}

// apply takes away what parts says is there. All is prepared before the first thing
// is taken, and Landlock comes first: its system calls are not on seccomp's list.
func apply(p Profile, parts []Part, abi int) error {
	have := map[string]bool{}
	for _, part := range parts {
		have[part.Name] = part.On
	}
	rules, err := fileRules(p, filesOf(abi))
	if err != nil {
		return fmt.Errorf("prepare the sandbox: %w", err)
	}
	policy, err := filter(p)
	if err != nil {
		return fmt.Errorf("prepare the sandbox: %w", err)
	}
	net.DefaultResolver.PreferGo = true
	if have[LandlockFiles] {
		c := landlock.Config{HandledAccessFS: filesOf(abi)}
		if have[LandlockTCP] {
			c, rules = withNet(c, abi), append(rules, netRules(p)...)
		}
		if err := c.Restrict(rules...); err != nil {
			return failed(parts, err, LandlockFiles, LandlockTCP)
		}
	}
	if have[Seccomp] {
		if err := load(policy); err != nil {
			return failed(parts, err, Seccomp)
		}
	}
	return nil
}

// failed takes back what parts says of the names.
func failed(parts []Part, err error, names ...string) error {
	for i := range parts {
		if slices.Contains(names, parts[i].Name) && parts[i].On {
			parts[i].On, parts[i].Why = false, err.Error()
		}
	}
	return fmt.Errorf("enter the sandbox: %s: %w", names[0], err)
}

// seccompWorks asks whether seccomp(2) may be called, knows errno as an answer and
// has SECCOMP_FILTER_FLAG_TSYNC: with no filter given that is EFAULT (seccomp(2)).
func seccompWorks() error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(seccomp.FilterFlagTSync), 0)
	switch errno {
	case unix.EFAULT:
		return nil
	case unix.EPERM:
		return errors.New("seccomp(2) is not permitted: a filter of the service manager or container forbids it")
	}
	return fmt.Errorf("the kernel has no seccomp filters: %w", errno)
}

// Available says which parts this kernel has; nothing is taken.
func Available() []Part {
	parts, _ := available(running)
	return parts
}
