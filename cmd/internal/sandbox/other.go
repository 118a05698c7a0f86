//go:build !linux

package sandbox

import (
	"fmt"
	"runtime"
)

func why() string { return "there is none on " + runtime.GOOS }

// Harden does nothing where there is no Linux, and says so.
func Harden() []Part {
	return []Part{{Name: NotDumpable, Why: why()}, {Name: NoCoreDumps, Why: why()}, {Name: NoNewPrivs, Why: why()}}
}

// Enter does nothing where there is no Linux, and says so; with Require that is the
// error.
func Enter(p Profile) ([]Part, error) {
	if p.Mode == Require {
		return off(why()), fmt.Errorf("enter the sandbox: %s: %s", NotDumpable, why())
	}
	return off(why()), nil
}

// Available says that there is nothing where there is no Linux.
func Available() []Part { return off(why()) }
