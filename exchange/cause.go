package exchange

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// ownError is a text of ours, fit for printing.
type ownError string

func (e ownError) Error() string { return string(e) }

// failure names what was attempted.
func failure(o origin, path string, why error) error {
	return fmt.Errorf("posting to %s%s: %w", o, path, why)
}

// describe turns an error of the network, TLS or HTTP libraries into one of our
// own words: theirs quote certificates, status lines and headers. What is
// unknown becomes the attempt alone.
func describe(ctx context.Context, attempt string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("given up: %w", ctx.Err())
	}
	for _, own := range []error{errTooLarge, errHeadTooLarge, errNotLoopback, ErrPrivateAddress, ErrNotPinned} {
		if errors.Is(err, own) {
			return own
		}
	}
	if own, ok := errors.AsType[ownError](err); ok {
		return own
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return fmt.Errorf("%s: %w", attempt, errno)
	}
	if why := reason(err); why != "" {
		return fmt.Errorf("%s: %s", attempt, why)
	}
	return errors.New(attempt)
}

// reason names the kinds of errors that an operator can do something about.
func reason(err error) string {
	if is[*net.DNSError](err) {
		return "the name cannot be resolved"
	}
	if is[x509.UnknownAuthorityError](err) {
		return "the certificate is signed by an unknown authority"
	}
	if is[x509.HostnameError](err) {
		return "the certificate is for another name"
	}
	if c, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if c.Reason == x509.Expired {
			return "the certificate has expired or is not valid yet"
		}
		return "the certificate is not valid"
	}
	if is[tls.RecordHeaderError](err) {
		return "the other side does not speak TLS"
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "the connection was closed too early"
	}
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() {
		return "no answer in time"
	}
	return ""
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
