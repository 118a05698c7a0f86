package cli

import "time"

// switched is what a test may change in the daemon: its clock, and where an
// exchange stops. Only a binary that was built with the tag testswitch has it;
// in the product both are nil.
type switched struct {
	now  func() time.Time
	step func(name string)
}
