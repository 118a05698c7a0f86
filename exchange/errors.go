package exchange

import (
	"fmt"
	"time"
)

// Class says what an attempt that brought no usable answer may have done at
// Human API. The set is closed; whoever retries branches on it.
type Class string

const (
	// NotSent: no byte of the request left this machine (name, connect, TLS or
	// proxy failed, or the time was up before). Nothing took effect.
	NotSent Class = "not sent"
	// Unknown: at least a byte was sent and no final answer came (timeout,
	// reset, 5xx, 3xx, 408, 421, 425, an answer cut short or that is no HTTP). It
	// may have taken effect.
	Unknown Class = "unknown"
	// TryLater: 429. Answered, and nothing took effect.
	TryLater Class = "try later"
	// Unauthorized: 401 or 403. The clientSecret may be an old one.
	Unauthorized Class = "unauthorized"
	// Refused: any other 4xx.
	Refused Class = "refused"
	// Invalid: a whole 2xx that is a JSON object, but lacks a field that we
	// need, or has one twice, of a wrong type, too long, or with control
	// characters; for PublicToken also one about another user. It took effect.
	Invalid Class = "invalid"
	// Unreadable: a whole 2xx that is empty, too large or no JSON object. It
	// may have taken effect, and asking again may tell.
	Unreadable Class = "unreadable"
)

// Error is the only error that Tokens and PublicToken return. Its text is made
// of our own words, numbers and the pinned origin: nothing that Human API, a
// proxy or a certificate said is in it, and no id or token of anybody.
type Error struct {
	Class  Class
	Status int // HTTP status; 0 when there was none
	// RetryAfter is Human API's advice on a 429 or what is Unknown, at most an hour; 0: none.
	RetryAfter time.Duration
	// Err is what was attempted and why it failed. It matches
	// context.DeadlineExceeded, context.Canceled and syscall.Errno where those
	// were the cause.
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("%v (%s)", e.Err, e.Class) }

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }
