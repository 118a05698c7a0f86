package sandbox

import (
	"fmt"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Harden closes the process's memory to dumps and debuggers, and sets
// no_new_privs(2const). It belongs before anything secret is read, may be called
// again, and never fails: it reports.
//
// Not dumpable (PR_SET_DUMPABLE(2const)) is the part that counts. /proc/PID/{mem,
// environ,maps,fd,…} are root's then, and no process of the same uid attaches to this
// one, whoever is not root or holds CAP_SYS_PTRACE. It also stops core dumps into
// a pipe of core_pattern, for which the kernel ignores RLIMIT_CORE (core(5)).
func Harden() []Part {
	return []Part{
		part(NotDumpable, notDumpable()),
		part(NoCoreDumps, noCoreDumps()),
		part(NoNewPrivs, noNewPrivs()),
	}
}

func part(name string, err error) Part {
	if err != nil {
		return Part{Name: name, Why: err.Error()}
	}
	return Part{Name: name, On: true}
}

func notDumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_DUMPABLE: %w", err)
	}
	return nil
}

// noCoreDumps lowers the hard limit too, so that nothing raises it again.
func noCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("RLIMIT_CORE: %w", err)
	}
	return nil
}

func noNewPrivs() error {
	if err := ll.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", err)
	}
	return nil
}
