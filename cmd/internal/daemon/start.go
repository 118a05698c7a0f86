package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/server"
	"github.com/tokenvault/tokenvault/vault"
	"golang.org/x/sync/errgroup"
)

// Pauses between two attempts to reach Vault at start. The cap is how late the
// daemon is at most after Vault came back.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
	// relogin is how many refusals pass before a new login: the rights of a token
	// are fixed when the role's list of policies changes.
	relogin = 6
)

var (
	// errNoCredential is returned when a file that the login reads is not there.
	errNoCredential = errors.New("the daemon's credential is not there yet")
	// errBadCredential is returned when it is there and cannot be used: at start it
	// was missing or in order, and somebody is at work on it.
	errBadCredential = errors.New("the daemon's credential cannot be used")
)

// bringUp makes the daemon ready, however long Vault takes, unless serving ends
// before. What works from then on does so until background ends.
func (d *daemon) bringUp(serving, background context.Context, work *errgroup.Group) error {
	err := d.start(serving, background, work)
	if serving.Err() != nil {
		return nil // told to stop while starting
	}
	return err
}

func (d *daemon) start(ctx, background context.Context, work *errgroup.Group) error {
	if err := d.login(ctx); err != nil {
		return err
	}
	if d.source.Session != nil {
		work.Go(func() error { return d.source.Session.Run(background) })
	}
	incarnation, err := d.fits(ctx)
	if err != nil {
		return err
	}
	s, err := d.assemble(ctx, incarnation)
	if d.recalled != nil {
		d.recalled.Wipe() // who took of it has copies, which max_stale and Vault's no wipe
	}
	if err != nil {
		return err
	}
	d.opened(s)
	if err := d.anchorFirst(ctx, s); err != nil {
		return err
	}
	d.tend(ctx, background, work, s)
	d.rights(ctx)
	d.server.Open(server.Services{Broker: s.broker, Users: users{s.store, d}, Audit: s.audit})
	d.ready()
	return nil
}

// assemble opens the keys and what works with them. An incarnation above 0 is
// what the store gets because it was accepted.
func (d *daemon) assemble(ctx context.Context, incarnation uint64) (*services, error) {
	keys, err := d.unwrap(ctx)
	if err != nil {
		return nil, err
	}
	if incarnation > 0 {
		if err := keys.Succeed(ctx, incarnation); err != nil {
			keys.Close()
			return nil, fmt.Errorf("begin a new incarnation of the store: %w", err)
		}
	}
	s, err := d.build(ctx, keys)
	if err == nil && incarnation > 0 {
		if err = noteAccepted(s.audit); err != nil {
			err = errors.Join(err, s.audit.Close(), s.store.Close())
		}
	}
	if err != nil {
		keys.Close()
		return nil, err
	}
	return s, nil
}

// anchorFirst writes the anchor of a start, before anything is served: from here
// on an older copy is found. During an outage the one that is known must do.
func (d *daemon) anchorFirst(ctx context.Context, s *services) error {
	if d.source.Anchors == nil || d.recalled != nil {
		return nil
	}
	err := d.insist(ctx, "write the rollback anchor", func(ctx context.Context) error {
		return named(d.writeAnchor(ctx, s))
	})
	if err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// tend starts what works beside the requests until background ends.
func (d *daemon) tend(ctx, background context.Context, work *errgroup.Group, s *services) {
	d.stale(background, s.keys)                        // what was remembered may be too old already
	work.Go(func() error { return s.broker.Run(ctx) }) // no new attempt once ctx ends
	work.Go(func() error { return auditFailures(background, s.audit) })
	for _, f := range []func(context.Context, *services) error{
		d.refreshes, d.sweep, d.staleness, d.anchors, d.remembers, d.reconnect, d.transit,
	} {
		work.Go(func() error { return f(background, s) })
	}
}

func (d *daemon) refreshes(ctx context.Context, _ *services) error { return d.secrets.Run(ctx) }

// login gets the first token. It waits for Vault, and for the credential's files.
func (d *daemon) login(ctx context.Context) error {
	if d.source.Session == nil {
		return nil
	}
	if c, ok := d.memory.Load(); ok && d.loginAgain(ctx, c) {
		return nil
	}
	return d.insist(ctx, "log in at Vault", func(ctx context.Context) error {
		defer d.remember(nil) // a wrapped secret id may be used up now, also when the rest failed
		return named(d.source.Session.Login(ctx))
	})
}

// named says of a step at Vault that it failed on the daemon's own credential. Any
// step may log in anew.
func named(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", errNoCredential, err)
	case errors.Is(err, vault.ErrSecretFile):
		return fmt.Errorf("%w: %w", errBadCredential, err)
	}
	return err
}

