package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/restart"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/vault"
)

const (
	rememberEvery  = 5 * time.Second // between two savings of what a restart needs
	reconnectEvery = time.Second     // between two looks whether Vault is back; asks nobody
	// reconnectAtMost is the pause, doubled each time, when Vault is back and does
	// not confirm: that asks, and may have to wait for the operator.
	reconnectAtMost = time.Minute
	transitEvery    = 15 * time.Minute // between two looks at the Transit key
)

// loginAgain takes up the session of an earlier life. Vault is asked about it
// first: when it answers, nothing but the token is used of what was remembered.
func (d *daemon) loginAgain(ctx context.Context, c restart.Contents) (ok bool) {
	session := d.source.Session
	defer func() {
		if d.recalled == nil {
			c.Wipe()
		}
	}()
	if err := session.Recall(c.Vault); err != nil {
		d.log.Warn("what was remembered cannot be used", "error", err)
		return false
	}
	switch err := session.Revalidate(ctx); {
	case err == nil:
		d.log.Info("went on with the vault session of before the restart")
		return true
	case !errors.Is(err, vault.ErrUnreachable):
		d.log.Warn("vault does not know the token of before the restart", "error", err)
		return false
	}
	d.recalled = &c
	d.secrets.Recall(c.Secrets)
	d.log.Warn("vault cannot be reached: started from what was remembered over the restart", "last_word", c.Vault.LastWord)
	return true
}

// contents is what a restart would need now; false when Vault refuses the daemon.
// s is nil while the keys are not there.
func (d *daemon) contents(s *services) (restart.Contents, bool) {
	session, ok := d.source.Session.Memory()
	if !ok {
		return restart.Contents{}, false
	}
	c := restart.Contents{Instance: d.cfg.Instance, Vault: session, Secrets: d.secrets.Memory()}
	if s != nil {
		a := d.anchored()
		c.Keys, c.Anchor, c.AnchorVersion = s.keys.Memory(), a.content, a.version
	}
	return c, true
}

// remember saves what a restart needs. What Vault's no or max_stale has wiped
// here is then wiped there.
func (d *daemon) remember(s *services) {
	if d.source.Session == nil || d.memory.Off() != "" {
		return
	}
	c, ok := d.contents(s)
	if !ok {
		d.memory.Wipe()
		return
	}
	defer c.Wipe()
	if err := d.memory.Save(c); err != nil && d.state.setMemory(err) {
		d.log.Warn("nothing is remembered for a restart", "error", err)
	}
}

// remembers saves as long as it serves, and once more at the end: what was
// answered until then is what the next start finds.
func (d *daemon) remembers(ctx context.Context, s *services) error {
	for {
		d.remember(s)
		if !wait(ctx, rememberEvery) {
			d.remember(s)
			return nil
		}
	}
}

// reconnect re-validates what was remembered at the first word of Vault's.
func (d *daemon) reconnect(ctx context.Context, s *services) error {
	if d.recalled == nil {
		return nil
	}
	for pause := reconnectEvery; wait(ctx, pause); {
		status := d.source.Session.Status()
		if status.Denied {
			continue // staleness wipes
		}
		if !status.Reachable {
			pause = reconnectEvery
			continue
		}
		switch err := d.confirm(ctx, s); {
		case err == nil:
			d.log.Info("vault has confirmed what was remembered")
			return nil
		case isVaults(err):
			if !errors.Is(err, vault.ErrUnreachable) {
				pause = min(2*pause, reconnectAtMost)
			}
			d.log.Warn("vault has not confirmed what was remembered", "error", err)
		case ctx.Err() == nil:
			return fmt.Errorf("confirm what was remembered: %w", err)
		}
	}
	return nil
}

// confirm compares anchor, keys and secrets with Vault's. An error that is not
// Vault's ends the daemon: the next start finds out with Vault at hand.
func (d *daemon) confirm(ctx context.Context, s *services) error {
	if d.source.Anchors != nil {
		content, version, err := d.source.Anchors.ReadAnchor(ctx, d.cfg.Instance)
		if err != nil && !errors.Is(err, vault.ErrNotFound) {
			return err
		}
		now, err2 := d.current(ctx, s)
		if err2 != nil {
			return err2
		}
		found := err == nil
		if !found || content.StoreID != now.StoreID || content.Incarnation > now.Incarnation ||
			content.Incarnation == now.Incarnation && (content.Generation > now.Generation || content.StorePosition > now.StorePosition) {
			return errors.New("the anchor in Vault names another or a later store than the remembered one")
		}
		d.setAnchored(anchor{content: content, version: version, found: true})
	}
	if _, err := s.keys.Confirm(ctx); err != nil {
		return err
	}
	d.secrets.Check(ctx)
	return nil
}

// transit looks for what only the next start would find, when it would be too late:
// it wraps keys anew that Vault would open no longer, as long as they are in memory,
// and says which rights are gone.
func (d *daemon) transit(ctx context.Context, s *services) error {
	if d.source.Session == nil {
		return nil
	}
	for pause := rememberEvery; wait(ctx, pause); pause = transitEvery {
		d.rights(ctx) // what only a restart needs may have been taken away, too
		state, err := d.source.Session.TransitState(ctx)
		if news := d.state.setTransit(missingKey(err)); news {
			d.log.Error("the Transit key is gone: a restart would not find its keys", "error", err)
		}
		if err != nil {
			continue // what else is wrong with Vault, the status says
		}
		if oldest(s.keys) >= state.MinDecryption {
			continue
		}
		n, err := s.keys.Confirm(ctx)
		if err != nil {
			d.log.Error("keys that Vault opens no longer were not wrapped anew", "error", err)
			continue
		}
		d.log.Warn("keys that Vault opens no longer were wrapped anew", "keys", n)
		if d.source.Anchors != nil {
			d.tellAnchored(ctx, d.writeAnchor(ctx, s))
		}
	}
	return nil
}

// missingKey is an error of the Transit key's own, nil while it may only be that
// Vault does not answer.
func missingKey(err error) error {
	if errors.Is(err, vault.ErrNotFound) || errors.Is(err, vault.ErrMalformed) {
		return fmt.Errorf("%w: restore it before the daemon restarts", err)
	}
	return nil
}

// oldest is the lowest version of the Transit key that a key here is wrapped under.
func oldest(keys *keyring.Keyring) int {
	lowest := int(^uint(0) >> 1)
	for _, k := range keys.List() {
		if k.State != keyring.Removed {
			lowest = min(lowest, vault.WrapVersion(k.Wrapped))
		}
	}
	return lowest
}
