// Package run is the entry of our processes: the one place in the module that
// ends the process and that listens to signals.
//
// It hands the process to a function as values: a context that ends at the
// first SIGINT or SIGTERM, the standard streams, the environment as a function.
// Everything above it can therefore be run, stopped and observed by a test
// without a process. It trusts nothing it passes on, reads no flag, no file and
// no environment variable itself, and prints nothing.
package run

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// IO is what a process has from outside. Tests fill it with buffers.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Env looks an environment variable up: "" when it is unset or empty.
	Env func(name string) string
	// Reload asks for SIGHUP as events, until ctx ends; then SIGHUP ends the
	// process again, which is also what it does while nobody has asked: a
	// command in a closed terminal must not linger. Signals that arrive while
	// one is waiting are merged into it: a reload reads everything anyhow. The
	// channel is never closed. Nil means that there are none.
	Reload func(ctx context.Context) <-chan struct{}
}

// App is a program: args as in os.Args, and the result is the exit status. It
// must return soon after ctx has ended.
type App func(ctx context.Context, io IO, args []string) int

// Main runs app and ends the process with its exit status. The first SIGINT or
// SIGTERM ends the context; from then on those signals have their default
// action again, so that a second one kills a process that hangs while stopping.
func Main(app App) {
	os.Exit(start(app))
}

func start(app App) int {
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer restore()
	context.AfterFunc(ctx, restore)
	std := IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.Getenv, Reload: hangups}
	return app(ctx, std, os.Args)
}

// hangups turns SIGHUP into events until ctx ends. It is subscribed when it
// returns: no signal after that is lost or fatal.
func hangups(ctx context.Context) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	events := make(chan struct{}, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case events <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return events
}
