package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/cmd/internal/dev/insecuredev"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault"
)

// vaultStart bounds how long a Vault dev server may take to answer.
const vaultStart = 30 * time.Second

// secrets starts a Vault dev server and returns the daemon's [vault] table for
// it; without a vault binary it returns a stand-in.
func (w *world) secrets(ctx context.Context) (*daemon.Source, string, error) {
	binary, err := exec.LookPath("vault")
	if err != nil {
		return w.standIn()
	}
	table, err := w.devServer(ctx, binary)
	if err != nil {
		return nil, "", fmt.Errorf("run a Vault dev server with %s: %w", binary, err)
	}
	return nil, table, nil
}

func (w *world) standIn() (*daemon.Source, string, error) {
	w.vault = "a stand-in for Vault inside this process (there is no vault binary on the PATH)"
	source, err := insecuredev.New(map[user.ClientID]secret.Text{w.app: secret.FromString(w.secret)})
	if err != nil {
		return nil, "", err
	}
	// The address is required and never dialled: no name ends in .invalid (RFC 6761).
	table := "\n[vault]\naddress = \"https://insecuredev.invalid\"\n"
	return &daemon.Source{Name: "insecuredev: in this process", Keys: source, Apps: source}, table, nil
}

// devServer starts Vault, sets it up as `vault setup --apply` does, and puts the
// app's clientSecret there.
func (w *world) devServer(ctx context.Context, binary string) (table string, err error) {
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	token := "dev-root-" + random(16)
	exited, err := w.startVault(binary, address, token)
	if err != nil {
		return "", err
	}
	w.vault = "a Vault dev server at http://" + address
	operator, err := vault.NewOperator(vault.OperatorConfig{
		Config: vault.Config{Address: "http://" + address, UnsafePlainHTTP: true}, Token: secret.FromString(token),
	})
	if err != nil {
		return "", err
	}
	setup, err := w.setUp(ctx, operator, exited)
	if err != nil {
		return "", err
	}
	if _, err := operator.PutSecret(ctx, w.app, secret.FromString(w.secret)); err != nil {
		return "", err
	}
	roleFile, secretFile := filepath.Join(w.dir, "role-id"), filepath.Join(w.dir, "secret-id")
	err = errors.Join(os.WriteFile(roleFile, []byte(setup.RoleID), 0o600), os.WriteFile(secretFile, setup.SecretID.Reveal(), 0o600))
	return fmt.Sprintf("\n[vault]\naddress = %q\nunsafe_plain_http = true\n[vault.auth]\nrole_id_file = %q\nsecret_id_file = %q\n",
		"http://"+address, roleFile, secretFile), err
}

// freeAddress finds a port that nobody listens on. Vault cannot say which port it
// chose, so another process may take this one first; Vault then fails to start.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startVault starts the process. Its environment is empty but for what it needs:
// no variable of yours can point it elsewhere, and its token is not an argument.
func (w *world) startVault(binary, address, token string) (exited <-chan error, err error) {
	cmd := exec.Command(binary, "server", "-dev", "-dev-no-store-token", "-dev-listen-address="+address)
	cmd.Dir = w.dir
	cmd.Env = []string{"HOME=" + w.dir, "VAULT_DEV_ROOT_TOKEN_ID=" + token, "SKIP_SETCAP=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us: it stops after the daemon
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() { ended <- cmd.Wait(); close(done) }()
	w.later(func() error {
		_ = cmd.Process.Kill() // it keeps nothing
		<-done
		return nil
	})
	return ended, nil
}

// setUp waits until Vault answers, and makes it ready.
func (w *world) setUp(ctx context.Context, o *vault.Operator, exited <-chan error) (vault.SetupResult, error) {
	ctx, cancel := context.WithTimeout(ctx, vaultStart)
	defer cancel()
	for {
		r, err := o.Setup(ctx, vault.SetupConfig{Apply: true})
		if err == nil || !errors.Is(err, vault.ErrUnreachable) {
			return r, err
		}
		select {
		case <-exited:
			return r, errors.New("it exited at once")
		case <-ctx.Done():
			return r, err
		case <-time.After(100 * time.Millisecond): // Vault tells nobody when it is up
		}
	}
}
