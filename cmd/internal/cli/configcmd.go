package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/urfave/cli/v2"
)

func (p *program) config() *cli.Command {
	return p.command(command{
		name: "config", usage: "check and explain the configuration",
		example: "tokenvault config check",
		subs:    []*cli.Command{p.configCheck(), p.configDescribe()},
	})
}

// checked is the JSON answer of config check.
type checked struct {
	OK       bool            `json:"ok"`
	Apps     int             `json:"apps"`
	Rules    int             `json:"rules"`
	Problems []problemAnswer `json:"problems"`
}

type problemAnswer struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	Key  string `json:"key,omitempty"`
	Text string `json:"text"`
}

func (p *program) configCheck() *cli.Command {
	return p.command(command{
		name: "check", usage: "validate the configuration as the daemon would; exit 5 when something is wrong",
		example: "tokenvault config check --config ./tokenvault.toml", prints: true,
		run: func(c *cli.Context) error {
			cfg, err := p.load(c)
			wrong, isWrong := errors.AsType[*config.Error](err)
			switch {
			case err != nil && !isWrong:
				return err
			case isWrong && c.Bool("json"):
				answer := checked{}
				for _, x := range wrong.Problems {
					answer.Problems = append(answer.Problems, problemAnswer(x))
				}
				if err := p.answer(c, answer, nil); err != nil {
					return err
				}
				return &found{err: err, printed: true}
			case isWrong:
				fmt.Fprintln(p.Stderr, wrong)
				return &found{err: err, printed: true}
			}
			for _, note := range cfg.Notes() {
				fmt.Fprintf(p.Stderr, "note: %s\n", note)
			}
			answer := checked{OK: true, Apps: len(cfg.Apps), Rules: len(cfg.Rules), Problems: []problemAnswer{}}
			return p.answer(c, answer, func(w io.Writer) {
				fmt.Fprintf(w, "ok: %s, %s, %s\n", count(len(cfg.Apps), "app"), count(len(cfg.Listeners), "listener"), count(len(cfg.Rules), "rule"))
			})
		},
	})
}

func (p *program) configDescribe() *cli.Command {
	return p.command(command{
		name: "describe", usage: "print every key of the configuration with its default and unit",
		example: "tokenvault config describe | less", prints: true,
		run: func(c *cli.Context) error {
			entries, err := config.Describe()
			if err != nil {
				return err
			}
			return p.answer(c, entries, func(w io.Writer) { printEntries(w, entries) })
		},
	})
}

func printEntries(w io.Writer, entries []config.Entry) {
	for _, e := range entries {
		fmt.Fprintf(w, "%s  (%s", e.Key, e.Type)
		if e.Unit != "" {
			fmt.Fprintf(w, ": %s", e.Unit)
		}
		fmt.Fprint(w, ")")
		if e.Default != "" {
			fmt.Fprintf(w, "  default %s", e.Default)
		}
		fmt.Fprintf(w, "\n%s\n\n", wrap(e.Text))
	}
}
