package sandbox

import (
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
)

// TestCallsAreKnown: a name that no table knows is a slip of the pen, which the filter
// would leave out without a word; a name in two groups is one too many.
func TestCallsAreKnown(t *testing.T) {
	seen := map[string]bool{}
	count := 0
	for _, g := range groups(Profile{Resolve: true, Chown: true, MemfdSecret: true, Memfd: true}) {
		names := slices.Clone(g.names)
		for _, c := range g.only {
			if !slices.Contains(names, c.Name) { // one name has a line for each set of arguments
				names = append(names, c.Name)
			}
		}
		for _, name := range names {
			if _, ok := arch.X86_64.SyscallNames[name]; !ok && name != "fstatat" { // arm64's newfstatat
				t.Errorf("%s: amd64 has no system call %s", g.why, name)
			}
			if seen[name] {
				t.Errorf("%s: %s stands in another group", g.why, name)
			}
			seen[name] = true
			count++
		}
		if g.why == "" {
			t.Errorf("a group of %v says no reason", names)
		}
	}
	t.Logf("figure: %d of %d system calls are allowed, %d of them with some arguments only",
		count-1, len(arch.X86_64.SyscallNames), len(onlyNames(Profile{})))
}

func onlyNames(p Profile) map[string]bool {
	out := map[string]bool{}
	for _, c := range conditional(p) {
		out[c.Name] = true
	}
	return out
}

// TestArm64HasWhatGoCalls: what amd64 alone has is there twice, in its newer form.
func TestArm64HasWhatGoCalls(t *testing.T) {
	older := []string{
		"open", "stat", "lstat", "rename", "link", "unlink", "mkdir", "rmdir", "chmod", "readlink", "access", "poll", "epoll_wait",
		"chown", "lchown", "newfstatat",
	}
	for name := range arch.X86_64.SyscallNames {
		_, has := arch.AARCH64.SyscallNames[name]
		for _, g := range groups(Profile{Chown: true}) {
			if slices.Contains(g.names, name) && !has && !slices.Contains(older, name) {
				t.Errorf("arm64 has no %s, and what stands in for it is not on the list", name)
			}
		}
	}
}

// TestNothingThatMakesMore: none of these is ever on the list, whatever the profile.
func TestNothingThatMakesMore(t *testing.T) {
	never := []string{
		"execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "keyctl", "add_key", "bpf",
		"mount", "setns", "unshare", "chroot", "perf_event_open", "io_uring_setup", "userfaultfd", "seccomp", "setrlimit",
		"landlock_create_ruleset", "setuid", "setresuid", "capset", "personality", "truncate", "symlinkat", "mknodat", "pidfd_getfd",
		"pkey_mprotect", "shmat", "tkill", "rt_sigqueueinfo", "socketpair", "open_by_handle_at", "memfd_create", "memfd_secret", "fchownat",
	}
	for _, g := range groups(Profile{Resolve: true}) {
		for _, name := range never {
			if slices.Contains(g.names, name) {
				t.Errorf("%s is allowed: %s", name, g.why)
			}
		}
	}
}
