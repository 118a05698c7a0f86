package config

import (
	"errors"
	"io/fs"

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
		text, err := vault.ReadSecretFile(*f.path)
		text.Wipe()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, c.problem(f.key, "%v", err))
		}
	}
	if len(problems) > 0 {
		return &Error{Problems: problems}
	}
	return nil
}

func (c *Config) loginReads(key string) bool {
	if c.Vault.Auth.Method == "token" {
		return key == "vault.auth.token_file"
	}
	return key == "vault.auth.role_id_file" || key == "vault.auth.secret_id_file"
}

// VaultConfig is the file's [vault] for the client; clock, logger and heartbeat
// are the caller's to add.
func (c *Config) VaultConfig() vault.Config {
	v := c.Vault
	return vault.Config{
		Address: v.Address, Namespace: v.Namespace, CAFile: v.CAFile, TLSServerName: v.TLSServerName,
		Timeout: v.Timeout.Std(), UnsafePlainHTTP: v.UnsafePlainHTTP,
		KVMount: v.KVMount, AppsPath: v.AppsPath, StatePath: v.StatePath,
		TransitMount: v.TransitMount, TransitKey: v.TransitKey,
		Auth: vault.AuthConfig{
			Method: v.Auth.Method, Mount: v.Auth.Mount,
			RoleIDFile: v.Auth.RoleIDFile, SecretIDFile: v.Auth.SecretIDFile, TokenFile: v.Auth.TokenFile,
		},
	}
}
