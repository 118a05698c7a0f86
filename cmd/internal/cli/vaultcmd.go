package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/vault"
	"github.com/urfave/cli/v2"
)

func (p *program) vault() *cli.Command {
	return p.command(command{
		name: "vault", usage: "make HashiCorp Vault ready for the daemon",
		example: "tokenvault vault policy",
		subs:    []*cli.Command{p.vaultSetup(), p.vaultPolicy()},
	})
}

// setupAnswer is the JSON answer of vault setup. The secret id stands in a file.
type setupAnswer struct {
	Applied bool         `json:"applied"`
	Steps   []stepAnswer `json:"steps"`
	RoleID  string       `json:"roleId,omitempty"`
	Files   []string     `json:"files,omitempty"` // written: role id, secret id
	// Wrapped: the secret id's file holds a wrapping token, which lives for WrapTTL
	// seconds; the configuration must say so.
	Wrapped bool `json:"wrapped,omitempty"`
	WrapTTL int  `json:"wrapTtl,omitempty"`
}

type stepAnswer struct {
	What   string `json:"what"`
	Done   bool   `json:"done"`
	Needed bool   `json:"needed"`
}

func (p *program) vaultSetup() *cli.Command {
	return p.command(command{
		name: "setup", usage: "show what Vault lacks for the daemon; with --apply, make it, with your own Vault token",
		text: "With --apply the role id and a new secret id are written to DIR as new files, mode 0600: the\n" +
			"daemon logs in with them. Neither is printed. With --wrap what is written is not the secret id, but\n" +
			"a token that unwraps it once, within TTL: who reads the file after the daemon has nothing, and one\n" +
			"who was quicker is noticed. For another [vault.auth] method than approle nothing is written.",
		example: "tokenvault vault setup\ntokenvault vault setup --apply --out /etc/tokenvault\ntokenvault vault setup --apply --wrap 10m",
		flags: []cli.Flag{tokenFlag(), &cli.BoolFlag{Name: "apply", Usage: "change Vault"},
			&cli.StringFlag{Name: "out", Usage: "write the credentials into `DIR` (default: where role_id_file is or, when systemd hands that over, where the configuration is)"},
			&cli.StringFlag{Name: "role", Usage: "call the daemon's AppRole `NAME`", Value: "tokenvault"},
			&cli.StringFlag{Name: "wrap", Usage: "write a wrapping token that is good for `TTL`, such as 10m, instead of the secret id"}},
		prints: true,
		run: func(c *cli.Context) error {
			cfg, err := p.load(c)
			if err != nil {
				return err
			}
			files := credentialFiles(c.String("out"), cfg)
			method := cfg.Vault.Auth.Method
			var wrap time.Duration
			if text := c.String("wrap"); text != "" {
				if wrap, err = time.ParseDuration(text); err != nil || wrap < time.Second || method != "approle" {
					return usagef("--wrap wants a duration such as 10m, at least 1s, and vault.auth.method approle")
				}
			}
			if c.Bool("apply") && method == "approle" {
				if err := files.free(); err != nil {
					return err
				}
			}
			return p.setup(c, cfg, setupPlan{files, wrap})
		},
	})
}

// setupPlan is what vault setup writes, and how.
type setupPlan struct {
	files credentials
	wrap  time.Duration // 0: the secret id is written as it is
}

func (p *program) setup(c *cli.Context, cfg *config.Config, plan setupPlan) error {
	operator, err := p.operator(c)
	if err != nil {
		return err
	}
	apply := c.Bool("apply")
	r, err := operator.Setup(c.Context, vault.SetupConfig{Role: c.String("role"), Apply: apply, Wrap: plan.wrap})
	defer r.SecretID.Wipe()
	answer := setupAnswer{Applied: apply && err == nil, RoleID: r.RoleID, Steps: []stepAnswer{}, Wrapped: r.WrapTTL > 0, WrapTTL: int(r.WrapTTL / time.Second)}
	for _, s := range r.Steps {
		answer.Steps = append(answer.Steps, stepAnswer{What: s.What, Done: s.Done, Needed: s.Needed})
	}
	if err == nil && apply && r.RoleID != "" {
		answer.Files = []string{plan.files.roleID, plan.files.secretID}
		err = plan.files.write(r.RoleID, r.SecretID)
	}
	printed := p.answer(c, answer, func(w io.Writer) { printSetup(w, answer) })
	if err != nil {
		return ofOperator(fmt.Errorf("set Vault up: %w", err),
			"it needs sys/mounts, sys/auth, sys/policies/acl, auth/approle/role and transit/keys (or your own mounts): read to look, and create, update and, for sys/auth, sudo with --apply")
	}
	if len(answer.Files) > 0 {
		p.hintWrapped(cfg, r.WrapTTL)
	}
	return printed
}

