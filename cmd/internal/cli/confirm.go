package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// errUnconfirmed is returned when nobody said yes.
var errUnconfirmed = errors.New("not confirmed: nothing was changed")

func yesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Usage: "do not ask"}
}

// confirm asks on stderr and wants the word yes on standard input, whoever
// writes it there; --yes has said so already. What is asked about was shown
// before.
func (p *program) confirm(c *cli.Context, question string) error {
	if c.Bool("yes") {
		return nil
	}
	fmt.Fprintf(p.Stderr, "%s [yes/no] ", question)
	line, err := bufio.NewReader(io.LimitReader(p.Stdin, 1024)).ReadString('\n')
	if err != nil {
		fmt.Fprintln(p.Stderr)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read standard input: %w", err)
	}
	if strings.TrimSpace(line) != "yes" {
		return errUnconfirmed
	}
	return nil
}
