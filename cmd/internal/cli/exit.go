package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/vault"
)

// Exit statuses. Scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitDenied      = 3
	exitUnavailable = 4
	exitFound       = 5 // the check ran and found something wrong
)

// usageError is a command line that makes no sense.
type usageError struct {
	text  string
	hints []string
}

func usagef(format string, args ...any) *usageError {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

func (e *usageError) Error() string { return e.text }

// found is what a check found; its text stands in the answer already when
// printed is true.
type found struct {
	err     error
	printed bool
}

func (f *found) Error() string { return f.err.Error() }
func (f *found) Unwrap() error { return f.err }

// status turns an error into an exit status.
func status(err error) int {
	var (
		usage *usageError
		check *found
		no    *deniedByPolicy
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &check):
		return exitFound
	case errors.As(err, &no), errors.Is(err, vault.ErrDenied), errors.Is(err, fs.ErrPermission):
		return exitDenied
	case errors.Is(err, client.ErrUnavailable), errors.Is(err, vault.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		return exitUnavailable
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return answered(e.Status)
	}
	return exitFailed
}

// answered turns the daemon's status into an exit status.
func answered(httpStatus int) int {
	switch httpStatus {
	case http.StatusForbidden:
		return exitDenied
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return exitUnavailable
	}
	return exitFailed
}
