package vault

import (
	"crypto/x509"
	"errors"
	"os"
)

// systemBundles is where Linux distributions keep their authorities, as
// crypto/x509 knows them (root_linux.go). They are read here because
// x509.SystemCertPool lets SSL_CERT_FILE and SSL_CERT_DIR replace them.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS, RHEL 7
	"/etc/ssl/cert.pem",                                 // Alpine
}

// systemRoots returns the first bundle that is there, or an empty pool, which
// trusts nobody.
func systemRoots() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, path := range systemBundles {
		pem, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if pool.AppendCertsFromPEM(pem) {
			break
		}
	}
	return pool, nil
}