// unwrap opens the keyring. When Vault refuses, it finds out which right is
// missing: Vault's own answer does not say.
func (d *daemon) unwrap(ctx context.Context) (*keyring.Keyring, error) {
	var keys *keyring.Keyring
	refusals := 0
	err := d.insist(ctx, "unwrap the keys", func(ctx context.Context) (err error) {
		c := keyring.Config{Blob: d.driver, Wrapper: d.source.Keys, Now: d.Now, TooOld: tooOld}
		if d.recalled != nil {
			c.Memory, c.Away = &d.recalled.Keys, away
		}
		keys, err = keyring.Open(ctx, c)
		if err == nil || !errors.Is(err, vault.ErrDenied) || d.source.Session == nil {
			return named(err)
		}
		if refusals++; refusals%relogin == 0 {
			_ = d.source.Session.Login(ctx) // the next attempt says what is still wrong
		}
		if lacking := d.lacking(ctx); len(lacking) > 0 {
			return fmt.Errorf("%w: the daemon's token lacks %s", vault.ErrDenied, strings.Join(lacking, ", "))
		}
		return err
	})
	return keys, err
}

func away(err error) bool { return errors.Is(err, vault.ErrUnreachable) }

func tooOld(err error) bool { return errors.Is(err, vault.ErrTooOld) }

// lacking asks Vault which rights are missing, in words.
func (d *daemon) lacking(ctx context.Context) []string {
	missing, err := d.source.Session.Missing(ctx, d.cfg.ClientIDs())
	if err != nil {
		return nil
	}
	out := make([]string, len(missing))
	for i, m := range missing {
		out[i] = strings.Join(m.Missing, "+") + " on " + m.Path
	}
	return out
}

// rights notes which rights are missing although the keys could be unwrapped.
func (d *daemon) rights(ctx context.Context) {
	if d.source.Session == nil {
		return
	}
	lacking := d.lacking(ctx)
	if d.state.setMissing(lacking) {
		d.log.Warn("vault rights are missing", "missing", lacking)
	}
}

// insist repeats a step while Vault is the reason that it fails.
func (d *daemon) insist(ctx context.Context, what string, step func(context.Context) error) error {
	pause := firstPause
	for {
		err := step(ctx)
		if err == nil || !isVaults(err) {
			return wrapIf(err, what)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, vault.ErrDenied) {
			d.remember(nil) // no later start goes by the keys and secrets of before
		}
		d.waiting(what, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

func wrapIf(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// isVaults reports whether waiting for Vault, or for its operator, can help.
func isVaults(err error) bool {
	for _, v := range []error{vault.ErrUnreachable, vault.ErrDenied, vault.ErrNotFound, vault.ErrMalformed, vault.ErrTooOld, vault.ErrUnconfirmed, errNoCredential, errBadCredential} {
		if errors.Is(err, v) {
			return true
		}
	}
	return false
}

// build opens audit log, store and broker over the keys.
func (d *daemon) build(ctx context.Context, keys *keyring.Keyring) (*services, error) {
	s := &services{keys: keys}
	var err error
	if s.audit, err = d.openAudit(ctx, keys, audit.Event{Kind: audit.Note, Outcome: "started"}); err != nil {
		return nil, err
	}
	s.store, err = store.Open(ctx, store.Config{Driver: d.driver, Keys: keys, Now: d.Now, ReplayWindow: d.cfg.Exchange.ReplayWindow.Std()})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the store: %w", err), s.audit.Close())
	}
	apps := map[user.ClientID]broker.App{}
	for _, a := range d.cfg.Apps {
		apps[user.ClientID(a.ClientID)] = broker.App{Name: a.Name, RequireClientUserID: a.RequireClientUserID}
	}
	s.broker, err = broker.New(broker.Config{
		Store: recorded{users{s.store, d}, s.audit}, Upstream: d.upstream, Secrets: d.secrets, Journal: s.audit, Apps: apps,
		Incarnation: keys.Incarnation(), Deadline: d.cfg.Exchange.Deadline.Std(), GiveUp: d.cfg.Exchange.GiveUp.Std(),
		Now: d.Now, Logger: d.log, Step: d.Step,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the broker: %w", err), s.store.Close(), s.audit.Close())
	}
	return s, nil
}

// openAudit opens the log, and records first in it; that is signed on return.
func (d *daemon) openAudit(ctx context.Context, keys *keyring.Keyring, first audit.Event) (*audit.Log, error) {
	mirror, err := d.mirror()
	if err != nil {
		return nil, err
	}
	subject := keys.Subject()
	defer subject.Wipe() // the log keeps what it needs of it
	log, err := audit.Open(ctx, audit.Config{
		Path: d.cfg.Audit.Path, Instance: d.cfg.Instance, Incarnation: keys.Incarnation(),
		Signer: keys.Signer(), SubjectKey: subject, RotateSize: int64(d.cfg.Audit.RotateSize),
		Reserve: int64(d.cfg.Audit.Reserve), Mirror: mirror,
		Now: d.Now, Logger: d.log,
	})
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	err = log.Write(first)
	if err == nil {
		err = log.Sign(ctx) // now, so that a log whose daemon is killed early is signed all the same
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write the audit log: %w", err), log.Close())
	}
	return log, nil
}
