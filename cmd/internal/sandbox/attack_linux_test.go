package sandbox

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

var names = map[syscall.Errno]string{
	unix.EPERM: "EPERM", unix.EACCES: "EACCES", unix.ENOSYS: "ENOSYS", unix.EXDEV: "EXDEV", unix.EFAULT: "EFAULT",
	unix.EINVAL: "EINVAL", unix.ECONNREFUSED: "ECONNREFUSED", unix.ENOENT: "ENOENT", unix.EIO: "EIO",
}

func errorsAs(err error, errno *syscall.Errno) bool { return errors.As(err, errno) }

func init() { children["attack"] = attack }

// attempt is one thing that code in the daemon may not do.
type attempt struct {
	name string
	try  func(a args) error
	want []string // the errors that are a refusal
	from int      // the lowest Landlock ABI that refuses it
	root bool     // root may do it all the same: see the package comment
}

// args are the places that the parent made.
type args map[string]string

func (a args) port(name string) int { n, _ := strconv.Atoi(a[name]); return n }

func (a args) in(dir, name string) string { return filepath.Join(a[dir], name) }

// attack enters the sandbox, with threads that were there before, and tries all.
func attack(o order) report {
	before := make(chan func())
	old := make(chan struct{})
	go func() { // a thread of before: Enter must have it too
		runtime.LockOSThread()
		close(old)
		for f := range before {
			f()
		}
	}()
	<-old
	Harden()
	parts, err := enterAs(o)
	r := report{Parts: parts, Error: text(err), Got: map[string]string{}}
	if err != nil {
		return r
	}
	for _, a := range attempts() {
		r.Got[a.name] = errnoOf(a.try(o.Args))
	}
	for _, a := range attempts() {
		done := make(chan struct{})
		before <- func() { r.Got["on an older thread: "+a.name] = errnoOf(a.try(o.Args)); close(done) }
		<-done
	}
	return r
}

// TestAttacks: code that runs in the daemon tries what the daemon never does, on a
// thread of before and one of after, with the rights of Landlock here and of Debian
// 12's kernel, as root and as a user.
func TestAttacks(t *testing.T) {
	for _, c := range []struct {
		name   string
		abi    int
		asUser bool
	}{{"root", 0, false}, {"a user", 0, true}, {"root, Linux 6.1", 2, false}, {"a user, Linux 6.1", 2, true}, {"root, Linux 6.7", 4, false}} {
		t.Run(c.name, func(t *testing.T) {
			o := battlefield(t)
			o.Child, o.ABI = "attack", c.abi
			r := run(t, o, c.asUser)
			if r.Error != "" {
				t.Fatalf("the sandbox is not entered: %s", r.Error)
			}
			t.Logf("parts: %+v", r.Parts)
			refused := 0
			for _, a := range attempts() {
				for _, prefix := range []string{"", "on an older thread: "} {
					got, tried := r.Got[prefix+a.name]
					switch {
					case !tried:
						t.Errorf("%s%s: not tried", prefix, a.name)
					case slices.Contains(a.want, got):
						refused++
					case a.root && got == "" && !c.asUser && os.Geteuid() == 0:
						t.Logf("%s%s: not refused to root", prefix, a.name)
					case c.abi != 0 && c.abi < a.from && got == "":
						t.Logf("%s%s: not refused before ABI %d", prefix, a.name, a.from)
					default:
						t.Errorf("%s%s: got %q, want %v", prefix, a.name, got, a.want)
					}
				}
				t.Logf("%-60s %s", a.name, r.Got[a.name])
			}
			t.Logf("figure: %d attempts refused", refused)
		})
	}
}

// TestAttacksWithout: without the sandbox the same attempts are not refused, as far as
// anybody may do them. Else the test above proves nothing.
func TestAttacksWithout(t *testing.T) {
	o := battlefield(t)
	o.Child, o.Profile.Mode = "attack", Off
	r := run(t, o, true) // not as root: some of it would be done
	allowed := 0
	for _, a := range attempts() {
		if !slices.Contains(a.want, r.Got[a.name]) {
			allowed++
			continue
		}
		t.Logf("refused also without: %s: %s", a.name, r.Got[a.name])
	}
	if n := len(attempts()); allowed < n/2 {
		t.Errorf("only %d of %d attempts work without the sandbox", allowed, n)
	}
	t.Logf("figure: %d of %d attempts are refused by the sandbox alone", allowed, len(attempts()))
}

