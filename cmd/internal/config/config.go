// Package config reads the daemon's TOML file: strictly, with defaults, checked
// as a whole, and with its rules compiled, before anything else happens.
//
// It trusts the file to be the operator's (and refuses one that others may write,
// itself or by its directory), /etc/passwd and /etc/group. It never holds a secret: keys name files,
// and only [Config.CheckSecretFiles] opens one. It never dials, creates or changes
// anything.
//
// What is wrong is an [*Error] that lists every problem with file, line and key.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/tokenvault/tokenvault/vault"
)

// LoadOptions says where to read.
type LoadOptions struct {
	// Path of the file. "": $TOKENVAULT_CONFIG, else [DefaultPath].
	Path string
	// Env reads the environment: TOKENVAULT_CONFIG and CREDENTIALS_DIRECTORY are
	// asked for, nothing else. Nil: os.Getenv.
	Env func(string) string
	// Passwd and Group are the account files. "": /etc/passwd and /etc/group.
	Passwd, Group string
}

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	File string
	Line int    // from 1; 0: of the file as a whole
	Key  string // such as rule[2].grants; "" for bad syntax
	Text string
}

func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.Line)
	}
	if p.Key != "" {
		s += ": " + p.Key
	}
	return s + ": " + p.Text
}

// Error is what Load returns for a file that can be read and is wrong. It has at
// least one problem.
type Error struct {
	Problems    []Problem
	secretFiles bool // they are about files that are named, not about the configuration
}

// Is makes what [Config.CheckSecretFiles] returns match [vault.ErrSecretFile].
func (e *Error) Is(target error) bool { return e.secretFiles && target == vault.ErrSecretFile }

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the file and the conf.d/*.toml beside it, fills in defaults,
// validates, and resolves users and groups. It has no side effects.
func Load(o LoadOptions) (*Config, error) {
	if o.Env == nil {
		o.Env = os.Getenv
	}
	cfg := defaults()
	path := o.path()
	cfg.where = places{file: path, at: map[string]place{}}
	if err := readInto(cfg, path, false); err != nil {
		return nil, err
	}
	more, err := dropIns(path)
	if err != nil {
		return nil, err
	}
	for _, file := range more {
		if err := readInto(cfg, file, true); err != nil {
			return nil, err
		}
	}
	cfg.finish(o)
	return cfg, cfg.check(o)
}

func (o LoadOptions) path() string {
	if o.Path != "" {
		return o.Path
	}
	if p := o.Env("TOKENVAULT_CONFIG"); p != "" {
		return p
	}
	return DefaultPath
}

// dropIns lists conf.d/*.toml beside the file in name order. Names that start
// with a dot are left out: editors leave such files behind.
func dropIns(path string) ([]string, error) {
	dir := filepath.Join(filepath.Dir(path), "conf.d")
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the configuration directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fileProblem(dir, "is not a directory")
	}
	if err := judge(dir, info); err != nil {
		return nil, err
	}
	if err := trustedPlace(dir); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the configuration directory: %w", err)
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	sort.Strings(files)
	return files, nil
}

// finish fills in what depends on the file: defaults of listeners, bursts, and
// the expansion of the credentials directory.
func (c *Config) finish(o LoadOptions) {
	for i := range c.Listeners {
		listenerDefaults(&c.Listeners[i], func(key string) bool {
			return c.said(fmt.Sprintf("listener[%d].%s", i, key))
		})
	}
	for i := range c.Rules {
		if r := &c.Rules[i].Rate; r.PerSecond > 0 && r.PerSecond <= maxRate && !c.said(fmt.Sprintf("rule[%d].rate.burst", i)) {
			r.Burst = int(math.Ceil(r.PerSecond))
		}
	}
	c.loginDefaults()
	for _, f := range c.secretFiles() {
		expanded := expandCredentials(*f.path, o.Env)
		if expanded != *f.path {
			c.where.fromSystemd = append(c.where.fromSystemd, expanded)
		}
		*f.path = expanded
	}
}

// loginDefaults are those that depend on the method.
func (c *Config) loginDefaults() {
	a := &c.Vault.Auth
	if !c.said("vault.auth.mount") {
		a.Mount = a.Method
	}
	if a.Method == "kubernetes" && !c.said("vault.auth.jwt_file") {
		a.JWTFile = vault.ServiceAccountToken
	}
}

// said reports whether the key stands in a file.
func (c *Config) said(key string) bool {
	_, said := c.where.at[key]
	return said
}

const credentialsVariable = "$CREDENTIALS_DIRECTORY"

func expandCredentials(path string, env func(string) string) string {
	rest, found := strings.CutPrefix(path, credentialsVariable+"/")
	if !found {
		return path
	}
	dir := env("CREDENTIALS_DIRECTORY")
	if dir == "" {
		dir = credentialsFallback
	}
	return filepath.Join(dir, rest)
}

type secretFile struct {
	key  string
	path *string
}

// secretFiles lists the keys that name files with secrets.
func (c *Config) secretFiles() []secretFile {
	a := &c.Vault.Auth
	return []secretFile{
		{"vault.auth.role_id_file", &a.RoleIDFile},
		{"vault.auth.secret_id_file", &a.SecretIDFile},
		{"vault.auth.token_file", &a.TokenFile},
		{"vault.auth.jwt_file", &a.JWTFile},
		{"vault.auth.cert_file", &a.CertFile},
		{"vault.auth.key_file", &a.KeyFile},
		{"store.dsn_file", &c.Store.DSNFile},
	}
}

// GID is the group that owns the listener's socket; -1: the daemon's own.
func (l Listener) GID() int { return l.gid }
