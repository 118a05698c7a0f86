# Run by hardened.sh under the daemon's own unit: each must be refused.
try() { # NAME COMMAND…
  what=$1; shift
  if "$@" >/dev/null 2>&1; then echo "allowed: $what"; else echo "refused: $what"; fi
}
# A system call that is refused as such says EPERM; anything else was let through
# to the kernel.
call() { perl -e 'my ($n, @a) = map { 0 + $_ } @ARGV; exit(syscall($n, @a) == -1 && $! == 1 ? 1 : 0)' "$@"; }
try "reading /etc/shadow" cat /etc/shadow
try "writing to /etc" touch /etc/probe
try "writing to /usr" touch /usr/probe
try "writing beside its configuration" touch /etc/tokenvault/probe
try "reading /root" ls /root
try "reading /home" ls /home
try "the kernel's log" dmesg
try "the disks" sh -c 'ls /dev/*da /dev/mem /dev/kmsg'
try "a user namespace" unshare -U true
try "a mount" mount -t tmpfs tmpfs /mnt
try "the host name" hostname probe
try "a kernel setting" sh -c 'echo 0 >/proc/sys/kernel/randomize_va_space'
try "the cgroup tree" mkdir /sys/fs/cgroup/probe
try "becoming another user" setpriv --reuid=33 true
try "a raw socket" perl -e 'use Socket; socket(my $s, AF_INET, SOCK_RAW, 1) or exit 1'
try "a packet socket" perl -e 'socket(my $s, 17, 3, 768) or exit 1'
try "a netlink socket" perl -e 'socket(my $s, 16, 3, 0) or exit 1'
try "ptrace" call 101 0 0 0 0
try "another process's memory" sh -c 'head -c 1 /proc/1/mem'
try "bpf" call 321 0 0 0
try "keyrings of others" call 250 11 -4
try "a kernel module" call 175 0 0 0
try "kexec" call 246 0 0 0 0
try "the clock" date -s 2001-01-01
try "writable and executable memory" call 9 0 4096 7 34 -1 0
try "real-time scheduling" call 144 0 1 0
try "a setuid file" sh -c 'touch /tmp/s$$ && chmod u+s /tmp/s$$'
try "more open files" sh -c 'ulimit -n 20000'
echo done
