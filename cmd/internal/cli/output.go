package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
)

// answer prints v as JSON, or as text lets the command print it.
func (p *program) answer(c *cli.Context, v any, text func(w io.Writer)) error {
	if c.Bool("json") {
		e := json.NewEncoder(p.Stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(v); err != nil {
			return fmt.Errorf("print the answer: %w", err)
		}
		return nil
	}
	w := &checkedWriter{w: p.Stdout}
	text(w)
	if w.err != nil {
		return fmt.Errorf("print the answer: %w", w.err)
	}
	return nil
}

// checkedWriter keeps the first error: a full disk behind a redirect is a
// failure.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(b []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(b)
	c.err = err
	return n, err
}

// table prints rows of cells, aligned. Cells come from the network or the
// operator: control characters in them are shown, not sent to the terminal.
func table(w io.Writer, rows ...[]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i := range r {
			r[i] = printable(r[i])
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(r, "\t"), "\t"))
	}
	_ = t.Flush() // w keeps the error
}

// printable replaces what could steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) || r == 0x2028 || r == 0x2029 || (r >= 0x202a && r <= 0x202e) {
			return '\uFFFD'
		}
		return r
	}, s)
}

func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// count is a number of things, such as "1 app" or "2 apps".
func count[N int | int64 | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
