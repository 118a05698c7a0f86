package vault

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// pinForm begins a pin; the rest is the SHA-256 of a SubjectPublicKeyInfo in
// base64, as in RFC 7469, section 2.4.
const (
	pinForm   = "sha256/"
	pinLength = 44 // characters of base64
)

// pins are the keys of which one must be in the chain that was verified.
type pins map[[sha256.Size]byte]struct{}

// errNoPin is returned when no certificate of a verified chain has a pinned key.
var errNoPin = errors.New("no key in its certificate's chain is one of pins")

// newPins parses pins; none of them is nil.
func newPins(list []string) (pins, error) {
	if len(list) == 0 {
		return nil, nil
	}
	p := pins{}
	for _, pin := range list {
		encoded, ok := strings.CutPrefix(pin, pinForm)
		sum, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if !ok || err != nil || len(sum) != sha256.Size || len(encoded) != pinLength { // encoding/base64 skips line ends
			return nil, fmt.Errorf("vault pins: %q is not sha256/ and 44 characters of base64", pin)
		}
		p[[sha256.Size]byte(sum)] = struct{}{}
	}
	return p, nil
}

// check implements tls.Config.VerifyConnection, which is called for every
// connection, after the chain was verified, and also where a session is resumed.
func (p pins) check(s tls.ConnectionState) error {
	for _, chain := range s.VerifiedChains {
		if p.names(chain) {
			return nil
		}
	}
	return errNoPin
}

func (p pins) names(chain []*x509.Certificate) bool {
	for _, c := range chain {
		if _, ok := p[sha256.Sum256(c.RawSubjectPublicKeyInfo)]; ok {
			return true
		}
	}
	return false
}
