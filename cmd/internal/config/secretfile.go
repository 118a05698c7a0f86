package config

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tokenvault/tokenvault/vault"
)

// CheckSecretFiles looks at each file that the login at Vault reads, without
// keeping what is in it. A file that is not there yet is no error: the daemon
// waits for it and says so.
func (c *Config) CheckSecretFiles() error {
	var problems []Problem
	for _, f := range c.secretFiles() {
		if *f.path == "" || !c.loginReads(f.key) {
			continue
		}
		text, err := vault.ReadSecretFileFor(*f.path, c.where.reader)
		text.Wipe()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, c.problem(f.key, "%v%s", err, remedy(err)))
		}
	}
	if len(problems) > 0 {
		return &Error{Problems: problems, secretFiles: true}
	}
	return nil
}

// ReadFor makes secret files be read by root in the daemon's place, and the clients
// of Vault that are built from c log in as it would.
func (c *Config) ReadFor(daemon vault.Reader) { c.where.reader = &daemon }

// remedy says what helps against a file that may not be opened.
func remedy(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return ": chown it to the user that reads it, or leave it root's and have systemd hand it over (LoadCredential=)"
	}
	return ""
}

// Dir is the absolute path of the directory that the configuration file is in;
// of drop-ins, the main file's.
func (c *Config) Dir() string {
	path, err := filepath.Abs(c.where.file)
	if err != nil { // the working directory is gone
		path = c.where.file
	}
	return filepath.Dir(path)
}

// FromSystemd reports whether systemd puts the file there when it starts the
// service: the path stands below $CREDENTIALS_DIRECTORY in the configuration, or
// where systemd makes such directories. Nobody else can put a file there.
func (c *Config) FromSystemd(path string) bool {
	return slices.Contains(c.where.fromSystemd, path) || strings.HasPrefix(filepath.Clean(path), "/run/credentials/")
}

func (c *Config) loginReads(key string) bool {
	name, _ := strings.CutPrefix(key, "vault.auth.")
	return slices.Contains(loginKeys[c.Vault.Auth.Method], name)
}

// VaultConfig is the file's [vault] for the client; clock, logger and heartbeat
// are the caller's to add.
func (c *Config) VaultConfig() vault.Config {
	v := c.Vault
	return vault.Config{
		Address: v.Address, Namespace: v.Namespace, CAFile: v.CAFile, TLSServerName: v.TLSServerName, Pins: v.Pins,
		Timeout: v.Timeout.Std(), UnsafePlainHTTP: v.UnsafePlainHTTP,
		KVMount: v.KVMount, AppsPath: v.AppsPath, StatePath: v.StatePath,
		TransitMount: v.TransitMount, TransitKey: v.TransitKey,
		Auth: vault.AuthConfig{
			Method: v.Auth.Method, Mount: v.Auth.Mount, Role: v.Auth.Role,
			RoleIDFile: v.Auth.RoleIDFile, SecretIDFile: v.Auth.SecretIDFile, Wrapped: v.Auth.Wrapped,
			TokenFile: v.Auth.TokenFile, JWTFile: v.Auth.JWTFile, CertFile: v.Auth.CertFile, KeyFile: v.Auth.KeyFile,
			Reader: c.where.reader,
		},
	}
}

// Credentials are the files that the login at Vault reads.
func (c *Config) Credentials() []string {
	var out []string
	for _, f := range c.secretFiles() {
		if *f.path != "" && c.loginReads(f.key) {
			out = append(out, *f.path)
		}
	}
	return out
}
