//go:build !linux

package audit

import (
	"errors"
	"os"
)

func allocate(*os.File, int64, int64) error { return errors.ErrUnsupported }

func unsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }

func freeSpace(*os.File) (bytes int64, known bool) { return 0, false }