// battlefield makes what a child attacks: a directory of each kind, a listener on an
// allowed port and one on another.
func battlefield(t *testing.T) order {
	t.Helper()
	root := openDir(t)
	a := map[string]string{"parent": strconv.Itoa(os.Getpid())}
	for _, name := range []string{"read", "write", "other"} {
		a[name] = filepath.Join(root, name)
		if err := os.Mkdir(a[name], 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(a[name], 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(mustWrite(t, filepath.Join(a[name], "file")), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"allowed", "forbidden"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		a[name] = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	}
	abstract, err := net.Listen("unix", "@sandbox-test-"+a["parent"]+"-"+filepath.Base(root))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = abstract.Close() })
	a["abstract"] = abstract.Addr().String()
	port, _ := strconv.ParseUint(a["allowed"], 10, 16)
	return order{Args: a, Profile: Profile{Read: []string{a["read"]}, Write: []string{a["write"]}, Connect: []uint16{uint16(port)}}}
}

func attempts() []attempt {
	return slices.Concat(fileAttempts(), netAttempts(), processAttempts(), callAttempts())
}

var (
	noFile = []string{"EACCES", "EPERM", "EXDEV"}
	eperm  = []string{"EPERM"}
)

func read(path string) error { _, err := os.ReadFile(path); return err }

func open(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0o666)
	if err == nil {
		err = f.Close()
	}
	return err
}

func fileAttempts() []attempt {
	out := []attempt{
		{name: "read /etc/shadow", try: func(args) error { return read("/etc/shadow") }},
		{name: "read another file", try: func(a args) error { return read(a.in("other", "file")) }},
		{name: "list another directory", try: func(a args) error { _, err := os.ReadDir(a["other"]); return err }},
		{name: "write where it may read", try: func(a args) error { return open(a.in("read", "file"), os.O_WRONLY) }},
		{name: "make a file where it may read", try: func(a args) error { return open(a.in("read", "new"), os.O_RDWR|os.O_CREATE) }},
		{name: "write another file", try: func(a args) error { return open(a.in("other", "file"), os.O_WRONLY|os.O_APPEND) }},
		{name: "make a file elsewhere", try: func(a args) error { return open(a.in("other", "new"), os.O_RDWR|os.O_CREATE) }},
		{name: "make a directory elsewhere", try: func(a args) error { return os.Mkdir(a.in("other", "new"), 0o700) }},
		{name: "remove another file", try: func(a args) error { return os.Remove(a.in("other", "file")) }},
		{name: "move a file out", try: func(a args) error { return os.Rename(a.in("write", "file"), a.in("other", "moved")) }},
		{name: "link a file out", try: func(a args) error { return os.Link(a.in("write", "file"), a.in("other", "linked")) }},
		{name: "link a file in", try: func(a args) error { return os.Link(a.in("other", "file"), a.in("write", "linked")) }},
		{name: "cut a file by its name", try: func(a args) error { return unix.Truncate(a.in("other", "file"), 0) }},
		{name: "cut a file that it may read", try: func(a args) error { return open(a.in("read", "file"), os.O_RDONLY|os.O_TRUNC) }, from: 3},
		{name: "make a symbolic link", try: func(a args) error { return os.Symlink("/etc/shadow", a.in("write", "s")) }},
		{name: "make a device", try: func(a args) error { return unix.Mknod(a.in("write", "d"), unix.S_IFCHR|0o600, 0x103) }},
		{name: "make a pipe", try: func(a args) error { return unix.Mkfifo(a.in("write", "p"), 0o600) }},
		{name: "write its own memory past its protection", try: func(args) error { return open("/proc/self/mem", os.O_RDWR) }},
		{name: "write a setting of the kernel", try: func(args) error { return open("/proc/sys/kernel/core_pattern", os.O_WRONLY) }},
		{name: "open a terminal", try: func(args) error { return open("/dev/ptmx", os.O_RDWR) }},
	}
	for i := range out {
		out[i].want = noFile
	}
	return out
}

func dial(port, family, proto int) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return nil
}

func socket(family, kind, proto int) func(args) error {
	return func(args) error {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}
}

