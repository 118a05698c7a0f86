// Command tokenvault is the daemon and its command line.
package main

import (
	"context"

	"github.com/tokenvault/tokenvault/cmd/internal/cli"
	"github.com/tokenvault/tokenvault/cmd/internal/run"
)

func main() {
	run.Main(func(ctx context.Context, io run.IO, args []string) int {
		return cli.Main(ctx, cli.IO(io), args)
	})
}
