package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/client"
)

const (
	sweepEvery = time.Minute            // between two walks over finished sessions
	sweepPause = 100 * time.Millisecond // between two steps of a walk
	staleEvery = 500 * time.Millisecond // between two looks at Vault's last word, at most; asks nobody
	lackEvery  = 10 * time.Second       // between two questions for rights that were missing
)

// sweep removes sessions that are past the replay window, in small steps.
func (d *daemon) sweep(ctx context.Context, s *services) error {
	pause := sweepEvery
	for wait(ctx, pause) {
		_, more, err := s.store.Sweep(ctx, 0)
		if err != nil && ctx.Err() == nil {
			d.log.Warn("finished sessions could not be removed", "error", err)
		}
		if pause = sweepEvery; more && err == nil {
			pause = sweepPause
		}
	}
	return nil
}

// failures ends the daemon when the disk no longer takes what must be kept. What
// was acknowledged is safe; the next start finds out about the rest.
func (d *daemon) failures(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.driver.Failed():
		return fmt.Errorf("the store takes no more writes: %w", store.ErrBroken)
	}
}

// auditFailures is the same for the audit log, once it is open.
func auditFailures(ctx context.Context, log *audit.Log) error {
	select {
	case <-ctx.Done():
		return nil
	case <-log.Broken():
		return audit.ErrBroken
	}
}

// staleness wipes the private keys when Vault has refused the daemon or was not
// heard for max_stale, and brings them back when it answers again. It also looks
// again for rights that were missing.
func (d *daemon) staleness(ctx context.Context, s *services) error {
	if d.source.Session == nil {
		return nil
	}
	every := max(min(staleEvery, d.cfg.Vault.MaxStale.Std()/4), sweepPause)
	asked := d.Now()
	for wait(ctx, every) {
		if len(d.state.read().missing) > 0 && d.Now().Sub(asked) >= lackEvery {
			d.rights(ctx)
			asked = d.Now()
		}
		d.stale(ctx, s.keys)
	}
	return nil
}

// stale is one look.
func (d *daemon) stale(ctx context.Context, keys *keyring.Keyring) {
	if d.source.Session == nil {
		return
	}
	was, is := d.state.staleness(), d.vaultSays()
	switch {
	case was == nil && is != nil:
		d.state.setStale(is) // first: who asks meanwhile hears why
		keys.Wipe(keyring.Private)
		d.log.Error("private keys were wiped from memory", "reason", is)
	case was != nil && is == nil:
		if err := keys.Reload(ctx); err != nil {
			return // still not there
		}
		d.state.setStale(nil)
		d.log.Info("private keys are back")
	}
}

// vaultSays returns why private keys may not be held, nil when they may.
func (d *daemon) vaultSays() error {
	v := d.source.Session.Status()
	switch {
	case v.Denied:
		return user.Fail(user.SecretUnavailable, "vault refuses the daemon")
	case !v.Reachable && d.Now().Sub(v.LastWord) > d.cfg.Vault.MaxStale.Std():
		return user.Fail(user.VaultStale, "vault was last heard longer than max_stale ago")
	}
	return nil
}

// recorded is the store as the broker sees it: nothing new is begun while the
// audit log lives on its reserve, which is for lookups, and for the outcomes of
// what was begun.
type recorded struct {
	users
	audit *audit.Log
}

func (r recorded) Begin(ctx context.Context, in user.Intent) (user.Intent, error) {
	if err := r.audit.Low(); err != nil {
		return user.Intent{}, user.Fail(user.AuditUnavailable, "begin nothing new: %w", err)
	}
	return r.users.Begin(ctx, in)
}

// users is the store as server and broker may see it: private parts, and exchanges
// that make some, only while their keys may be used.
type users struct {
	*store.Store
	d *daemon
}

func (u users) Private(ctx context.Context, app user.ClientID, human user.HumanID) (user.Record, error) {
	if err := u.d.state.staleness(); err != nil {
		return user.Record{}, err
	}
	return u.Store.Private(ctx, app, human)
}

// Ready is asked before an exchange begins: it says why private keys were wiped,
// which the store does not know.
func (u users) Ready() error {
	if err := u.d.state.staleness(); err != nil {
		return err
	}
	return u.Store.Ready()
}

// watch feeds the watchdog: only after a request through an own socket was
// answered.
func (d *daemon) watch(ctx context.Context) error {
	if d.Watchdog <= 0 {
		return nil
	}
	told := false
	for wait(ctx, d.Watchdog/3) { // and the probe as long at most
		err := d.probe(ctx)
		switch {
		case err == nil:
			d.Notify("WATCHDOG=1")
		case errors.Is(err, fs.ErrPermission):
			// Under socket activation the socket may not be ours to connect to.
			if !told {
				d.log.Warn("the watchdog's probe may not open the sockets: add the daemon's user to their groups")
			}
			told = true
			d.Notify("WATCHDOG=1")
		case ctx.Err() == nil:
			d.log.Error("the watchdog's probe was not answered", "error", err)
		}
	}
	return nil
}

// probe asks for the health over one socket after the other. Any answer of our
// own is a sign of life, a refusal too: strangers can fill the limits. Over the
// client sockets they can even have every further connection closed unanswered,
// but not over the admin socket.
func (d *daemon) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.Watchdog/3)
	defer cancel()
	var forbidden, failed error
	for _, l := range d.cfg.Listeners {
		switch err := ask(ctx, l.Path); {
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrPermission):
			forbidden = err
		default:
			failed = err
		}
	}
	if failed != nil {
		return failed
	}
	return forbidden
}

func ask(ctx context.Context, socket string) error {
	c, err := client.New(client.Config{Socket: socket})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err = c.Health(ctx); client.CodeOf(err) != "" {
		return nil
	}
	return err
}

// wait waits; false when ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
