package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/vault"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// errNoToken is returned when the operator has brought no Vault token.
var errNoToken = errors.New("there is no Vault token of yours")

func tokenFlag() cli.Flag {
	return &cli.StringFlag{Name: "token-file", Usage: "your own Vault token, in `FILE` (default: $VAULT_TOKEN, else ~/.vault-token)"}
}

// loginFlag lets an operator log in in the daemon's place.
func loginFlag() cli.Flag {
	return &cli.StringFlag{Name: "token-file", Usage: "log in at Vault with the token in `FILE`, which has the daemon's rights or more, instead of as [vault.auth] says"}
}

// loadOffline reads the configuration of a command that does without the daemon.
func (p *program) loadOffline(c *cli.Context) (*config.Config, error) {
	cfg, err := p.load(c)
	if path := c.String("token-file"); err == nil && path != "" {
		cfg.Vault.Auth = config.VaultAuth{Method: "token", Mount: "token", TokenFile: path}
	}
	return cfg, err
}

// offline is what the functions of the daemon that do without it are given. What
// they do well a command says itself.
func (p *program) offline(cfg *config.Config) daemon.Config {
	log := cfg.Log
	if log.Level == "info" {
		log.Level = "warn"
	}
	return daemon.Config{Config: cfg, Logger: daemon.NewLogger(p.Stderr, log)}
}

// operatorToken finds the operator's token where Vault's own CLI does.
func (p *program) operatorToken(c *cli.Context) (secret.Text, error) {
	if path := c.String("token-file"); path != "" {
		return readToken(path)
	}
	if t := p.Env("VAULT_TOKEN"); t != "" {
		return secret.FromString(t), nil
	}
	home := p.Env("HOME")
	if home == "" {
		return secret.Text{}, errNoToken
	}
	token, err := readToken(filepath.Join(home, ".vault-token"))
	if errors.Is(err, fs.ErrNotExist) {
		return secret.Text{}, errNoToken
	}
	return token, err
}

func readToken(path string) (secret.Text, error) {
	token, err := vault.ReadSecretFile(path)
	if err != nil {
		return secret.Text{}, fmt.Errorf("read your Vault token: %w", err)
	}
	return token, nil
}

// operator is Vault with the operator's token.
func (p *program) operator(c *cli.Context) (*vault.Operator, error) {
	cfg, err := p.load(c)
	if err != nil {
		return nil, err
	}
	token, err := p.operatorToken(c)
	if err != nil {
		return nil, err
	}
	o, err := vault.NewOperator(vault.OperatorConfig{Config: cfg.VaultConfig(), Token: token})
	if err != nil {
		return nil, fmt.Errorf("prepare the client of Vault: %w", err)
	}
	return o, nil
}

// readSecret asks for a secret without echo, or reads it from a pipe. One
// newline at the end is not part of it.
func (p *program) readSecret(prompt string) (secret.Text, error) {
	f, ok := p.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return p.pipedSecret()
	}
	fmt.Fprint(p.Stderr, prompt)
	line, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(p.Stderr)
	if err != nil {
		return secret.Text{}, fmt.Errorf("read the secret: %w", err)
	}
	defer clear(line)
	return checkSecret(line)
}

func (p *program) pipedSecret() (secret.Text, error) {
	b, err := readAll(p.Stdin)
	if err != nil {
		return secret.Text{}, err
	}
	defer clear(b)
	line := b
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	return checkSecret(line)
}

// checkSecret refuses what cannot be a clientSecret: a file that was piped by
// mistake, or a line with spaces at its ends.
func checkSecret(line []byte) (secret.Text, error) {
	if len(line) == 0 {
		return secret.Text{}, errors.New("the secret is empty")
	}
	if bytes.HasSuffix(line, []byte("\r")) {
		return secret.Text{}, errors.New("the secret ends in a carriage return (\\r), as lines of Windows files do: leave it out")
	}
	for _, b := range line {
		if b <= ' ' || b > '~' {
			return secret.Text{}, errors.New("the secret has spaces, line breaks or other characters that no clientSecret has")
		}
	}
	return secret.New(line), nil
}
