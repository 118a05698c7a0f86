package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// checker collects what is wrong with a decoded configuration.
type checker struct {
	*Config
	problems []Problem
}

// check validates the whole and resolves accounts.
func (c *Config) check(o LoadOptions) error {
	k := &checker{Config: c}
	k.general()
	k.apps()
	k.listeners(readAccounts(o.Group, "/etc/group"))
	k.rules(readAccounts(o.Passwd, "/etc/passwd"), readAccounts(o.Group, "/etc/group"))
	k.vault()
	k.vaultAuth()
	k.upstream()
	k.disk()
	k.limits()
	k.unbuilt()
	if len(k.problems) == 0 {
		k.compiled()
	}
	if len(k.problems) == 0 {
		return nil
	}
	sort.SliceStable(k.problems, func(i, j int) bool {
		a, b := k.problems[i], k.problems[j]
		return a.File == b.File && a.Line < b.Line
	})
	return &Error{Problems: k.problems}
}

func (k *checker) bad(key, format string, args ...any) {
	k.problems = append(k.problems, k.problem(key, format, args...))
}

// problem names the line of the key, or of the nearest table around it.
func (c *Config) problem(key, format string, args ...any) Problem {
	p := Problem{File: c.where.file, Key: key, Text: fmt.Sprintf(format, args...)}
	for path := key; path != ""; path = parent(path) {
		if at, ok := c.where.at[path]; ok {
			p.File, p.Line = at.file, at.line
			break
		}
	}
	return p
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return ""
	}
	return path[:i]
}

var (
	nameRE     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	instanceRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	clientIDRE = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	pinRE      = regexp.MustCompile(`^sha256/[A-Za-z0-9+/]{43}=$`)
	pathRE     = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)
)

func (k *checker) general() {
	if !instanceRE.MatchString(k.Instance) {
		k.bad("instance", "wants lower-case letters, digits, '.', '_' and '-', at most 64")
	}
	k.positive("drain_timeout", k.DrainTimeout)
}

func (k *checker) positive(key string, d Duration) {
	if d <= 0 {
		k.bad(key, "must be longer than 0")
	}
}

// name checks a name and that nobody else has it.
func (k *checker) name(key, name string, taken map[string]string) {
	switch first, twice := taken[name]; {
	case name == "":
		k.bad(key, "is required")
	case !nameRE.MatchString(name):
		k.bad(key, "wants letters, digits, '.', '_' and '-', at most 64, and no punctuation first")
	case twice:
		k.bad(key, "%q is also %s", name, first)
	default:
		taken[name] = key
	}
}

func (k *checker) apps() {
	if len(k.Apps) == 0 {
		k.bad("app", "is required: one [[app]] for each Human API application")
	}
	taken, ids := map[string]string{}, map[string]string{}
	for i, a := range k.Apps {
		at := fmt.Sprintf("app[%d]", i)
		k.name(at+".name", a.Name, taken)
		switch first, twice := ids[a.ClientID]; {
		case a.ClientID == "":
			k.bad(at+".client_id", "is required")
		case !clientIDRE.MatchString(a.ClientID): // it becomes part of a path at Vault
			k.bad(at+".client_id", "wants letters, digits, '_' and '-', at most 128")
		case twice:
			k.bad(at+".client_id", "is also %s", first)
		default:
			ids[a.ClientID] = at + ".client_id"
		}
	}
}

// absolute checks a path of ours.
func (k *checker) absolute(key, path string) bool {
	switch {
	case path == "":
		k.bad(key, "is required")
	case strings.HasPrefix(path, "$"):
		k.bad(key, "only a leading %s is expanded, and only in the keys that name a file with a secret", credentialsVariable)
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		k.bad(key, "wants an absolute path without . or .. in it")
	default:
		return true
	}
	return false
}

// origin checks scheme://host[:port], and that plain http stays on the machine.
func (k *checker) origin(key, raw string, unsafeHTTP bool) {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		k.bad(key, "is required")
	case err != nil || u.Host == "" || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http"):
		k.bad(key, "wants https://HOST or https://HOST:PORT")
	case u.User != nil:
		k.bad(key, "must not hold a user or a password")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		k.bad(key, "must end after the host and port")
	case u.Scheme == "http" && !unsafeHTTP:
		k.bad(key, "http is refused: use https, or unsafe_plain_http = true beside it for a loopback address")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		k.bad(key, "http goes to a loopback address only, such as 127.0.0.1")
	}
}

// proxy checks http[s]://host[:port]. Plain http is fine here: what goes through
// it is TLS with Human API.
func (k *checker) proxy(key, raw string) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		k.bad(key, "wants http://HOST:PORT or https://HOST:PORT, without a password")
	}
}

