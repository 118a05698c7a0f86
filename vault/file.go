package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// ErrSecretFile is matched by every error of [ReadSecretFile], whose text it does
// not change: the reason is on this machine, and no word of Vault's. One that
// also matches fs.ErrNotExist or fs.ErrPermission is about opening it.
var ErrSecretFile = errors.New("a secret file cannot be read")

// fileError is an error of ReadSecretFile.
type fileError struct{ error }

func (e fileError) Is(target error) bool { return target == ErrSecretFile }

func (e fileError) Unwrap() error { return e.error }

// maxSecretFile is the size limit of a secret file, in bytes.
const maxSecretFile = 64 << 10

// ReadSecretFile returns the content of the file at path without one trailing
// newline. The file must be regular (a link to one is followed), at most 64
// KiB, not empty, owned by root or by this process's user, not readable or
// writable for everybody, and open to its group only when that is this process's
// own group. Errors match [ErrSecretFile].
//
// A file below $CREDENTIALS_DIRECTORY is systemd's: its group bits are the mask
// of an ACL that systemd set for the service's user, and are not judged.
//
// BUG: elsewhere a POSIX ACL that lets further users read is seen only through
// the group bits of the mode.
func ReadSecretFile(path string) (secret.Text, error) { return ReadSecretFileFor(path, nil) }

// Reader is a user for whom root reads: the daemon's.
type Reader struct{ UID, GID uint32 }

// ReadSecretFileFor is ReadSecretFile by root in the reader's place: a file of that
// user, or open to that group, is as good as one of root's own. Nil: nobody else.
func ReadSecretFileFor(path string, reader *Reader) (secret.Text, error) {
	text, err := readSecretFile(path, reader)
	if err != nil {
		return text, fileError{err}
	}
	return text, nil
}

func readSecretFile(path string, reader *Reader) (secret.Text, error) {
	// O_NONBLOCK: opening a FIFO must not hang.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return secret.Text{}, fmt.Errorf("read secret file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return secret.Text{}, fmt.Errorf("read secret file: %w", err)
	}
	if err := judge(info, isCredential(path), reader); err != nil {
		return secret.Text{}, fmt.Errorf("read secret file %s: %w", path, err)
	}
	text, err := readSecret(f)
	if err != nil {
		return secret.Text{}, fmt.Errorf("read secret file %s: %w", path, err)
	}
	return text, nil
}

// judge applies the rule for secret files to an open file.
func judge(info fs.FileInfo, credential bool, reader *Reader) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode()
	switch {
	case !mode.IsRegular():
		return errors.New("is not a regular file")
	case !ok:
		return errors.New("its owner cannot be told")
	case info.Size() > maxSecretFile:
		return errors.New("is larger than 64 KiB")
	case stat.Uid != 0 && int(stat.Uid) != os.Geteuid() && (reader == nil || stat.Uid != reader.UID):
		return errors.New("must be owned by root or by the user that reads it")
	case mode&0o006 != 0:
		return errors.New("is open to every user: chmod o-rwx")
	case mode&0o060 != 0 && !credential && int(stat.Gid) != os.Getegid() && (reader == nil || stat.Gid != reader.GID):
		return errors.New("is open to a group that is not the reader's own: chmod g-rw")
	}
	return nil
}

func readSecret(r io.Reader) (secret.Text, error) {
	b, err := readBounded(r)
	defer clear(b)
	if err != nil {
		return secret.Text{}, err
	}
	if len(b) > maxSecretFile {
		return secret.Text{}, errors.New("is larger than 64 KiB")
	}
	content := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(content) == 0 {
		return secret.Text{}, errors.New("is empty")
	}
	return secret.New(content), nil
}

// readBounded reads one byte more than may be there, and leaves no copy elsewhere.
func readBounded(r io.Reader) ([]byte, error) {
	b := make([]byte, maxSecretFile+1)
	n, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return b[:n], err
}

// keepSecretFile is ReadSecretFile into the locked region.
func keepSecretFile(path string, reader *Reader) (secret.Text, error) {
	text, err := ReadSecretFileFor(path, reader)
	defer text.Wipe()
	return kept(text), err
}

// isCredential reports whether path lies below systemd's directory of this
// service's credentials.
func isCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if !strings.HasPrefix(dir, "/run/credentials/") {
		return false // only systemd makes directories there
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	rel, err := filepath.Rel(dir, real)
	return err == nil && filepath.IsLocal(rel)
}
