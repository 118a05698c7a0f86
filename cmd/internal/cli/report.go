package cli

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/vault"
)

// report prints an error for a person: what failed, and what to do about it.
func (p *program) report(err error) {
	check, isCheck := errors.AsType[*found](err)
	_, isVerdict := errors.AsType[*deniedByPolicy](err)
	if !(isCheck && check.printed) && !isVerdict {
		fmt.Fprintf(p.Stderr, "tokenvault: %v\n", err)
	}
	for _, h := range hints(err) {
		fmt.Fprintf(p.Stderr, "hint: %s\n", h)
	}
}

func hints(err error) []string {
	if u, ok := errors.AsType[*usageError](err); ok {
		if len(u.hints) > 0 {
			return u.hints
		}
		return []string{"tokenvault help [COMMAND] shows the options"}
	}
	if a, ok := errors.AsType[*advised](err); ok {
		return a.hints
	}
	if refused, ok := errors.AsType[*adminError](err); ok && denied(refused.err) {
		return []string{"be root, or ask for a [[rule]] with the grant admin-read (for what checks or changes something: admin) and for the admin socket's group"}
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return codeHints[e.Code]
	}
	if _, ok := errors.AsType[*config.Error](err); ok && !errors.Is(err, vault.ErrSecretFile) {
		return []string{"tokenvault config describe prints every key with its default"}
	}
	switch {
	case errors.Is(err, client.ErrUnavailable) && errors.Is(err, fs.ErrPermission):
		return []string{"the socket's owner and group decide who may connect: ls -l shows them"}
	case errors.Is(err, client.ErrUnavailable):
		return []string{"systemctl status tokenvault says whether the daemon runs; --socket PATH asks another socket"}
	case errors.Is(err, vault.ErrUnreachable):
		return []string{"vault status, with the same address, says whether Vault answers and is unsealed"}
	case errors.Is(err, vault.ErrDenied):
		return []string{"tokenvault vault policy prints the rights that the daemon needs"}
	case errors.Is(err, errNoToken):
		return []string{"give --token-file FILE, set VAULT_TOKEN, or run vault login"}
	}
	return nil
}

// advised is an error with what to do about it.
type advised struct {
	error
	hints []string
}

func (a *advised) Unwrap() error { return a.error }

func advise(err error, hints ...string) error { return &advised{err, hints} }

// adminError is an error from the admin socket.
type adminError struct{ err error }

func (e *adminError) Error() string { return e.err.Error() }
func (e *adminError) Unwrap() error { return e.err }

// denied: the caller lacks a right, or may not open the socket.
func denied(err error) bool {
	code := client.CodeOf(err)
	return code == api.NotGranted || code == api.UnknownCaller || errors.Is(err, client.ErrUnavailable) && errors.Is(err, fs.ErrPermission)
}

var codeHints = map[api.Code][]string{
	api.UnknownCaller:     {"no rule names this user: tokenvault whoami shows who the daemon sees"},
	api.NotGranted:        {"tokenvault whoami lists the rights that you have on this socket"},
	api.Starting:          {"tokenvault status says what the daemon waits for"},
	api.ClientIDRequired:  {"name the app with --client-id or --app"},
	api.AmbiguousUser:     {"tokenvault users prefer shows who they are, and decides"},
	api.StoreUnavailable:  {"tokenvault status says how the store is, tokenvault store check which rows are damaged"},
	api.SecretUnavailable: {"tokenvault secret check says which app has no clientSecret in Vault"},
	api.VaultUnavailable:  {"tokenvault status says since when Vault does not answer"},
	api.VaultStale:        {"tokenvault status says since when Vault does not answer"},
}