// hintWrapped says where what was written and the configuration do not fit.
func (p *program) hintWrapped(cfg *config.Config, ttl time.Duration) {
	switch wrapped := cfg.Vault.Auth.Wrapped; {
	case ttl > 0 && !wrapped:
		fmt.Fprintf(p.Stderr, "hint: secret_id_file holds a wrapping token now: set wrapped = true in [vault.auth], and start the daemon within %s\n", ttl)
	case ttl > 0:
		fmt.Fprintf(p.Stderr, "hint: the wrapping token is good for %s and works once: start the daemon before\n", ttl)
	case wrapped:
		fmt.Fprintln(p.Stderr, "hint: the configuration says wrapped = true, but secret_id_file holds no wrapping token: take that out, or write one with --wrap")
	}
}

// ofOperator says, where Vault denied something to the operator, what the
// operator's token needs.
func ofOperator(err error, needs string) error {
	if !errors.Is(err, vault.ErrDenied) {
		return err
	}
	return advise(err, "this is about your own token, not the daemon's: vault token lookup shows whether it is valid, and its policies", needs)
}

func printSetup(w io.Writer, a setupAnswer) {
	for _, s := range a.Steps {
		word := "to do"
		switch {
		case s.Done && s.Needed:
			word = "made"
		case s.Done:
			word = "ok"
		case !s.Needed:
			word = "unknown" // the error says why
		}
		table(w, []string{word, s.What})
	}
	for _, f := range a.Files {
		table(w, []string{"written", f})
	}
}

// credentials says where vault setup writes what the daemon logs in with.
type credentials struct{ roleID, secretID string }

func credentialFiles(dir string, cfg *config.Config) credentials {
	a := cfg.Vault.Auth
	if dir == "" {
		dir = filepath.Dir(a.RoleIDFile)
		if cfg.FromSystemd(a.RoleIDFile) {
			dir = cfg.Dir()
		}
	}
	return credentials{filepath.Join(dir, filepath.Base(a.RoleIDFile)), filepath.Join(dir, filepath.Base(a.SecretIDFile))}
}

// free makes sure, before Vault is changed, that nothing is overwritten.
func (f credentials) free() error {
	for _, path := range []string{f.roleID, f.secretID} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return advise(fmt.Errorf("%s is there already: move it away, or name another directory with --out", path),
				"tokenvault vault setup without --apply shows whether Vault itself is all right")
		}
	}
	if info, err := os.Stat(filepath.Dir(f.roleID)); err != nil || !info.IsDir() {
		return fmt.Errorf("%s is not a directory that the credentials can be written to", filepath.Dir(f.roleID))
	}
	return nil
}

func (f credentials) write(roleID string, secretID secret.Text) error {
	if err := writeNew(f.roleID, []byte(roleID)); err != nil {
		return err
	}
	return writeNew(f.secretID, secretID.Reveal())
}

// writeNew writes a file that nobody else can read, and that was not there.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the credential: %w", err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the credential %s: %w", path, err)
	}
	return nil
}

func (p *program) vaultPolicy() *cli.Command {
	return p.command(command{
		name: "policy", usage: "print the policy that the daemon needs, and no more than that",
		text:    "Without a configuration the default paths are used. The role must be made with\ntoken_no_default_policy=true.",
		example: "tokenvault vault policy --format hcl | vault policy write tokenvault -",
		flags:   []cli.Flag{&cli.StringFlag{Name: "format", Usage: "print it as `FORMAT`: hcl, sh or terraform", Value: "hcl"}},
		run: func(c *cli.Context) error {
			format := c.String("format")
			if format != "hcl" && format != "sh" && format != "terraform" {
				return usagef("--format wants hcl, sh or terraform")
			}
			paths, err := p.paths(c)
			if err != nil {
				return err
			}
			text, err := vault.Policy(paths, format)
			if err != nil {
				return err
			}
			if _, err := io.WriteString(p.Stdout, text); err != nil {
				return fmt.Errorf("print the answer: %w", err)
			}
			return nil
		},
	})
}

func (p *program) paths(c *cli.Context) (vault.Paths, error) {
	cfg, err := p.load(c)
	if errors.Is(err, fs.ErrNotExist) && flag(c, "config") == "" && p.Env("TOKENVAULT_CONFIG") == "" {
		return vault.Paths{}, nil
	}
	if err != nil {
		return vault.Paths{}, err
	}
	v := cfg.VaultConfig()
	return vault.Paths{KVMount: v.KVMount, AppsPath: v.AppsPath, StatePath: v.StatePath, TransitMount: v.TransitMount, TransitKey: v.TransitKey}, nil
}
