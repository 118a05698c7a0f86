package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// command is what a command says about itself.
type command struct {
	name    string
	usage   string // one line, lower case, what it does
	text    string // more about it; may be ""
	args    string // how the arguments are called; "" when it takes none
	min     int    // arguments that are needed
	max     int
	example string // at least one line that can be pasted
	flags   []cli.Flag
	prints  bool // it prints data: it has --json
	run     cli.ActionFunc
	subs    []*cli.Command
}

// command builds every command. urfave/cli has three traps, all of which end
// here: a bad flag prints the help to stdout unless each command has
// OnUsageError; CommandNotFound makes an unknown command exit 0; a flag after an
// argument is silently an argument.
func (p *program) command(d command) *cli.Command {
	c := &cli.Command{
		Name: d.name, Usage: d.usage, ArgsUsage: d.args, Flags: append(d.flags, configFlag()),
		Description:     strings.TrimSpace(d.text + "\n\nExample:\n  " + strings.ReplaceAll(d.example, "\n", "\n  ")),
		Subcommands:     d.subs,
		OnUsageError:    onUsageError,
		HideHelpCommand: true,
		Action:          unknownCommand,
	}
	if d.prints {
		c.Flags = append(c.Flags, &cli.BoolFlag{Name: "json", Usage: "print JSON"})
	}
	if d.run != nil {
		c.Action = func(ctx *cli.Context) error {
			if err := checkFlags(ctx); err != nil {
				return err
			}
			if err := d.checkArgs(ctx.Args().Slice()); err != nil {
				return err
			}
			return d.run(ctx)
		}
	}
	return c
}

// checkFlags refuses a flag whose value is empty, as in --key "$KEY" with nothing
// in KEY: taken for a flag that was left out, it would silently drop a check.
func checkFlags(c *cli.Context) error {
	for _, at := range c.Lineage() {
		for _, name := range at.LocalFlagNames() {
			if at.String(name) == "" || slices.Contains(at.StringSlice(name), "") {
				return usagef("--%s is empty", name)
			}
		}
	}
	return nil
}

// usageLines says how each command is called; the library's own words are
// "[command options]".
func usageLines(parent string, commands []*cli.Command) {
	for _, c := range commands {
		words := parent + " " + c.Name
		if len(c.Subcommands) > 0 {
			c.UsageText = words + " COMMAND [OPTIONS] [ARGUMENTS]"
			usageLines(words, c.Subcommands)
			continue
		}
		c.UsageText = strings.TrimSpace(words + " [OPTIONS] " + c.ArgsUsage)
	}
}

func (d command) checkArgs(args []string) error {
	for _, a := range args {
		if strings.HasPrefix(a, "-") && a != "-" {
			err := usagef("%s takes no argument %q", d.name, a)
			err.hints = []string{"options stand before arguments; for an argument that begins with '-' use standard input"}
			return err
		}
	}
	switch {
	case len(args) < d.min:
		return usagef("%s needs %s", d.name, d.args)
	case len(args) > d.max && d.max == 0:
		return usagef("%s takes no arguments", d.name)
	case len(args) > d.max:
		return usagef("%s takes only %s", d.name, d.args)
	}
	return nil
}

func onUsageError(_ *cli.Context, err error, _ bool) error {
	return &usageError{text: err.Error()}
}

// configFlag stands on the app and on every command: before or after the
// command is the same.
func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "read the configuration from `FILE` (default: $TOKENVAULT_CONFIG, else /etc/tokenvault/tokenvault.toml)"}
}

// socketFlag is on every command that talks to the daemon.
func socketFlag() cli.Flag {
	return &cli.StringFlag{Name: "socket", Usage: "ask the daemon at this Unix socket `PATH`"}
}

// flag finds a string flag on the command or on any above it, the innermost
// first.
func flag(c *cli.Context, name string) string {
	for _, at := range c.Lineage() {
		if at != nil && at.IsSet(name) {
			return at.String(name)
		}
	}
	return ""
}
