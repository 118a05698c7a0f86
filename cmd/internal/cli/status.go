package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

func (p *program) status() *cli.Command {
	return p.command(command{
		name: "status", usage: "show how the daemon is",
		text:    "With --check it is for monitoring: exit 5 unless the daemon is ready and not degraded,\nand the socket may be any of the daemon's.",
		example: "tokenvault status --check",
		flags:   []cli.Flag{socketFlag(), &cli.BoolFlag{Name: "check", Usage: "only say whether it is well; exit 5 when not"}},
		prints:  true,
		run: func(c *cli.Context) error {
			return p.asAdmin(c, 0, func(cl *client.Client) error {
				if c.Bool("check") {
					return p.checkHealth(c, cl)
				}
				s, err := cl.AdminStatus(c.Context)
				if err != nil {
					return fmt.Errorf("ask for the status: %w", err)
				}
				return p.answer(c, s, func(w io.Writer) { printStatus(w, s) })
			})
		},
	})
}

func (p *program) checkHealth(c *cli.Context, cl *client.Client) error {
	h, err := cl.Health(c.Context)
	if err != nil {
		return fmt.Errorf("ask for the health: %w", err)
	}
	if err := p.answer(c, h, func(w io.Writer) { printHealth(w, h) }); err != nil {
		return err
	}
	if !h.Ready || h.Degraded {
		return &found{err: errors.New("the daemon is not well"), printed: true}
	}
	return nil
}

func printHealth(w io.Writer, h api.Health) {
	word := "ready"
	switch {
	case !h.Ready:
		word = "not ready"
	case h.Degraded:
		word = "ready, degraded"
	}
	fmt.Fprintln(w, word)
	for _, r := range h.Reasons {
		fmt.Fprintf(w, "  %s\n", printable(r))
	}
}

func printStatus(w io.Writer, s api.Status) {
	printHealth(w, s.Health)
	if s.Rollback != nil {
		printRollback(w, *s.Rollback)
		fmt.Fprintln(w)
	}
	table(w,
		[]string{"version", s.Version},
		[]string{"instance", s.Instance},
		[]string{"started", moment(&s.StartedAt)},
		[]string{"vault", s.Vault.Address},
		[]string{"  reachable", yes(s.Vault.Reachable), s.Vault.Reason},
		[]string{"  last word", moment(s.Vault.LastWord)},
		[]string{"  token until", moment(s.Vault.TokenExpiry)},
		[]string{"store", fmt.Sprintf("%s %s, incarnation %d, %d bytes", s.Store.Backend, s.Store.ID, s.Store.Incarnation, s.Store.Bytes)},
		[]string{"audit", fmt.Sprintf("%s, line %d", s.Audit.Path, s.Audit.Sequence)},
		[]string{"  public key", s.Audit.PublicKey},
		[]string{"exchanges", exchanges(s.Exchanges)},
		[]string{"  indeterminate", count(s.Exchanges.Indeterminate, "user")},
		[]string{"  damaged", count(s.Exchanges.Damaged, "exchange")},
		[]string{"  breaker", orNone(s.Breaker)},
		[]string{"restart memory", orNone(s.Memory)},
		[]string{"key memory", keyMemory(s.Keys)},
		[]string{"sandbox", sandboxParts(s.Sandbox)},
		[]string{"disk", disk(s.Disk)},
	)
	for _, l := range s.Listeners {
		table(w, []string{"listener " + l.Name, l.Path, grantList(l.Ceiling)})
	}
	fmt.Fprintln(w)
	printSecrets(w, s.Secrets)
}

func exchanges(e api.ExchangeStatus) string {
	return fmt.Sprintf("%d in flight (%d waiting, %d uncertain, %d resuming)%s", e.InFlight, e.Waiting, e.Uncertain, e.Resuming, outcomes(e.Outcomes))
}

func keyMemory(k api.KeyMemory) string {
	word := "on the heap"
	switch {
	case k.Hidden:
		word = "locked, hidden from root"
	case k.Locked:
		word = "locked"
	}
	if k.Spilled > 0 {
		word += fmt.Sprintf(", %s on the heap", count(k.Spilled, "secret"))
	}
	if k.Reason != "" {
		word += ": " + k.Reason
	}
	return word
}

func sandboxParts(parts []api.SandboxPart) string {
	var on, off []string
	for _, p := range parts {
		if p.On {
			on = append(on, p.Name)
		} else {
			off = append(off, p.Name+" ("+p.Why+")")
		}
	}
	text := orNone(strings.Join(on, ", "))
	if len(off) > 0 {
		text += "; without " + strings.Join(off, ", ")
	}
	return text
}

func disk(low []string) string {
	if len(low) == 0 {
		return "enough"
	}
	return strings.Join(low, "; ")
}

// orNone: nothing to say is said, too.
func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func outcomes(m map[string]uint64) string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	var out strings.Builder
	for _, name := range names {
		fmt.Fprintf(&out, ", %d %s", m[name], name)
	}
	return out.String()
}

func printSecrets(w io.Writer, list []api.SecretStatus) {
	rows := [][]string{{"APP", "CLIENT ID", "VERSION", "CONFIRMED", "REASON"}}
	for _, s := range list {
		reason := s.Reason
		if s.Refused && reason == "" {
			reason = "Human API refuses it"
		}
		rows = append(rows, []string{s.App, s.ClientID, fmt.Sprint(s.Version), moment(s.Confirmed), reason})
	}
	table(w, rows...)
}
