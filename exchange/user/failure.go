package user

import (
	"errors"
	"fmt"
	"time"
)

// Failure is a kind of failure that a caller can act on. The set is closed; the
// server turns kinds into wire codes in one table.
type Failure string

const (
	UnknownUser         Failure = "unknown user"         // no record of that user
	AmbiguousUser       Failure = "ambiguous user"       // two humanIds under one clientUserId
	UserMismatch        Failure = "user mismatch"        // the answer, or the known user, is somebody else
	SessionConflict     Failure = "session conflict"     // this session token came with another humanId
	SessionRefused      Failure = "session refused"      // Human API said no to the session token
	ExchangeUnknown     Failure = "indeterminate"        // it may have taken effect, and cannot be known
	NoAccessToken       Failure = "no access token"      // the record holds none
	Forgotten           Failure = "forgotten"            // the user was deleted here
	UpstreamInvalid     Failure = "upstream invalid"     // Human API's answer does not fit
	UpstreamUnavailable Failure = "upstream unavailable" // Human API cannot be reached, nothing was sent
	ExchangePending     Failure = "exchange pending"     // sent, not answered yet; the daemon goes on
	TooManyWaiting      Failure = "too many waiting"     // of this user, of this rule, in all, or failed too often lately; nothing was sent
	VaultUnavailable    Failure = "vault unavailable"    // Vault cannot be reached, and nothing is held
	VaultStale          Failure = "vault stale"          // Vault was last heard longer than max_stale ago
	SecretUnavailable   Failure = "secret unavailable"   // Vault answers, and says no or has none
	StoreUnavailable    Failure = "store unavailable"    // the store cannot take or give it
	RowDamaged          Failure = "row damaged"          // a row of that user is there and cannot be opened; waiting does not help
	AuditUnavailable    Failure = "audit unavailable"    // the audit log cannot take it
	Draining            Failure = "draining"             // the daemon is stopping
)

// Error is an error of a known kind. Err is the cause; it is for the daemon's
// log, and its text never goes to a caller.
type Error struct {
	Kind       Failure
	RetryAfter time.Duration // 0: no advice
	Err        error         // may be nil
}

// Fail returns an *Error of that kind, with the cause formatted as by
// fmt.Errorf. The text must not contain a secret or upstream's words.
func Fail(kind Failure, format string, args ...any) *Error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Kind)
	}
	return string(e.Kind) + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of err, or "" when it has none.
func KindOf(err error) Failure {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return ""
}
