package daemon

import "golang.org/x/sys/unix"

// monotonicMicroseconds is CLOCK_MONOTONIC, as sd_notify(3) wants it beside
// RELOADING=1. It is the kernel's clock by contract, not the daemon's.
func monotonicMicroseconds() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano() / 1000
}
