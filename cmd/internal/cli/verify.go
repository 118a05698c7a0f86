package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/urfave/cli/v2"
)

// verifyAnswer is the JSON answer of store verify.
type verifyAnswer struct {
	OK          bool           `json:"ok"`
	StoreID     string         `json:"storeId"`
	Incarnation uint64         `json:"incarnation"` // of the store that it was made of
	MadeAt      string         `json:"madeAt"`      // RFC 3339, by that daemon's clock
	Bytes       int64          `json:"bytes"`
	Counts      map[string]int `json:"counts"` // rows by table
	States      map[string]int `json:"states"` // users by state
	Ambiguous   int            `json:"ambiguous"`
	Problems    []string       `json:"problems"` // at most 100
	Omitted     int            `json:"omitted"`
	// Versions of the Transit key: the lowest that a key of the backup is wrapped
	// under, the lowest that Vault opens (0 and 1: all), and the newest.
	WrappedUnder  int `json:"wrappedUnder"`
	MinDecryption int `json:"minDecryptionVersion"`
	Latest        int `json:"latestVersion"`
}

func (p *program) storeVerify() *cli.Command {
	return p.command(command{
		name: "verify", usage: "prove that a backup is whole and opens; exit 5 when it is not or does not",
		text: "Every row of FILE is opened with keys that Vault unwraps, in this process's memory: no store is\n" +
			"needed, touched or made. \"-\" is standard input, which is put aside as a temporary file without a\n" +
			"name; all in it stays sealed. What is printed names no user. It logs in at Vault as the daemon does,\n" +
			"or with --token-file.",
		args: "FILE", min: 1, max: 1,
		example: "tokenvault store verify --token-file ~/.vault-token /var/backups/tokenvault.backup",
		flags:   []cli.Flag{loginFlag()}, prints: true,
		run: func(c *cli.Context) error {
			cfg, err := p.loadOffline(c)
			if err != nil {
				return err
			}
			f, err := p.backupFile(c.Args().First())
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			r, err := daemon.VerifyBackup(c.Context, p.offline(cfg), f)
			if err != nil {
				return p.withoutSystemd(c, cfg, ofBackup("verify the backup", err))
			}
			return p.verified(c, r)
		},
	})
}

// ofBackup tells what is wrong with a backup from what kept it from being looked at.
func ofBackup(what string, err error) error {
	err = fmt.Errorf("%s: %w", what, err)
	switch {
	case errors.Is(err, daemon.ErrBackupDead):
		return &found{err: advise(err, "lower min_decryption_version of the Transit key in Vault for as long as the backup is needed: whatever is wrapped under the older versions opens again then")}
	case errors.Is(err, store.ErrBackup):
		return &found{err: err}
	}
	return err
}

// backupFile opens a backup; "-" is standard input.
func (p *program) backupFile(name string) (*os.File, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("open the backup: %w", err)
		}
		return f, nil
	}
	f, err := os.CreateTemp("", "tokenvault-backup-") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("put the backup aside: %w", err)
	}
	if err = os.Remove(f.Name()); err == nil { // it lives as long as it is open
		_, err = io.Copy(f, p.Stdin)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("put the backup aside: %w", err), f.Close())
	}
	return f, nil
}

func (p *program) verified(c *cli.Context, r daemon.BackupReport) error {
	a := answerOf(r)
	if err := p.answer(c, a, func(w io.Writer) { printVerified(w, a) }); err != nil {
		return err
	}
	p.warnOfRaise(a)
	if !a.OK {
		return &found{err: errors.New("the backup has problems"), printed: true}
	}
	return nil
}

func answerOf(r daemon.BackupReport) verifyAnswer {
	b := r.Backup
	return verifyAnswer{
		OK: r.Check.OK, StoreID: b.StoreID, Incarnation: b.Incarnation, MadeAt: b.MadeAt.UTC().Format(rfc3339), Bytes: b.Bytes,
		Counts: b.Rows, States: r.Check.States, Ambiguous: r.Check.Ambiguous, Problems: r.Check.Problems, Omitted: r.Check.Omitted,
		WrappedUnder: r.WrappedUnder, MinDecryption: r.MinDecryption, Latest: r.Latest,
	}
}

// warnOfRaise says that the backup lives only until min_decryption_version is
// raised.
func (p *program) warnOfRaise(a verifyAnswer) {
	if a.WrappedUnder < a.Latest && a.WrappedUnder <= max(a.MinDecryption, 1) {
		fmt.Fprintf(p.Stderr, "warning: the next raise of min_decryption_version kills this backup: its keys are wrapped under version %d of the Transit key, and the newest is %d\n",
			a.WrappedUnder, a.Latest)
	}
}

func printVerified(w io.Writer, a verifyAnswer) {
	rows := [][]string{
		{"made", a.MadeAt}, {"store", a.StoreID}, {"incarnation", fmt.Sprint(a.Incarnation)}, {"size", count(a.Bytes, "byte")},
		{"Transit key", fmt.Sprintf("wrapped under version %d or later; Vault opens from %d, and wraps under %d", a.WrappedUnder, max(a.MinDecryption, 1), a.Latest)},
	}
	check := api.StoreCheck{OK: a.OK, Counts: a.Counts, States: a.States, Ambiguous: a.Ambiguous, Problems: a.Problems, Omitted: a.Omitted}
	table(w, append(rows, checkRows(check)...)...)
	printProblems(w, check, "ok: it is whole, and everything in it opens")
}
