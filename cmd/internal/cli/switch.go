package cli

import (
	"time"

	"github.com/tokenvault/tokenvault/unix/peer"
)

// switched is what a test may change in the daemon: its clock, where an
// exchange stops, and what the kernel tells of callers. Only a binary that was built with the tag testswitch has it;
// in the product both are nil.
type switched struct {
	now  func() time.Time
	step func(name string)
	// peers tells callers as an older kernel does.
	peers peer.Reader
}
