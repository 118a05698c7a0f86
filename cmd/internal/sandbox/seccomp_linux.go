package sandbox

import (
	"errors"
	"fmt"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// load installs the filter in all threads (SECCOMP_FILTER_FLAG_TSYNC). What is not
// on its list fails with EPERM: killing the daemon for a system call that a later Go
// makes would turn a missing line into an outage.
//
// The kernel answers a thread that it could not take along with that thread's id, which
// the library reads as success. So the filter is asked: seccomp(2) itself is not on the
// list.
func load(policy seccomp.Policy) error {
	err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: policy})
	if err == nil && seccompWorks() == nil {
		err = errors.New("the filter was not taken over by all threads")
	}
	return err
}

// filter makes the policy of p for this machine's architecture.
func filter(p Profile) (seccomp.Policy, error) {
	machine, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Policy{}, fmt.Errorf("system calls of this machine: %w", err)
	}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionErrno} // EPERM
	for _, g := range groups(p) {
		group := seccomp.SyscallGroup{Action: g.answer}
		for _, name := range g.names {
			if _, ok := machine.SyscallNames[name]; ok { // arm64 has only the newer ones
				group.Names = append(group.Names, name)
			}
		}
		for _, c := range g.only {
			if _, ok := machine.SyscallNames[c.Name]; ok {
				group.NamesWithCondtions = append(group.NamesWithCondtions, c)
			}
		}
		policy.Syscalls = append(policy.Syscalls, group)
	}
	_, err = policy.Assemble()
	return policy, err
}

// refuse is the answer errno (SECCOMP_RET_ERRNO carries it in its lower 16 bits).
func refuse(errno unix.Errno) seccomp.Action {
	return seccomp.ActionErrno | seccomp.Action(errno)
}
