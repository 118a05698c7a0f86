package vaulttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates for a test. It and they are valid for an hour,
// from an hour ago.
type Authority struct {
	CAFile string // PEM

	t           testing.TB
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	issued      int64
}

// NewAuthority makes one. Its name, and those of what it signs, are markers that
// no error may quote.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, key: newKey(t)}
	a.certificate = a.template("marker-upstream-ca")
	a.certificate.IsCA, a.certificate.BasicConstraintsValid, a.certificate.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, a.certificate, a.certificate, a.key.Public(), a.key)
	must(t, err)
	a.certificate, err = x509.ParseCertificate(der)
	must(t, err)
	a.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	WritePEM(t, a.CAFile, "CERTIFICATE", der)
	return a
}

// Server returns a certificate for a server of that name.
func (a *Authority) Server(name string) TLS {
	a.t.Helper()
	c := a.template("marker-upstream")
	c.DNSNames, c.ExtKeyUsage = []string{name}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	dir := a.t.TempDir()
	files := TLS{ServerName: name, CAFile: a.CAFile, CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	a.sign(c, files.CertFile, files.KeyFile)
	return files
}

// Client writes a certificate for a client of that name, and its key.
func (a *Authority) Client(name, certFile, keyFile string) {
	a.t.Helper()
	c := a.template(name)
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	a.sign(c, certFile, keyFile)
}

func (a *Authority) template(name string) *x509.Certificate {
	a.issued++
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.issued), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
}

func (a *Authority) sign(c *x509.Certificate, certFile, keyFile string) {
	a.t.Helper()
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, c, a.certificate, key.Public(), a.key)
	must(a.t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.t, err)
	WritePEM(a.t, certFile, "CERTIFICATE", der)
	WritePEM(a.t, keyFile, "PRIVATE KEY", keyDER)
}

// WritePEM writes a file of one block that nobody else can read.
func WritePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}
