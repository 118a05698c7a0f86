package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// backupSilence is how long the daemon may send nothing.
const backupSilence = 2 * time.Minute

// backupAnswer is the JSON answer of store backup.
type backupAnswer struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

func (p *program) storeBackup() *cli.Command {
	return p.command(command{
		name: "backup", usage: "write a backup of the whole store, while the daemon goes on",
		text: "FILE gets mode 0600, is never overwritten, and appears only once the backup is whole and on the disk;\n" +
			"until then it is FILE.partial. \"-\", the default, is standard output. Everything in it is sealed: without\n" +
			"Vault nobody can open it, and without Vault's Transit key nobody ever will.",
		example: "tokenvault store backup --output /var/backups/tokenvault-$(date +%F).backup",
		flags: []cli.Flag{socketFlag(),
			&cli.StringFlag{Name: "output", Usage: "write to `FILE`", Value: "-"}},
		prints: true,
		run: func(c *cli.Context) error {
			return p.asAdmin(c, backupSilence, func(cl *client.Client) error {
				if c.String("output") == "-" {
					return p.backupToStdout(c, cl)
				}
				return p.backupToFile(c, cl, c.String("output"))
			})
		},
	})
}

func (p *program) backupToStdout(c *cli.Context, cl *client.Client) error {
	if c.Bool("json") {
		return usagef("standard output is the backup: --json needs --output FILE")
	}
	if isTerminal(p.Stdout) {
		return usagef("a backup is no text for a terminal: give --output FILE, or a pipe")
	}
	if _, err := p.fetchBackup(c, cl, p.Stdout); err != nil {
		return err
	}
	return nil
}

func (p *program) backupToFile(c *cli.Context, cl *client.Client, path string) error {
	f, err := createWhole(path)
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	defer f.abandon()
	n, err := p.fetchBackup(c, cl, f)
	if err != nil {
		return err
	}
	if err := wholeBackup(c.Context, f.f); err != nil {
		return fmt.Errorf("write the backup: what came is none: %w", err)
	}
	if err := f.publish(); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	a := backupAnswer{Path: path, Bytes: n}
	return p.answer(c, a, func(w io.Writer) { fmt.Fprintf(w, "%s: %s\n", printable(a.Path), count(a.Bytes, "byte")) })
}

// errNoKeys stops the reading of a backup where keys are needed.
var errNoKeys = errors.New("keys are needed from here on")

// wholeBackup reads what was written and looks at its form, its end and its sum.
// What is sealed in it stays so: that takes Vault, and is what verify does.
func wholeBackup(ctx context.Context, f io.ReaderAt) error {
	_, _, err := store.ReadBackup(ctx, f, func(context.Context, keyring.Blob) (*keyring.Keyring, error) { return nil, errNoKeys })
	if errors.Is(err, errNoKeys) {
		return nil
	}
	return err
}

// fetchBackup returns nil only for a stream that the daemon ended itself.
func (p *program) fetchBackup(c *cli.Context, cl *client.Client, w io.Writer) (int64, error) {
	meter := newMeter(p.Stderr)
	defer meter.end()
	n, err := cl.AdminStoreBackup(c.Context, io.MultiWriter(w, meter))
	if err != nil {
		return n, fmt.Errorf("back the store up: %w", err)
	}
	return n, nil
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// meter counts bytes on a terminal, and is silent elsewhere.
type meter struct {
	to    io.Writer // nil: nobody looks
	bytes int64
	shown time.Time
}

func newMeter(stderr io.Writer) *meter {
	m := &meter{}
	if isTerminal(stderr) {
		m.to = stderr
	}
	return m
}

func (m *meter) Write(b []byte) (int, error) {
	m.bytes += int64(len(b))
	if now := time.Now(); m.to != nil && now.Sub(m.shown) > 200*time.Millisecond {
		m.shown = now
		m.show()
	}
	return len(b), nil
}

// show writes over the line before: ECMA-48 EL clears the rest of it.
func (m *meter) show() { fmt.Fprintf(m.to, "\r%.1f MiB\x1b[K", float64(m.bytes)/(1<<20)) }

func (m *meter) end() {
	if m.to != nil {
		m.show()
		fmt.Fprintln(m.to)
	}
}
