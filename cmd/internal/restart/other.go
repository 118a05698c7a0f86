//go:build !linux

package restart

import (
	"errors"
	"os"
	"time"
)

var errPlatform = errors.New("only Linux has memory that survives a restart")

// region does not exist here.
type region struct {
	file   *os.File
	bytes  []byte
	secret bool
}

func (r *region) slots() [2][]byte { return [2][]byte{} }
func (r *region) close()           {}

func create(int, bool) (*region, error) { return nil, errPlatform }

func adopt(*os.File) (*region, error) { return nil, errPlatform }

// Keep always fails: there is no systemd.
func Keep(string, *os.File) error { return errPlatform }

// Drop always fails: there is no systemd.
func Drop(string) error { return errPlatform }

func systemBoot() (id string, since time.Duration) { return "", 0 }
