package exchange

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
)

// origin is one scheme, host and port, and nothing else.
type origin struct {
	secure   bool
	host     string // for the Host header: as in the URL, without a default port
	hostname string // without port and brackets
	address  string // host:port to dial
}

func (o origin) String() string {
	if o.secure {
		return "https://" + o.host
	}
	return "http://" + o.host
}

// parseOrigin reads the pinned origin, and refuses what would send a secret in
// clear over anything but the loopback interface.
func parseOrigin(c Config) (origin, error) {
	o, err := readOrigin(c.UserURL)
	if err != nil {
		return origin{}, fmt.Errorf("the URL of Human API: %w", err)
	}
	if o.secure {
		return o, nil
	}
	switch {
	case !c.UnsafePlainHTTP:
		err = errors.New("http is not allowed, only https")
	case !isLoopback(o.hostname):
		err = errors.New("http is allowed to a loopback address only")
	case c.ProxyURL != "":
		err = errors.New("http through a proxy is not allowed")
	default:
		return o, nil
	}
	return origin{}, fmt.Errorf("the URL of Human API: %w", err)
}

// readOrigin takes an http or https URL that is nothing but an origin. The URL
// itself is in no error: somebody may have put a password into it.
func readOrigin(text string) (origin, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" {
		return origin{}, errors.New("not an http or https URL with a host")
	}
	if u.User != nil {
		return origin{}, errors.New("a user name or password in it is not allowed")
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#") {
		return origin{}, errors.New("only scheme, host and port are allowed in it")
	}
	if strings.Trim(u.Host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]") != "" || u.Hostname() == "" {
		return origin{}, errors.New("not a host name (a name in another script must be in its xn-- form)")
	}
	o := origin{secure: u.Scheme == "https", hostname: u.Hostname(), host: strings.ToLower(strings.TrimSuffix(u.Host, ":"))}
	port := map[bool]string{true: "443", false: "80"}[o.secure]
	if p := u.Port(); p != "" && p != port {
		port = p
	} else {
		o.host = strings.TrimSuffix(o.host, ":"+port)
	}
	o.address = net.JoinHostPort(o.hostname, port)
	return o, nil
}

// isLoopback reports whether a host name in a URL can be nothing but this
// machine; what "localhost" resolves to is checked again when it is dialled.
func isLoopback(hostname string) bool {
	ip := net.ParseIP(hostname)
	return strings.EqualFold(hostname, "localhost") || ip != nil && ip.IsLoopback()
}

// newTLS is the configuration for one server name. A nil pool means the
// system's roots.
func newTLS(hostname string, roots *x509.CertPool) *tls.Config {
	return &tls.Config{ServerName: hostname, RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

// readRoots reads certificate authorities from a PEM file of at most 1 MiB.
func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authorities for Human API: %w", err)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, 1<<20+1))
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authorities for Human API: %w", err)
	}
	roots := x509.NewCertPool()
	if len(pem) > 1<<20 || !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the certificate authorities for Human API: %s holds no certificate in PEM, or is over 1 MiB", path)
	}
	return roots, nil
}
