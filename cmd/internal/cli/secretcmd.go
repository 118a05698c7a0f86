package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

func (p *program) secret() *cli.Command {
	return p.command(command{
		name: "secret", usage: "put and check the clientSecrets in Vault",
		example: "tokenvault secret check",
		subs:    []*cli.Command{p.secretPut(), p.secretCheck()},
	})
}

// putAnswer is the JSON answer of secret put.
type putAnswer struct {
	App      string `json:"app"`
	ClientID string `json:"clientId"`
	Version  int    `json:"version"` // of the entry in Vault
}

func (p *program) secretPut() *cli.Command {
	return p.command(command{
		name: "put", usage: "put an app's clientSecret into Vault, with your own Vault token",
		text: "The secret is asked for, or read from standard input; it is never an argument. The daemon\n" +
			"picks it up within a minute; tokenvault secret check makes it look at once.",
		args: "APP", min: 1, max: 1,
		example: "tokenvault secret put shop",
		flags:   []cli.Flag{tokenFlag()}, prints: true,
		run: func(c *cli.Context) error {
			answer, err := p.put(c)
			if err != nil {
				return err
			}
			err = p.answer(c, answer, func(w io.Writer) {
				fmt.Fprintf(w, "version %d of the clientSecret of %s is in Vault\n", answer.Version, answer.App)
			})
			fmt.Fprintln(p.Stderr, "hint: the daemon reads it within a minute; tokenvault secret check makes it look now")
			return err
		},
	})
}

func (p *program) put(c *cli.Context) (putAnswer, error) {
	cfg, err := p.load(c)
	if err != nil {
		return putAnswer{}, err
	}
	var a putAnswer
	for _, app := range cfg.Apps {
		if word := c.Args().First(); app.Name == word || app.ClientID == word {
			a.App, a.ClientID = app.Name, app.ClientID
		}
	}
	if a.App == "" {
		return a, usagef("APP is neither the name nor the client_id of an [[app]] of the configuration")
	}
	operator, err := p.operator(c)
	if err != nil {
		return a, err
	}
	text, err := p.readSecret("clientSecret of " + a.App + ": ")
	if err != nil {
		return a, err
	}
	defer text.Wipe()
	if a.Version, err = operator.PutSecret(c.Context, user.ClientID(a.ClientID), text); err != nil {
		v := cfg.Vault
		return a, ofOperator(fmt.Errorf("put the clientSecret of %s: %w", a.App, err),
			fmt.Sprintf("it needs create, update and read on %s/data/%s/%s", v.KVMount, v.AppsPath, a.ClientID))
	}
	return a, nil
}

func (p *program) secretCheck() *cli.Command {
	return p.command(command{
		name: "check", usage: "have the daemon ask Vault for every clientSecret now; exit 5 when one is missing",
		example: "tokenvault secret check", flags: []cli.Flag{socketFlag()}, prints: true,
		run: func(c *cli.Context) error {
			return p.asAdmin(c, 0, func(cl *client.Client) error {
				check, err := cl.AdminSecretsCheck(c.Context)
				if err != nil {
					return fmt.Errorf("check the secrets: %w", err)
				}
				if err := p.answer(c, check, func(w io.Writer) { printSecrets(w, check.Secrets) }); err != nil {
					return err
				}
				if !check.OK {
					return &found{err: errors.New("a clientSecret is missing"), printed: true}
				}
				return nil
			})
		},
	})
}
