package exchange

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// authority is a certificate authority of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func pinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}

// issue makes a certificate for 127.0.0.1, signed by a, or by itself.
func (a authority) issue(t testing.TB, name string, isCA bool) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: isCA, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	parent, signer := form, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, form, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func TestPins(t *testing.T) {
	root := authority{}.issue(t, "root", true)
	other := authority{}.issue(t, "another root that is trusted", true)
	middle := root.issue(t, "intermediate", true)
	leaf := middle.issue(t, "server", false)
	sim, url, _ := startTLS(t, func(s *httptest.Server) {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{{
			// other is sent, and proves nothing: it is in no verified chain.
			Certificate: [][]byte{leaf.cert.Raw, middle.cert.Raw, other.cert.Raw}, PrivateKey: leaf.key}}}
	})
	var trusted []byte
	for _, a := range []authority{root, other} {
		trusted = append(trusted, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
	}
	ca := writeFile(t, "ca.pem", trusted)
	unused := authority{}.issue(t, "unused", true)
	for name, m := range map[string]struct {
		pins []string
		ok   bool
	}{
		"none":                {nil, true},
		"the server's":        {[]string{pinOf(leaf.cert)}, true},
		"an intermediate's":   {[]string{pinOf(middle.cert)}, true},
		"the root's":          {[]string{pinOf(root.cert)}, true},
		"one of two":          {[]string{pinOf(unused.cert), pinOf(root.cert)}, true},
		"not the chain's":     {[]string{pinOf(unused.cert)}, false},
		"sent, but not in it": {[]string{pinOf(other.cert)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := sim.Count(tokensPath)
			c := newClient(t, Config{UserURL: url, CAFile: ca, Pins: m.pins})
			_, err := c.Tokens(t.Context(), finish(sim))
			if m.ok {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if e := wantClass(t, err, NotSent, 0); !errors.Is(e, ErrNotPinned) || sim.Count(tokensPath) != before {
				t.Errorf("got %v, and %d requests arrived", err, sim.Count(tokensPath)-before)
			}
		})
	}
	// A pin replaces no other check.
	_, err := newClient(t, Config{UserURL: url, Pins: []string{pinOf(leaf.cert)}}).Tokens(t.Context(), finish(sim))
	if e := wantClass(t, err, NotSent, 0); !strings.Contains(e.Error(), "unknown authority") {
		t.Errorf("got %v", err)
	}
}

// A TLS session that is resumed shows no certificate; the pins are held against the
// chain of the first one. We resume none; should that change, this still holds.
func TestPinsOnResumption(t *testing.T) {
	sim, url, ca := startTLS(t, nil)
	c := Config{UserURL: url, CAFile: ca}
	o, err := parseOrigin(c)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDialer(c, o)
	if err != nil {
		t.Fatal(err)
	}
	if d.tls.ClientSessionCache != nil {
		t.Error("sessions are kept for resumption")
	}
	var resumed []bool
	d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	watch := func(pins func(tls.ConnectionState) error) {
		d.tls.VerifyConnection = func(s tls.ConnectionState) error {
			resumed = append(resumed, s.DidResume)
			return pins(s)
		}
	}
	connect := func() error {
		cl := newClient(t, c)
		cl.pool.dial = d.dial
		_, err := cl.Tokens(t.Context(), finish(sim))
		return err
	}
	watch(func(tls.ConnectionState) error { return nil })
	if err := connect(); err != nil {
		t.Fatal(err)
	}
	watch(verifyPins(map[pin]bool{{1}: true}))
	if err := connect(); !errors.Is(err, ErrNotPinned) {
		t.Errorf("got %v", err)
	}
	if fmt.Sprint(resumed) != "[false true]" {
		t.Errorf("resumed: %v", resumed)
	}
}

func TestBadPins(t *testing.T) {
	good := "sha256/" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, c := range map[string]Config{
		"no hash":        {Pins: []string{good[7:]}},
		"another hash":   {Pins: []string{"sha1/" + good[7:]}},
		"upper case":     {Pins: []string{"SHA256/" + good[7:]}},
		"too short":      {Pins: []string{"sha256/" + base64.StdEncoding.EncodeToString(make([]byte, 31))}},
		"too long":       {Pins: []string{"sha256/" + base64.StdEncoding.EncodeToString(make([]byte, 33))}},
		"no padding":     {Pins: []string{strings.TrimRight(good, "=")}},
		"loose bits":     {Pins: []string{good[:len(good)-2] + "B="}},
		"URL alphabet":   {Pins: []string{"sha256/" + strings.Repeat("-", 43) + "="}},
		"line break":     {Pins: []string{good[:20] + "\n" + good[20:]}},
		"empty":          {Pins: []string{""}},
		"second":         {Pins: []string{good, "marker-client-secret"}},
		"no certificate": {Pins: []string{good}, UserURL: "http://127.0.0.1:1", UnsafePlainHTTP: true},
	} {
		if c.UserURL == "" {
			c.UserURL = "https://user.humanapi.co"
		}
		if _, err := New(c); err == nil || strings.Contains(err.Error(), markerSecret) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := New(Config{UserURL: "https://user.humanapi.co", Pins: []string{good}}); err != nil {
		t.Error(err)
	}
}

func FuzzPins(f *testing.F) {
	f.Add("sha256/" + base64.StdEncoding.EncodeToString(make([]byte, 32)))
	f.Add("sha256/")
	f.Fuzz(func(t *testing.T, text string) {
		pins, err := parsePins([]string{text}, true)
		if err != nil {
			return
		}
		for p := range pins {
			if text != "sha256/"+base64.StdEncoding.EncodeToString(p[:]) {
				t.Errorf("%q is not the one way to write it", text)
			}
		}
	})
}