// loopback takes addresses, not names: a name means what the resolver says.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (k *checker) vault() {
	v := k.Vault
	k.origin("vault.address", v.Address, v.UnsafePlainHTTP)
	k.positive("vault.timeout", v.Timeout)
	k.positive("vault.max_stale", v.MaxStale)
	for _, p := range []struct{ key, path string }{
		{"kv_mount", v.KVMount}, {"apps_path", v.AppsPath}, {"state_path", v.StatePath},
		{"transit_mount", v.TransitMount}, {"transit_key", v.TransitKey},
	} {
		if !pathRE.MatchString(p.path) || strings.Contains("/"+p.path+"/", "/../") || strings.Contains("/"+p.path+"/", "/./") {
			k.bad("vault."+p.key, "wants a Vault path without / at its ends, of letters, digits, '_', '.' and '-'")
		}
	}
	if within(v.AppsPath, v.StatePath) || within(v.StatePath, v.AppsPath) {
		k.bad("vault.state_path", "must be apart from vault.apps_path: the daemon may write there")
	}
	if strings.Contains(v.TransitKey, "/") {
		k.bad("vault.transit_key", "is a name, not a path")
	}
	if v.KVMount == v.TransitMount {
		k.bad("vault.transit_mount", "is also vault.kv_mount")
	}
	if v.CAFile != "" {
		k.absolute("vault.ca_file", v.CAFile)
	}
	k.pins("vault.pins", v.Pins)
}

// pins checks the form alone: the key is anybody's.
func (k *checker) pins(key string, pins []string) {
	for i, p := range pins {
		if !pinRE.MatchString(p) {
			k.bad(key, `[%d] wants "sha256/" and 44 characters of base64: the SHA-256 of a SubjectPublicKeyInfo`, i)
		}
	}
}

func within(path, dir string) bool { return strings.HasPrefix(path+"/", dir+"/") }

func (k *checker) vaultAuth() {
	a := k.Vault.Auth
	if !pathRE.MatchString(a.Mount) {
		k.bad("vault.auth.mount", "wants a Vault path without / at its ends")
	}
	use, ok := loginKeys[a.Method]
	if !ok {
		k.bad("vault.auth.method", "wants approle, token, cert, jwt or kubernetes")
		return
	}
	for _, f := range k.secretFiles() {
		name, isLogin := strings.CutPrefix(f.key, "vault.auth.")
		switch {
		case !isLogin:
		case slices.Contains(use, name):
			k.absolute(f.key, *f.path)
		case k.said(f.key) && *f.path != "":
			k.unused(f.key)
		}
	}
	if a.Role == "" && (a.Method == "jwt" || a.Method == "kubernetes") {
		k.bad("vault.auth.role", "is required with method = %q", a.Method)
	}
	if a.Role != "" && (a.Method == "approle" || a.Method == "token") {
		k.unused("vault.auth.role")
	}
	if a.Wrapped && a.Method != "approle" {
		k.unused("vault.auth.wrapped")
	}
}

// loginKeys are the files that each method reads, by their keys in [vault.auth].
var loginKeys = map[string][]string{
	"approle":    {"role_id_file", "secret_id_file"},
	"token":      {"token_file"},
	"cert":       {"cert_file", "key_file"},
	"jwt":        {"jwt_file"},
	"kubernetes": {"jwt_file"},
}

func (k *checker) unused(key string) {
	k.bad(key, "has no use with method = %q", k.Vault.Auth.Method)
}

func (k *checker) upstream() {
	h := k.HumanAPI
	k.origin("humanapi.user_url", h.UserURL, h.UnsafePlainHTTP)
	k.origin("humanapi.auth_url", h.AuthURL, h.UnsafePlainHTTP)
	k.origin("humanapi.data_url", h.DataURL, h.UnsafePlainHTTP)
	k.positive("humanapi.timeout", h.Timeout)
	if h.CAFile != "" {
		k.absolute("humanapi.ca_file", h.CAFile)
	}
	k.pins("humanapi.pins", h.Pins)
	if h.ProxyURL != "" {
		k.proxy("humanapi.proxy_url", h.ProxyURL)
	}
	k.positive("exchange.deadline", k.Exchange.Deadline)
	k.positive("exchange.replay_window", k.Exchange.ReplayWindow)
	if k.Exchange.GiveUp < k.Exchange.Deadline {
		k.bad("exchange.give_up", "must not be shorter than exchange.deadline (%s)", k.Exchange.Deadline)
	}
}
