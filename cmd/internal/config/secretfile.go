package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// maxSecretFile bounds a file with a secret.
const maxSecretFile = 64 * KiB

// ReadSecretFile reads a secret: a regular file of at most 64 KiB, owned by root
// or our user, not readable by everybody, and by a group only when it is our
// primary one. One newline at the end is not part of the secret.
//
// A systemd credential may show 0440 with group root while an ACL gives access
// (systemd 254 and newer); root's group is therefore taken for a file of root's
// on a path below /run/credentials.
func ReadSecretFile(path string) (secret.Text, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return secret.Text{}, fmt.Errorf("open the secret file: %w", err)
	}
	defer f.Close()
	if err := checkSecretFile(f, path); err != nil {
		return secret.Text{}, err
	}
	content, err := io.ReadAll(io.LimitReader(f, int64(maxSecretFile)+1))
	if err != nil {
		return secret.Text{}, fmt.Errorf("read the secret file %s: %w", path, err)
	}
	defer clear(content)
	if len(content) > int(maxSecretFile) {
		return secret.Text{}, fmt.Errorf("the secret file %s is larger than %s", path, maxSecretFile)
	}
	text := secret.New(bytes.TrimSuffix(content, []byte("\n")))
	if text.IsZero() {
		return secret.Text{}, fmt.Errorf("the secret file %s is empty", path)
	}
	return text, nil
}

func checkSecretFile(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read the secret file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("the secret file %s is not a regular file", path)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("the secret file %s has no owner that can be seen", path)
	}
	perm := info.Mode().Perm()
	switch {
	case owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		return fmt.Errorf("the secret file %s belongs to uid %d: it must be root's or the daemon's own", path, owner.Uid)
	case perm&0o007 != 0:
		return fmt.Errorf("the secret file %s is open to everybody (mode %04o): run chmod o=", path, perm)
	case perm&0o020 != 0:
		return fmt.Errorf("the secret file %s is writable by its group (mode %04o): run chmod g-w", path, perm)
	case perm&0o040 != 0 && int(owner.Gid) != os.Getegid() && !isCredential(path, owner.Uid, owner.Gid):
		return fmt.Errorf("the secret file %s is readable by group %d, which is not the daemon's primary group", path, owner.Gid)
	}
	return nil
}

func isCredential(path string, uid, gid uint32) bool {
	const below = "/run/credentials/"
	return uid == 0 && gid == 0 && strings.HasPrefix(path, below)
}

// CheckSecretFiles looks at each file that the login at Vault reads, without
// keeping what is in it. A file that is not there yet is no error: the daemon
// waits for it and says so.
func (c *Config) CheckSecretFiles() error {
	var problems []Problem
	for _, f := range c.secretFiles() {
		if *f.path == "" || !c.loginReads(f.key) {
			continue
		}
		text, err := ReadSecretFile(*f.path)
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
