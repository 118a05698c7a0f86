package sandbox

import (
	"os"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// group is system calls that are there for one reason. A call of one name stands
// in one group only.
type group struct {
	why    string // who makes them, and what for
	names  []string
	only   []seccomp.NameWithConditions // those that are allowed with some arguments only
	answer seccomp.Action
}

// groups is the list of what the daemon may ask of the kernel. It was written from
// what Go 1.26 calls (runtime, syscall, os, net, x/sys) and from strace(1) of the
// daemon's tests. Frequent ones first: the filter is read from the top.
//
// Not on it, on purpose: execve and execveat, fork and vfork, ptrace,
// process_vm_readv, process_madvise, kcmp, setns, unshare, mount and its kin, chroot,
// keyctl, bpf, perf_event_open, userfaultfd, io_uring_setup, init_module, reboot, all
// set*id and capset, setrlimit, personality, prctl but for naming memory,
// shmat, socketpair, symlinkat, mknodat, truncate by name, seccomp and landlock
// themselves.
func groups(p Profile) []group {
	list := []group{
		{why: "read, write and wait: files, sockets, the poller", names: []string{
			"read", "write", "futex", "epoll_pwait", "epoll_pwait2", "epoll_wait", "nanosleep", "close",
			"pread64", "pwrite64", "readv", "writev", "lseek", "epoll_ctl", "epoll_create1", "eventfd2", "pipe2",
			"poll", "ppoll", "pselect6", "fcntl", "dup", "dup3",
		}},
		{why: "the runtime's clocks, scheduler, signals and end", names: []string{
			"clock_gettime", "clock_getres", "gettimeofday", "clock_nanosleep", "sched_yield", "sched_getaffinity", "getpid",
			"gettid", "getcpu", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
			"exit", "exit_group", "getrandom",
		}},
		{why: "the C library's threads, in a binary built with cgo", names: []string{"set_robust_list", "rseq"}},
		{why: "memory: heap, bbolt's map, the locked region", names: []string{
			"munmap", "madvise", "mlock", "mlock2", "munlock", "msync", "mincore",
		}},
		{why: "files: bbolt, the audit log, secret files, /proc of callers", names: []string{
			"openat", "fstat", "newfstatat", "fstatat", "statx", "getdents64", "fsync", "fdatasync", "ftruncate", "fallocate", "flock",
			"readlinkat", "faccessat", "faccessat2", "fstatfs", "statfs", "renameat", "renameat2", "linkat", "unlinkat",
			"mkdirat", "fchmod", "fchmodat", "copy_file_range", "sendfile", "splice", "getcwd",
			"open", "stat", "lstat", "rename", "link", "unlink", "mkdir", "rmdir", "chmod", "readlink", "access",
		}},
		{why: "who and what we are: file checks, logs, metrics", names: []string{
			"getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "getppid", "uname", "getrusage",
			"sysinfo", "getrlimit",
		}},
		{why: "sockets of any kind that socket(2) below gives", names: []string{
			"connect", "accept4", "bind", "listen", "getsockname", "getpeername", "getsockopt", "setsockopt", "sendto",
			"recvfrom", "sendmsg", "recvmsg", "shutdown",
		}},
		{why: "callers: is the process still there (unix/peer)", names: []string{"pidfd_open"}},
		{why: "what only some arguments are good for", only: conditional(p)},
		// The C library falls back to clone(2) on ENOSYS and on nothing else. A filter
		// cannot look into clone3's arguments.
		{why: "clone3 is told not to exist", names: []string{"clone3"}, answer: refuse(unix.ENOSYS)},
	}
	if p.Chown {
		list = append(list, group{why: "sockets for a group", names: []string{"chown", "lchown", "fchown", "fchownat"}})
	}
	if p.MemfdSecret {
		list = append(list, group{why: "the locked region; the memory that survives a restart", names: []string{"memfd_secret"}})
	}
	if p.Memfd {
		list = append(list, group{why: "restart_memory = \"unsafe-memfd\"", names: []string{"memfd_create"}})
	}
	for i := range list {
		if list[i].answer == 0 {
			list[i].answer = seccomp.ActionAllow
		}
	}
	return list
}

// namespaces are the flags of clone(2) that make new ones.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET

func conditional(p Profile) []seccomp.NameWithConditions {
	self := uint64(os.Getpid())
	const writable = unix.PROT_READ | unix.PROT_WRITE
	calls := []seccomp.NameWithConditions{
		// No memory becomes executable, so no code comes in that was not in the binary.
		when("mmap", is(2, seccomp.LessOrEqual, writable)),
		when("mprotect", is(2, seccomp.LessOrEqual, writable)),
		// Threads, and nothing that leaves the process.
		when("clone", is(0, seccomp.BitsSet, unix.CLONE_THREAD), is(0, seccomp.BitsNotSet, namespaces)),
		// Signals to ourselves (preemption), and the question whether a caller is there.
		when("tgkill", is(0, seccomp.Equal, self)),
		when("kill", is(0, seccomp.Equal, self)),
		when("pidfd_send_signal", is(1, seccomp.Equal, 0)),
		// Go names its memory (PR_SET_VMA); dumpable stays as it is.
		when("prctl", is(0, seccomp.Equal, unix.PR_SET_VMA)),
		// Limits of our own are read, never set.
		when("prlimit64", is(0, seccomp.Equal, 0), is(2, seccomp.Equal, 0)),
		// Is stderr a terminal.
		when("ioctl", is(1, seccomp.Equal, unix.TCGETS)),
		when("socket", is(0, seccomp.Equal, unix.AF_UNIX)),
	}
	return append(calls, inet(p)...)
}

// inet are the Internet sockets: TCP, and UDP only to look up names. The protocol is
// fixed because Landlock does not see MPTCP, SCTP and raw sockets.
func inet(p Profile) []seccomp.NameWithConditions {
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	kinds := [][2]uint64{{unix.SOCK_STREAM | flags, 0}, {unix.SOCK_STREAM | flags, unix.IPPROTO_TCP}}
	if p.Resolve {
		kinds = append(kinds, [2]uint64{unix.SOCK_DGRAM | flags, 0}, [2]uint64{unix.SOCK_DGRAM | flags, unix.IPPROTO_UDP})
	}
	var out []seccomp.NameWithConditions
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for _, k := range kinds {
			out = append(out, when("socket", is(0, seccomp.Equal, family), is(1, seccomp.Equal, k[0]), is(2, seccomp.Equal, k[1])))
		}
	}
	return out
}

func when(name string, all ...seccomp.Condition) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{Name: name, Conditions: all}
}

func is(argument uint32, op seccomp.Operation, value uint64) seccomp.Condition {
	return seccomp.Condition{Argument: argument, Operation: op, Value: value}
}
