package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/doctor"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func (p *program) doctor() *cli.Command {
	return p.command(command{
		name: "doctor", usage: "examine the installation, and name the command that mends what is wrong; exit 5 when something is",
		text: "Each line is ok, warn (it works, and should not stay so), fail or not checked. Be root: others see\n" +
			"less. It works while the daemon runs and while it does not, changes nothing, and prints no secret.\n" +
			"It logs in at Vault as the daemon does, unless the running daemon's own login is refused, or the\n" +
			"secret id is wrapped. The newest tokenvault*.backup in DIR is opened, every row of it.",
		example: "tokenvault doctor\ntokenvault doctor --json | jq '.checks[] | select(.state != \"ok\")'",
		flags: []cli.Flag{socketFlag(),
			&cli.StringFlag{Name: "backups", Usage: "look for backups in `DIR` (default: /var/backups)"}},
		prints: true,
		run: func(c *cli.Context) error {
			examined := doctor.Config{
				Load:   config.LoadOptions{Path: flag(c, "config"), Env: p.Env},
				Socket: flag(c, "socket"), Backups: c.String("backups"),
			}
			if !c.Bool("json") {
				out := &checkedWriter{w: p.Stdout}
				width := widest(doctor.Names())
				paint := p.colours()
				examined.Each = func(r doctor.Result) { fmt.Fprint(out, resultLine(r, width, paint)) }
				return p.diagnosis(doctor.Examine(c.Context, examined), out.err)
			}
			report := doctor.Examine(c.Context, examined)
			return p.diagnosis(report, p.answer(c, report, nil))
		},
	})
}

func (p *program) diagnosis(r doctor.Report, printed error) error {
	switch {
	case printed != nil:
		return fmt.Errorf("print the answer: %w", printed)
	case !r.OK:
		return &found{err: errors.New("something is wrong"), printed: true}
	}
	return nil
}

func widest(words []string) (n int) {
	for _, w := range words {
		n = max(n, len(w))
	}
	return n
}

// stateColours are the terminal's (ECMA-48, SGR); the words carry the meaning.
var stateColours = map[doctor.State]string{doctor.OK: "32", doctor.Warn: "33", doctor.Fail: "31;1", doctor.Unknown: "2"}

// resultLine is a line, and below it what mends it.
func resultLine(r doctor.Result, width int, paint bool) string {
	word := fmt.Sprintf("%-*s", len(doctor.Unknown), r.State)
	if paint {
		word = "\x1b[" + stateColours[r.State] + "m" + word + "\x1b[0m"
	}
	text := fmt.Sprintf("%s  %-*s  %s\n", word, width, r.Check, printable(r.Text))
	for _, cure := range r.Cures {
		text += strings.Repeat(" ", len(doctor.Unknown)+2+width+2) + "-> " + printable(cure) + "\n"
	}
	return text
}

// colours: stdout is a terminal, and nobody has said no (https://no-color.org).
func (p *program) colours() bool {
	f, ok := p.Stdout.(*os.File)
	return ok && p.Env("NO_COLOR") == "" && p.Env("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
