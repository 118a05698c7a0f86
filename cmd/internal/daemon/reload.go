package daemon

import (
	"context"
	"fmt"
	"strings"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// reloads answers SIGHUP until ctx ends, which is when the daemon stops. While
// it starts the rules are swapped, and it is not READY=1 by that.
func (d *daemon) reloads(ctx context.Context) error {
	if d.Load == nil || d.Reload == nil {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.Reload:
		}
		_ = d.reloadNow() // it is in the log, and in the status
	}
}

// reloadNow reloads, one at a time, and lets everybody know how it went. Whoever
// asked for it may leave; only the stop of the daemon ends it early.
func (d *daemon) reloadNow() error {
	ctx := d.serving
	d.reloading.Lock()
	defer d.reloading.Unlock()
	words := ""
	if d.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d\n", monotonicMicroseconds()), serving) {
		words = "READY=1\n"
	}
	err := d.reload(ctx)
	if ctx.Err() != nil {
		return user.Fail(user.Draining, "the daemon stops")
	}
	if err != nil {
		d.log.Error("the rules were not reloaded, the old ones stay", "error", err)
	}
	d.state.setRules(err)
	d.tell(words, starting, serving)
	return err
}

// load reads the configuration. It gives up when ctx ends: a file can be on a
// disk that does not answer, which nothing interrupts. Then what reads it is
// left behind; it has no side effects.
func (d *daemon) load(ctx context.Context) (*config.Config, error) {
	type loaded struct {
		config *config.Config
		err    error
	}
	done := make(chan loaded, 1)
	go func() {
		c, err := d.Load()
		done <- loaded{c, err}
	}()
	select {
	case l := <-done:
		return l.config, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reload swaps the rules, whole, or keeps the old ones.
func (d *daemon) reload(ctx context.Context) error {
	next, err := d.load(ctx)
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
	if s := d.open(); s != nil {
		if err := s.audit.Write(audit.Event{Kind: audit.Note, Outcome: "reloaded", Count: len(next.Rules)}); err != nil {
			return err
		}
	}
	d.server.SetPolicy(rules)
	d.log.Info("rules reloaded", "rules", len(next.Rules))
	return nil
}
