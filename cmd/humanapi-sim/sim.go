package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tokenvault/tokenvault/cmd/internal/run"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// Exit statuses, as those of tokenvault.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake on the command line.
type usageError struct{ error }

// simulate serves until ctx ends. Stdout is the URL and nothing else.
func simulate(ctx context.Context, io run.IO, args []string) int {
	err := command(io).RunContext(ctx, args)
	if err == nil {
		return 0
	}
	fmt.Fprintf(io.Stderr, "humanapi-sim: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintln(io.Stderr, "hint: humanapi-sim --help")
		return exitUsage
	}
	return exitFailed
}

func command(io run.IO) *cli.App {
	return &cli.App{
		Name:  "humanapi-sim",
		Usage: "simulate Human API's token endpoints on the loopback interface",
		Description: "Prints its URL, then serves until SIGINT or SIGTERM. Sessions are made with\n" +
			"POST /sim/sessions {\"clientId\": …}, misbehaviour with POST /sim/faults, counts are at /sim/stats.",
		HideHelpCommand: true,
		HideVersion:     true,
		Reader:          io.Stdin,
		Writer:          io.Stdout,
		ErrWriter:       io.Stderr,
		ExitErrHandler:  func(*cli.Context, error) {}, // simulate does it
		OnUsageError:    func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		// A file name may have a comma in it.
		DisableSliceFlagSeparator: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "loopback `ADDRESS`; port 0: a free one"},
			&cli.StringSliceFlag{Name: "app", Usage: "an app and a file with its test secret: `CLIENT_ID=FILE`; repeatable"},
			&cli.StringFlag{Name: "mode", Value: string(humanapitest.OneTime),
				Usage: "what becomes of a session token that is used again: one-time, repeatable, rotating"},
			&cli.IntFlag{Name: "keep", Value: 1000, Usage: "how many requests are remembered"},
		},
		Action: serve,
	}
}

func serve(c *cli.Context) error {
	config, err := configure(c)
	if err != nil {
		return err
	}
	sim := humanapitest.New(config)
	if err := sim.Open(c.String("listen")); err != nil {
		return err
	}
	defer sim.Close()
	if _, err := fmt.Fprintln(c.App.Writer, sim.URL); err != nil {
		return fmt.Errorf("printing the URL: %w", err)
	}
	<-c.Context.Done()
	return nil
}

func configure(c *cli.Context) (humanapitest.Config, error) {
	config := humanapitest.Config{Apps: map[string]string{}, Mode: humanapitest.Mode(c.String("mode")), Keep: c.Int("keep")}
	host, _, err := net.SplitHostPort(c.String("listen"))
	switch {
	case c.NArg() > 0:
		return config, usageError{fmt.Errorf("there are no arguments, only flags: %q", c.Args().First())}
	case !slices.Contains(humanapitest.Modes, config.Mode):
		return config, usageError{fmt.Errorf("--mode is one of %q", humanapitest.Modes)}
	case config.Keep < 1:
		return config, usageError{errors.New("--keep is at least 1")}
	case err != nil || !net.ParseIP(host).IsLoopback():
		return config, usageError{errors.New("--listen takes a loopback address and a port, as 127.0.0.1:8080")}
	}
	for _, app := range c.StringSlice("app") {
		clientID, file, ok := strings.Cut(app, "=")
		if !ok || clientID == "" || file == "" {
			return config, usageError{errors.New("--app takes CLIENT_ID=FILE")}
		}
		if config.Apps[clientID], err = readSecret(file); err != nil {
			return config, err
		}
	}
	return config, nil
}

// readSecret reads a test secret of at most 64 KiB; white space around it does
// not count.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading a test secret: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return "", fmt.Errorf("reading a test secret: %w", err)
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return "", fmt.Errorf("reading a test secret: %s is empty", path)
	}
	return string(text), nil
}