func netAttempts() []attempt {
	return []attempt{
		{name: "dial another TCP port", try: func(a args) error { return dial(a.port("forbidden"), unix.AF_INET, 0) }, want: noFile, from: 4},
		{name: "dial the same by net.Dial", try: func(a args) error {
			c, err := net.Dial("tcp", "127.0.0.1:"+a["forbidden"])
			if err == nil {
				_ = c.Close()
			}
			return err
		}, want: noFile, from: 4},
		{name: "dial with Multipath TCP", try: func(a args) error { return dial(a.port("forbidden"), unix.AF_INET, unix.IPPROTO_MPTCP) }, want: eperm},
		{name: "listen on a TCP port", try: func(args) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				_ = l.Close()
			}
			return err
		}, want: noFile, from: 4},
		{name: "another program's abstract socket", try: func(a args) error {
			c, err := net.Dial("unix", a["abstract"])
			if err == nil {
				_ = c.Close()
			}
			return err
		}, want: eperm, from: 6},
		{name: "UDP without names to look up", try: socket(unix.AF_INET, unix.SOCK_DGRAM, 0), want: eperm},
		{name: "UDP over IPv6", try: socket(unix.AF_INET6, unix.SOCK_DGRAM, 0), want: eperm},
		{name: "a raw socket", try: socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), want: eperm},
		{name: "SCTP", try: socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP), want: eperm},
		{name: "netlink", try: socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE), want: eperm},
		{name: "packets", try: socket(unix.AF_PACKET, unix.SOCK_RAW, 0), want: eperm},
		{name: "the kernel's crypto", try: socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), want: eperm},
		{name: "a virtual machine's host", try: socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0), want: eperm},
		{name: "a pair of sockets", try: func(args) error {
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				_, _ = unix.Close(p[0]), unix.Close(p[1])
			}
			return err
		}, want: eperm},
	}
}

func processAttempts() []attempt {
	return []attempt{
		{name: "execve", try: func(args) error { return call(unix.SYS_EXECVE, 0, 0, 0) }, want: eperm},
		{name: "execveat", try: func(args) error { return call(unix.SYS_EXECVEAT, ^uintptr(0), 0, 0) }, want: eperm},
		{name: "run a program", try: func(args) error { return exec.Command("/bin/true").Run() }, want: noFile},
		{name: "fork", try: func(args) error { return fork() }, want: eperm},
		{name: "a thread in a network of its own", try: func(args) error {
			return call(unix.SYS_CLONE, unix.CLONE_THREAD|unix.CLONE_NEWNET, 0, 0) // without CLONE_SIGHAND: EINVAL
		}, want: eperm},
		{name: "clone3", try: func(args) error { return call(unix.SYS_CLONE3, 0, 0, 0) }, want: []string{"ENOSYS"}},
		{name: "attach to the parent", try: func(a args) error { return unix.PtraceSeize(a.port("parent")) }, want: eperm},
		{name: "read the parent's memory", try: func(a args) error { return readv(a.port("parent")) }, want: eperm},
		{name: "open the parent's memory", try: func(a args) error { return open("/proc/"+a["parent"]+"/mem", os.O_RDONLY) }, want: noFile},
		{name: "read the parent's environment", try: func(a args) error { return read("/proc/" + a["parent"] + "/environ") }, want: noFile, root: true},
		{name: "read init's environment", try: func(args) error { return read("/proc/1/environ") }, want: noFile, root: true},
		{name: "signal the parent", try: func(a args) error { return unix.Kill(a.port("parent"), 0) }, want: eperm},
		{name: "signal a thread of the parent", try: func(a args) error {
			return unix.Tgkill(a.port("parent"), a.port("parent"), 0)
		}, want: eperm},
		{name: "signal the process group", try: func(args) error { return unix.Kill(0, 0) }, want: eperm},
		{name: "be dumpable again", try: func(args) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }, want: eperm},
		{name: "let others trace it", try: func(args) error { return unix.Prctl(unix.PR_SET_PTRACER, ^uintptr(0), 0, 0, 0) }, want: eperm},
		{name: "raise a limit", try: func(args) error {
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64})
		}, want: eperm},
		{name: "the limits of another", try: func(a args) error {
			var l unix.Rlimit
			return unix.Prlimit(a.port("parent"), unix.RLIMIT_CORE, nil, &l)
		}, want: eperm},
		{name: "memory that is executable", try: func(args) error {
			b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err == nil {
				_ = unix.Munmap(b)
			}
			return err
		}, want: eperm},
		{name: "memory made executable", try: makeExecutable, want: eperm},
	}
}

func makeExecutable(args) error {
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(b) }()
	return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
}

// fork asks for a child that shares nothing, the way that makes none when it is
// allowed: CLONE_THREAD without CLONE_SIGHAND is EINVAL (clone(2)), and so are flags
// that contradict each other.
func fork() error {
	if err := call(unix.SYS_CLONE, unix.CLONE_NEWNS|unix.CLONE_FS, 0, 0); err != syscall.EPERM {
		return err
	}
	return call(unix.SYS_CLONE, unix.CLONE_SIGHAND, 0, 0) // without CLONE_VM: EINVAL
}

