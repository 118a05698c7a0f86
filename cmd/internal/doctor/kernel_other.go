//go:build !linux

package doctor

import (
	"errors"

	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
)

var errNotLinux = errors.New("this is not Linux")

// running knows nothing where there is no Linux.
var running = kernel{
	pidfd: notLinux, peerPidfd: notLinux, secretmem: notLinux, sandbox: sandbox.Available,
	synced: func() (bool, error) { return false, errNotLinux },
	free:   func(string) (uint64, [2]int32, error) { return 0, [2]int32{}, errNotLinux },
}

func notLinux() error { return errNotLinux }
