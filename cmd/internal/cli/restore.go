package cli

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/urfave/cli/v2"
)

const rfc3339 = time.RFC3339

// restoreAnswer is the JSON answer of store restore.
type restoreAnswer struct {
	Path        string         `json:"path"`
	StoreID     string         `json:"storeId"`
	Incarnation uint64         `json:"incarnation"` // the one that begins now
	MadeAt      string         `json:"madeAt"`      // the backup; RFC 3339
	Counts      map[string]int `json:"counts"`      // rows by table
}

func (p *program) storeRestore() *cli.Command {
	return p.command(command{
		name: "restore", usage: "make the store out of a backup, where there is none",
		text: "Verifies FILE first, shows what it has and what Vault remembers, and asks. Then it writes [store] path,\n" +
			"which must not exist: nothing is ever overwritten. A new incarnation of the store begins, and Vault\n" +
			"is told: a daemon that still runs on the old store loses its rollback anchor and says so. What the\n" +
			"backup had under way is not sent again: it may have been sent after the backup was made. Run it as\n" +
			"root or as the daemon's user, with the daemon's own login or --token-file. \"-\" is standard input,\n" +
			"with --yes.",
		args: "FILE", min: 1, max: 1,
		example: "tokenvault store restore --token-file ~/.vault-token /var/backups/tokenvault.backup",
		flags:   []cli.Flag{loginFlag(), yesFlag()}, prints: true,
		run: func(c *cli.Context) error {
			cfg, err := p.loadOffline(c)
			if err != nil {
				return err
			}
			if c.Args().First() == "-" && !c.Bool("yes") {
				return usagef("the backup comes from standard input, and so the answer cannot: give --yes")
			}
			f, err := p.backupFile(c.Args().First())
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			var seen daemon.BackupReport
			b, err := daemon.Restore(c.Context, p.offline(cfg), f, func(r daemon.BackupReport) error {
				seen = r
				return p.agree(c, cfg, r)
			})
			if err != nil {
				return p.notRestored(c, cfg, err)
			}
			a := restoreAnswer{Path: cfg.Store.Path, StoreID: b.StoreID, Incarnation: seen.Next, MadeAt: b.MadeAt.UTC().Format(rfc3339), Counts: b.Rows}
			err = p.answer(c, a, func(w io.Writer) {
				fmt.Fprintf(w, "%s: restored with %s, as incarnation %d\n", printable(a.Path), count(a.Counts["users"], "user"), a.Incarnation)
			})
			p.next(cfg, seen)
			return err
		},
	})
}

// agree shows both sides and asks.
func (p *program) agree(c *cli.Context, cfg *config.Config, r daemon.BackupReport) error {
	a := answerOf(r)
	fmt.Fprintln(p.Stderr, "the backup:")
	printVerified(p.Stderr, a)
	p.warnOfRaise(a)
	fmt.Fprintf(p.Stderr, "what Vault remembers of instance %q:\n", cfg.Instance)
	p.printAnchor(r)
	fmt.Fprintf(p.Stderr, "Restoring makes %s and replaces what Vault remembers: incarnation %d begins. %s that the backup had\n"+
		"under way will not be sent; what was stored since the backup was made is not there.\n",
		cfg.Store.Path, r.Next, count(a.Counts["intents"], "exchange"))
	return p.confirm(c, "restore it, and give up what Vault remembers?")
}

func (p *program) printAnchor(r daemon.BackupReport) {
	if !r.Anchored {
		table(p.Stderr, []string{"nothing"})
		return
	}
	mark := func(differs bool) string {
		if differs {
			return "  (differs)"
		}
		return ""
	}
	a, b := r.Anchor, r.Backup
	table(p.Stderr,
		[]string{"store", a.StoreID + mark(a.StoreID != b.StoreID)},
		[]string{"incarnation", fmt.Sprint(a.Incarnation) + mark(a.Incarnation != b.Incarnation)},
		[]string{"keyring", fmt.Sprint(a.Generation) + mark(a.Generation != b.Generation)},
		[]string{"written", a.Time.UTC().Format(rfc3339) + " on " + a.Host},
	)
}

// notRestored says what to do about what kept the backup from being restored.
func (p *program) notRestored(c *cli.Context, cfg *config.Config, err error) error {
	switch {
	case errors.Is(err, errUnconfirmed):
		return err
	case errors.Is(err, daemon.ErrStoreExists):
		return advise(fmt.Errorf("restore the store: %w", err), "tokenvault store check says whether it is all right; move it away only if it is to be given up")
	}
	return p.withoutSystemd(c, cfg, ofBackup("restore the store", err))
}

// next is what is left to do.
func (p *program) next(cfg *config.Config, r daemon.BackupReport) {
	hints := []string{"nothing else may run as instance \"" + cfg.Instance + "\": a daemon of before must stay stopped"}
	if r.Anchored {
		hints[0] += " (Vault last heard from " + printable(r.Anchor.Host) + ")"
	}
	hints = append(hints, "start the daemon, then look: systemctl start tokenvault; tokenvault status; tokenvault store check")
	if r.Backup.Rows["intents"] > 0 || r.Check.States["indeterminate"] > 0 {
		hints = append(hints, "tokenvault users list --state indeterminate shows whose last exchange is in doubt: let them finish the popup again")
	}
	for _, h := range hints {
		fmt.Fprintf(p.Stderr, "hint: %s\n", h)
	}
}
