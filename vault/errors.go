package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
)

var (
	// ErrUnreachable is returned when Vault gave no answer that is Vault's own:
	// it could not be dialled or timed out, it is sealed, a standby, overloaded
	// or in error (412, 429, 5xx), or something else answered (HTML, a redirect).
	// What is held in memory stays valid.
	ErrUnreachable = errors.New("vault cannot be reached")
	// ErrDenied is returned when Vault itself said no, and a new login, where it
	// could help, did not help. The error names path and missing capability.
	ErrDenied = errors.New("vault denies it")
	// ErrNotFound is returned when Vault says that there is no such entry (after a
	// fresh login: a mount may have been moved), or that its current version was
	// deleted or destroyed.
	ErrNotFound = errors.New("vault has no such entry")
	// ErrMalformed is returned when Vault answered, and what it holds or was sent
	// does not fit: an entry without clientSecret, a wrapped key of another place,
	// a Transit key of the wrong kind.
	ErrMalformed = errors.New("vault holds something that does not fit")
	// ErrAnchorMoved is returned by WriteAnchor when the anchor is of another
	// version than the one to write over. Nothing was written.
	ErrAnchorMoved = errors.New("the anchor was written by somebody else")
	// ErrTooOld is returned by Unwrap when Transit's min_decryption_version is
	// above the version that the key was wrapped under.
	ErrTooOld = errors.New("wrapped under a version that transit no longer opens")
	// ErrUnconfirmed is returned when Vault has nothing at a path and refuses the
	// login that would make that believable, while the old token works. Waiting
	// helps, or the operator.
	ErrUnconfirmed = errors.New("vault's answer is not believed yet")
)

// noAnswer is why Vault counts as unreachable. It is made in the transport and
// found again below the wrappings that net/http and vault/api add, which are
// dropped: they carry text that is not ours.
type noAnswer struct {
	why   string
	cause error // may be nil
	busy  bool  // something that works for its answers gave one: it is asked rarely
}

func (e *noAnswer) Error() string {
	if e.cause == nil {
		return ErrUnreachable.Error() + ": " + e.why
	}
	return ErrUnreachable.Error() + ": " + e.why + ": " + e.cause.Error()
}

func (e *noAnswer) Is(target error) bool { return target == ErrUnreachable }

func (e *noAnswer) Unwrap() error { return e.cause }

// isBusy reports whether err is the answer of something that is there, and not
// silence.
func isBusy(err error) bool {
	known, ok := errors.AsType[*noAnswer](err)
	return ok && known.busy
}

// unreachable finds the noAnswer in err, or makes one in our words.
func unreachable(err error) error {
	if known, ok := errors.AsType[*noAnswer](err); ok {
		return known
	}
	return inOurWords(err)
}

// inOurWords tells a failed round trip without anything that the peer sent:
// net/http quotes malformed answers, crypto/x509 the names in a certificate.
func inOurWords(err error) *noAnswer {
	if certificate, ok := certificateTrouble(err); ok {
		return certificate
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return &noAnswer{why: "what answers does not speak TLS"}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &noAnswer{why: "given up", cause: context.Canceled}
	case errors.Is(err, context.DeadlineExceeded):
		return &noAnswer{why: "no answer in time", cause: context.DeadlineExceeded}
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" { // crypto/tls's word for an alert
		return &noAnswer{why: "it ends the TLS handshake: it may want a client certificate, or not take ours", cause: op}
	} else if ok {
		return &noAnswer{why: "connection failed", cause: op}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &noAnswer{why: "the connection was closed in the middle of the answer"}
	}
	return &noAnswer{why: "what answers does not speak HTTP as Vault does"}
}

func certificateTrouble(err error) (*noAnswer, bool) {
	if errors.Is(err, errNoPin) {
		return &noAnswer{why: errNoPin.Error()}, true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return &noAnswer{why: "its certificate is signed by no authority that ca_file, or the system, names"}, true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return &noAnswer{why: "its certificate is for another name than address, or tls_server_name, says"}, true
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return &noAnswer{why: "its certificate has expired or is not valid yet"}, true
		}
		return &noAnswer{why: "its certificate is not valid for a server"}, true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &noAnswer{why: "its certificate cannot be verified"}, true
	}
	return nil, false
}

// denied is ErrDenied with what the operator must grant.
func denied(path string, missing ...string) error {
	if len(missing) == 0 {
		return fmt.Errorf("%w: %s (its policies name the capability, and something else in Vault refuses)", ErrDenied, path)
	}
	return fmt.Errorf("%w: the token's policies lack %s on %q", ErrDenied, list(missing), path)
}
