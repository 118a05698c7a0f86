package daemon

import (
	"context"
	"fmt"
	"strings"

	"github.com/tokenvault/tokenvault/crypto/audit"
)

// reloads answers SIGHUP.
func (d *daemon) reloads(ctx context.Context) error {
	if d.Load == nil || d.Reload == nil {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.Reload:
			d.Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicMicroseconds()))
			if err := d.reload(); err != nil {
				d.log.Error("the rules were not reloaded, the old ones stay", "error", err)
			}
			d.Notify("READY=1")
		}
	}
}

// reload swaps the rules, whole, or keeps the old ones.
func (d *daemon) reload() error {
	next, err := d.Load()
	if err != nil {
		return err
	}
	if fixed := d.cfg.DiffersBesideRules(next); len(fixed) > 0 {
		return fmt.Errorf("only rules are reloaded, restart for: %s", strings.Join(fixed, ", "))
	}
	rules, err := next.Policy(d.Now)
	if err != nil {
		return fmt.Errorf("compile the rules: %w", err)
	}
	s := d.open()
	if s == nil {
		d.server.SetPolicy(rules)
		return nil
	}
	if err := s.audit.Write(audit.Event{Kind: audit.Note, Outcome: "reloaded", Count: len(next.Rules)}); err != nil {
		return err
	}
	d.server.SetPolicy(rules)
	d.log.Info("rules reloaded", "rules", len(next.Rules))
	return nil
}
