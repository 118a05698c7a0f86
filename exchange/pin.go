package exchange

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ErrNotPinned is matched by the error of an attempt that met a certificate
// which is valid, and not one of Config.Pins.
var ErrNotPinned = errors.New("the certificate is valid, but its key is not among the pins (humanapi.pins)")

// pin is the SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 7469 section 2.4).
type pin [sha256.Size]byte

// parsePins reads "sha256/BASE64". A pin that can never match is an error, and so
// are pins where there is no certificate to hold against them.
func parsePins(texts []string, secure bool) (map[pin]bool, error) {
	if len(texts) > 0 && !secure {
		return nil, errors.New("pins for Human API: its URL is not https, so there is no certificate to hold against them")
	}
	pins := make(map[pin]bool, len(texts))
	for i, text := range texts {
		code, ok := strings.CutPrefix(text, "sha256/")
		sum, err := base64.StdEncoding.Strict().DecodeString(code)
		if !ok || err != nil || len(sum) != sha256.Size || strings.ContainsAny(code, "\r\n") {
			return nil, fmt.Errorf(`pins for Human API: number %d is not "sha256/" and the base64 of 32 bytes`, i+1)
		}
		pins[pin(sum)] = true
	}
	return pins, nil
}

// verifyPins is for tls.Config.VerifyConnection, which is asked on every
// connection, resumed ones included, and after the chains have been verified. Any
// certificate of a verified chain may be the pinned one: the server's own, an
// intermediate's, or a root's.
func verifyPins(pins map[pin]bool) func(tls.ConnectionState) error {
	if len(pins) == 0 {
		return nil
	}
	return func(s tls.ConnectionState) error {
		for _, chain := range s.VerifiedChains {
			for _, c := range chain {
				if pins[sha256.Sum256(c.RawSubjectPublicKeyInfo)] {
					return nil
				}
			}
		}
		return ErrNotPinned
	}
}
