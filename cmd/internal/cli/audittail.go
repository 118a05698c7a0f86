package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/urfave/cli/v2"
)

func (p *program) auditTail() *cli.Command {
	return p.command(command{
		name: "tail", usage: "show the last lines of the audit log, and go on as it is written",
		text: "It reads the file itself, over rotations and restarts of the daemon, until Ctrl-C: asking the daemon\n" +
			"would write lines about the asking. Who may read the file may do so. With --json each line is printed\n" +
			"as it stands in the log. Nothing is proved: audit verify does that.",
		args: "[FILE]", max: 1,
		example: "tokenvault audit tail --lines 50\ntokenvault audit tail --json | jq 'select(.status == 403)'",
		flags:   []cli.Flag{&cli.StringFlag{Name: "lines", Usage: "begin with the last `N` lines (default: 10)"}},
		prints:  true,
		run: func(c *cli.Context) error {
			last := 10
			if text := c.String("lines"); text != "" {
				var err error
				if last, err = strconv.Atoi(text); err != nil || last < 0 || last > 1_000_000 {
					return usagef("--lines wants a number from 0 to 1000000")
				}
			}
			path := c.Args().First()
			if path == "" {
				cfg, err := p.load(c)
				if err != nil {
					return err
				}
				path = cfg.Audit.Path
			}
			show := showLine
			if c.Bool("json") {
				show = func(w io.Writer, l audit.Line) { fmt.Fprintf(w, "%s\n", l.Raw) }
			}
			return p.tail(c, audit.FollowConfig{Path: path, Last: last}, show)
		},
	})
}

func (p *program) tail(c *cli.Context, f audit.FollowConfig, show func(io.Writer, audit.Line)) error {
	out := &checkedWriter{w: p.Stdout}
	return audit.Follow(c.Context, f, func(l audit.Line) error {
		if show(out, l); out.err != nil {
			return fmt.Errorf("print the answer: %w", out.err)
		}
		return nil
	})
}

// showLine prints a line by itself: nobody knows how wide the next one is.
func showLine(w io.Writer, l audit.Line) {
	result := l.Outcome
	if l.Status != 0 {
		result = fmt.Sprintf("%d %s", l.Status, l.Error)
	}
	uid := "-"
	if l.UID != nil {
		uid = strconv.FormatUint(uint64(*l.UID), 10)
	}
	fmt.Fprintf(w, "%6d  %s  %-8s  uid %-6s %-16s %-24s %s\n", l.Seq, l.Time.Local().Format(time.DateTime), printable(l.Kind), uid,
		printable(orNone(l.Rule)), printable(orNone(l.Route)), printable(result))
}
