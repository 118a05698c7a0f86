// Package cli is the command tree of the program tokenvault: one file a
// command, each built by the one helper in command.go.
//
// It trusts whoever runs it with what the kernel lets that user do: it asks the
// daemon over the daemon's sockets, and Vault with a token that the operator
// brings. It takes nothing secret from the command line's arguments, prints
// nothing but the answer on stdout (all else goes to stderr), and never ends the
// process: [Main] returns the exit status.
package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// IO is what the process has from outside. It is the type of the same name in
// cmd/internal/run, which stands beside this package.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Env reads the environment.
	Env func(name string) string
	// Reload gives an event for each SIGHUP; may be nil.
	Reload func(ctx context.Context) <-chan struct{}
}

// program is what every command is built over.
type program struct {
	IO
	app *cli.App
}

// Main runs one command line, with the program's name first, and returns its
// exit status (exit.go has the list).
func Main(ctx context.Context, io IO, args []string) int {
	p := &program{IO: io}
	p.app = p.tree()
	err := p.app.RunContext(ctx, args)
	if err != nil {
		p.report(err)
	}
	return status(err)
}

// tree builds the commands.
func (p *program) tree() *cli.App {
	return &cli.App{
		Name:            "tokenvault",
		HelpName:        "tokenvault",
		Usage:           "keeps Human API's secrets and tokens away from the apps that use it",
		UsageText:       "tokenvault COMMAND [OPTIONS] [ARGUMENTS]",
		Description:     "Options stand before arguments. Exit status: 0 ok, 1 failed, 2 usage, 3 denied, 4 unavailable, 5 a check found something wrong.\n\nExample:\n  tokenvault dev",
		Flags:           []cli.Flag{configFlag(), cli.HelpFlag}, // a command named help keeps the library from adding it
		Commands:        p.commands(),
		Reader:          p.Stdin,
		Writer:          p.Stdout,
		ErrWriter:       p.Stderr,
		HideVersion:     true,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {}, // Main has the exit status
		OnUsageError:    onUsageError,
		Action:          unknownCommand,
	}
}

func (p *program) commands() []*cli.Command {
	all := []*cli.Command{
		p.serve(), p.dev(),
		p.status(), p.reload(), p.users(), p.secret(),
		p.whoami(), p.exchange(),
		p.config(), p.policy(), p.audit(), p.store(), p.vault(),
		p.doctor(), p.version(), p.help(),
	}
	usageLines("tokenvault", all)
	return all
}

// help shows the help of a command: `tokenvault help config check`.
func (p *program) help() *cli.Command {
	return p.command(command{
		name: "help", usage: "show the help of a command", args: "[COMMAND…]", max: 3,
		example: "tokenvault help vault setup",
		run: func(c *cli.Context) error {
			words := append(append([]string{"tokenvault"}, c.Args().Slice()...), "--help")
			again := p.tree()
			return again.RunContext(c.Context, words)
		},
	})
}

// unknownCommand is the action of everything that only has subcommands.
func unknownCommand(c *cli.Context) error {
	if c.NArg() == 0 {
		return usagef("a command is missing: %s --help lists them", c.App.HelpName)
	}
	word := c.Args().First()
	err := usagef("%q is not a command", word)
	commands := c.App.Commands
	if c.Command != nil && len(c.Command.Subcommands) > 0 {
		commands = c.Command.Subcommands
	}
	for _, known := range commands {
		if strings.HasPrefix(known.Name, word) || strings.HasPrefix(word, known.Name) {
			err.hints = append(err.hints, fmt.Sprintf("did you mean %q?", known.Name))
		}
	}
	return err
}
