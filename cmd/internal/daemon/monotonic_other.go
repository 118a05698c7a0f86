//go:build !linux

package daemon

// monotonicMicroseconds has nobody to tell: there is no systemd here.
func monotonicMicroseconds() int64 { return 0 }