func readv(pid int) error {
	var here byte
	local := []unix.Iovec{{Base: &here, Len: 1}}
	_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&here)), Len: 1}}, 0)
	return err
}

func call(number uintptr, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall6(number, a, b, c, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// callAttempts are system calls that no part of the daemon makes, with arguments that
// do nothing when they are let through.
func callAttempts() []attempt {
	var out []attempt
	for _, c := range []struct {
		name   string
		number uintptr
		arg    uintptr
	}{
		{"keyctl", unix.SYS_KEYCTL, ^uintptr(0)}, {"add_key", unix.SYS_ADD_KEY, 0}, {"request_key", unix.SYS_REQUEST_KEY, 0},
		{"bpf", unix.SYS_BPF, ^uintptr(0)}, {"perf_event_open", unix.SYS_PERF_EVENT_OPEN, 0}, {"userfaultfd", unix.SYS_USERFAULTFD, ^uintptr(0)},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, 0}, {"mount", unix.SYS_MOUNT, 0}, {"umount2", unix.SYS_UMOUNT2, 0},
		{"open_tree", unix.SYS_OPEN_TREE, 0}, {"fsopen", unix.SYS_FSOPEN, 0}, {"move_mount", unix.SYS_MOVE_MOUNT, 0},
		{"pivot_root", unix.SYS_PIVOT_ROOT, 0}, {"chroot", unix.SYS_CHROOT, 0}, {"unshare", unix.SYS_UNSHARE, ^uintptr(0)},
		{"setns", unix.SYS_SETNS, ^uintptr(0)}, {"kcmp", unix.SYS_KCMP, 0}, {"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, 0},
		{"pidfd_getfd", unix.SYS_PIDFD_GETFD, ^uintptr(0)}, {"process_madvise", unix.SYS_PROCESS_MADVISE, ^uintptr(0)},
		{"init_module", unix.SYS_INIT_MODULE, 0}, {"finit_module", unix.SYS_FINIT_MODULE, ^uintptr(0)}, {"delete_module", unix.SYS_DELETE_MODULE, 0},
		{"reboot", unix.SYS_REBOOT, 0}, {"swapon", unix.SYS_SWAPON, 0},
		{"capset", unix.SYS_CAPSET, 0}, {"seccomp", unix.SYS_SECCOMP, ^uintptr(0)}, {"landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, 0},
		{"landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF, ^uintptr(0)}, {"memfd_create", unix.SYS_MEMFD_CREATE, 0},
		{"memfd_secret", unix.SYS_MEMFD_SECRET, ^uintptr(0)}, {"fchown", unix.SYS_FCHOWN, ^uintptr(0)}, {"fchownat", unix.SYS_FCHOWNAT, ^uintptr(0)},
		{"setxattr", unix.SYS_SETXATTR, 0}, {"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, ^uintptr(0)},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, ^uintptr(0)}, {"shmget", unix.SYS_SHMGET, 0}, {"mq_open", unix.SYS_MQ_OPEN, 0},
		{"quotactl", unix.SYS_QUOTACTL, ^uintptr(0)}, {"syslog", unix.SYS_SYSLOG, ^uintptr(0)}, {"acct", unix.SYS_ACCT, 1},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, 1}, {"clock_settime", unix.SYS_CLOCK_SETTIME, ^uintptr(0)}, {"personality", unix.SYS_PERSONALITY, 0xffffffff},
		{"setuid", unix.SYS_SETUID, ^uintptr(0)}, {"setgid", unix.SYS_SETGID, ^uintptr(0)}, {"setgroups", unix.SYS_SETGROUPS, ^uintptr(0)},
		{"setresuid", unix.SYS_SETRESUID, ^uintptr(0)}, {"fanotify_init", unix.SYS_FANOTIFY_INIT, ^uintptr(0)},
		{"chdir", unix.SYS_CHDIR, 0}, {"pidfd_send_signal that means it", unix.SYS_PIDFD_SEND_SIGNAL, ^uintptr(0)},
	} {
		out = append(out, attempt{name: c.name, want: eperm, try: func(args) error {
			if c.number == unix.SYS_PIDFD_SEND_SIGNAL {
				return call(c.number, c.arg, uintptr(unix.SIGTERM), 0)
			}
			return call(c.number, c.arg, 0, 0)
		}})
	}
	return out
}
