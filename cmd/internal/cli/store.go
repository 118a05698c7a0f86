package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/vault"
	"github.com/urfave/cli/v2"
)

// checkTimeout bounds a walk over the whole store: ten million users take
// minutes.
const checkTimeout = 2 * time.Hour

func (p *program) store() *cli.Command {
	return p.command(command{
		name: "store", usage: "check the store, back it up and bring it back, fill it, and accept one that is older than what Vault remembers",
		example: "tokenvault store check",
		subs:    []*cli.Command{p.storeCheck(), p.storeBackup(), p.storeVerify(), p.storeRestore(), p.storeImport(), p.storeAccept()},
	})
}

func (p *program) storeCheck() *cli.Command {
	return p.command(command{
		name: "check", usage: "open every row of the store and hold the tables against one another; exit 5 when something is wrong",
		text: "Asks the daemon when one holds the store. Else it reads the file itself, with the daemon's own\n" +
			"login at Vault, or --token-file: run it as root or as the daemon's user. Where systemd hands the\n" +
			"credentials over, CREDENTIALS_DIRECTORY says where they are while the daemon is down. Nothing is\n" +
			"written, and only counts are printed.",
		example: "tokenvault store check\nCREDENTIALS_DIRECTORY=/etc/tokenvault tokenvault store check",
		flags:   []cli.Flag{socketFlag(), loginFlag()}, prints: true,
		run: func(c *cli.Context) error {
			check, err := p.checkStore(c)
			if err != nil {
				return fmt.Errorf("check the store: %w", err)
			}
			if err := p.answer(c, check, func(w io.Writer) { printStoreCheck(w, check) }); err != nil {
				return err
			}
			if !check.OK {
				return &found{err: errors.New("the store has problems"), printed: true}
			}
			return nil
		},
	})
}

func (p *program) checkStore(c *cli.Context) (check api.StoreCheck, err error) {
	err = p.asAdmin(c, checkTimeout, func(cl *client.Client) (err error) {
		check, err = cl.AdminStoreCheck(c.Context)
		return err
	})
	if !errors.Is(err, client.ErrUnavailable) || flag(c, "socket") != "" {
		return check, err
	}
	cfg, err := p.loadOffline(c)
	if err != nil {
		return check, err
	}
	fmt.Fprintf(p.Stderr, "note: no daemon answers: reading %s itself\n", cfg.Store.Path)
	check, err = daemon.CheckOffline(c.Context, p.offline(cfg))
	return check, p.withoutSystemd(c, cfg, err)
}

// withoutSystemd says how to have the daemon's credentials while systemd does not
// hand them over.
func (p *program) withoutSystemd(c *cli.Context, cfg *config.Config, err error) error {
	command := "CREDENTIALS_DIRECTORY=" + cfg.Dir() + " " + c.Command.HelpName
	if path := flag(c, "config"); path != "" {
		command += " --config " + path
	}
	const instead = "--token-file FILE logs in with a Vault token of yours instead"
	switch a := cfg.Vault.Auth; {
	case errors.Is(err, daemon.ErrWrapped):
		return advise(err, instead)
	case errors.Is(err, boltstore.ErrHeld):
		return advise(err, "systemctl stop tokenvault first: while a daemon holds the store nothing else works on it")
	case errors.Is(err, daemon.ErrRolledBack):
		return advise(err, "start the daemon: tokenvault status shows both sides, and tokenvault store accept takes what is here")
	case !errors.Is(err, vault.ErrSecretFile) || c.String("token-file") != "":
		return err
	case p.Env("CREDENTIALS_DIRECTORY") == "" && (cfg.FromSystemd(a.RoleIDFile) || cfg.FromSystemd(a.SecretIDFile) || cfg.FromSystemd(a.TokenFile)):
		return advise(err, "systemd hands the credentials only to the running daemon; as root: "+command, instead)
	case errors.Is(err, fs.ErrPermission):
		return advise(err, "be root, or chown the file to the daemon's user and be that user (under systemd LoadCredential= hands it over)", instead)
	}
	return advise(err, "be the user whose the file is, such as the daemon's", instead)
}

func printStoreCheck(w io.Writer, check api.StoreCheck) {
	for _, row := range checkRows(check) {
		table(w, row)
	}
	printProblems(w, check, "ok")
}

// checkRows is what a walk over a store or a backup has counted.
func checkRows(check api.StoreCheck) (rows [][]string) {
	for _, name := range slices.Sorted(maps.Keys(check.Counts)) {
		rows = append(rows, []string{name, fmt.Sprint(check.Counts[name])})
	}
	for _, state := range slices.Sorted(maps.Keys(check.States)) {
		rows = append(rows, []string{"users " + state, fmt.Sprint(check.States[state])})
	}
	return append(rows, []string{"ambiguous clientUserIds", fmt.Sprint(check.Ambiguous)})
}

func printProblems(w io.Writer, check api.StoreCheck, fine string) {
	for _, problem := range check.Problems {
		fmt.Fprintf(w, "PROBLEM %s\n", printable(problem))
	}
	switch {
	case check.Omitted > 0:
		fmt.Fprintf(w, "and %s\n", count(check.Omitted, "more problem"))
	case check.OK:
		fmt.Fprintln(w, fine)
	}
}
