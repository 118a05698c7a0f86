//go:build !linux

package audit

import "os"

// syncData is fsync(2), or on macOS F_FULLFSYNC.
func syncData(f *os.File) error { return f.Sync() }
