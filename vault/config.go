package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Config is where Vault is, what is where in it, and how to log in.
type Config struct {
	Address       string        // required: https://host[:port][/prefix]
	Namespace     string        // "" = none
	CAFile        string        // PEM; "" = the system's authorities. Read once, by New
	TLSServerName string        // "" = the host of Address
	Pins          []string      // "sha256/BASE64" (RFC 7469, section 2.4): keys of which one must be in Vault's verified chain; none: any
	Timeout       time.Duration // of one request, 0 = 5 s

	KVMount      string // KV v2, default "secret"
	AppsPath     string // entry <AppsPath>/<client_id>, default "tokenvault/apps"
	StatePath    string // default "tokenvault/state"
	TransitMount string // default "transit"
	TransitKey   string // default "tokenvault"

	Auth AuthConfig

	UnsafePlainHTTP bool // allows http, and then dials nothing but loopback addresses

	Now       func() time.Time // nil = time.Now
	Logger    *slog.Logger     // nil = discard
	Heartbeat time.Duration    // between signs of life while idle, 0 = 30 s

	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil but in tests
}

// AuthConfig is how the daemon logs in. Files are read anew at every login: what
// replaces them is used from then on.
type AuthConfig struct {
	Method       string // "approle" (default) | "token" | "cert" | "jwt" | "kubernetes"
	Mount        string // default: the method's name
	RoleIDFile   string // required for approle
	SecretIDFile string // required for approle
	Wrapped      bool   // approle: SecretIDFile holds a response-wrapping token; see Login
	TokenFile    string // required for token
	Role         string // required for jwt and kubernetes; cert: "" = whichever matches
	JWTFile      string // required for jwt; kubernetes: default ServiceAccountToken
	CertFile     string // required for cert: PEM, with the authorities between, which is no secret
	KeyFile      string // required for cert: PEM

	// Reader is whose credential it is when root logs in in the place of the daemon;
	// nil: this process's own.
	Reader *Reader
}

// ServiceAccountToken is where Kubernetes mounts a pod's own token.
const ServiceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// The names of the auth methods.
const (
	methodAppRole    = "approle"
	methodToken      = "token"
	methodCert       = "cert"
	methodJWT        = "jwt"
	methodKubernetes = "kubernetes"
)

const (
	defaultTimeout   = 5 * time.Second
	defaultHeartbeat = 30 * time.Second
)

// withDefaults fills what is zero.
func (c Config) withDefaults() Config {
	defaultTo(&c.Timeout, defaultTimeout)
	defaultTo(&c.Heartbeat, defaultHeartbeat)
	defaultTo(&c.Auth.Method, methodAppRole)
	defaultTo(&c.Auth.Mount, c.Auth.Method)
	if c.Auth.Method == methodKubernetes {
		defaultTo(&c.Auth.JWTFile, ServiceAccountToken)
	}
	p := c.paths().withDefaults()
	c.KVMount, c.AppsPath, c.StatePath = p.KVMount, p.AppsPath, p.StatePath
	c.TransitMount, c.TransitKey = p.TransitMount, p.TransitKey
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) paths() Paths {
	return Paths{KVMount: c.KVMount, AppsPath: c.AppsPath, StatePath: c.StatePath, TransitMount: c.TransitMount, TransitKey: c.TransitKey}
}

// checkPlace checks everything but how to log in.
func (c Config) checkPlace() error {
	if _, err := c.url(); err != nil {
		return err
	}
	if strings.ContainsFunc(c.Namespace, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("vault namespace: only printable ASCII without spaces can stand in a header")
	}
	if c.Timeout < 0 || c.Heartbeat < 0 {
		return errors.New("vault timeout: must not be negative")
	}
	if _, err := newPins(c.Pins); err != nil {
		return err
	}
	if len(c.Pins) > 0 && !strings.HasPrefix(c.Address, "https://") {
		return errors.New("vault pins: need an https address")
	}
	return c.paths().check()
}

func (c Config) checkAuth() error {
	needs, ok := c.Auth.needs()[c.Auth.Method]
	if !ok {
		return fmt.Errorf("vault auth: there is no method %q", c.Auth.Method)
	}
	for _, n := range needs {
		if n.value == "" {
			return fmt.Errorf("vault auth: %s needs %s", c.Auth.Method, n.name)
		}
	}
	if c.Auth.Wrapped && c.Auth.Method != methodAppRole {
		return errors.New("vault auth: wrapped is about the secret id of approle")
	}
	if c.Auth.Method == methodCert && !strings.HasPrefix(c.Address, "https://") {
		return errors.New("vault auth: cert needs an https address")
	}
	return checkPath("auth mount", c.Auth.Mount)
}

// setting is a field of the configuration file and its value.
type setting struct{ name, value string }

// needs is what each method cannot do without.
func (a AuthConfig) needs() map[string][]setting {
	return map[string][]setting{
		methodAppRole:    {{"role_id_file", a.RoleIDFile}, {"secret_id_file", a.SecretIDFile}},
		methodToken:      {{"token_file", a.TokenFile}},
		methodCert:       {{"cert_file", a.CertFile}, {"key_file", a.KeyFile}},
		methodJWT:        {{"role", a.Role}, {"jwt_file", a.JWTFile}},
		methodKubernetes: {{"role", a.Role}, {"jwt_file", a.JWTFile}},
	}
}

// url parses and checks Address.
func (c Config) url() (*url.URL, error) {
	u, err := url.Parse(c.Address)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return nil, errors.New("vault address: must be https://host[:port]")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, errors.New("vault address: must carry neither credentials nor a query nor a fragment")
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && !c.UnsafePlainHTTP:
		return nil, errors.New("vault address: http shows the secrets to the network, use https (or unsafe_plain_http to a loopback address)")
	case u.Scheme == "http" && !loopbackHost(u.Hostname()):
		return nil, errors.New("vault address: http is only for a loopback address")
	case u.Scheme != "http":
		return nil, errors.New("vault address: must begin with https://")
	}
	return u, nil
}

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// plainPath is what mounts and paths may look like. Vault allows more, but its
// policies give a meaning to "*" and "+", and HCL, shells and URLs to the rest.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)

func checkPath(what, path string) error {
	if !plainPath.MatchString(path) {
		return fmt.Errorf("vault %s %q: only letters, digits, '-', '_', '.' and '/' between them", what, path)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return fmt.Errorf("vault %s %q: %q is no name", what, path, part)
		}
	}
	return nil
}

func list(words []string) string { return strings.Join(words, ", ") }
