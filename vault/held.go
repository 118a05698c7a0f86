package vault

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// held is what is in memory about one app.
type held struct {
	id   user.ClientID
	turn chan struct{} // holds one element while nobody reads the entry

	mu        sync.Mutex
	current   user.ClientSecret // Version 0: none
	previous  user.ClientSecret // Version 0: none
	since     time.Time         // when current was first read
	rotated   time.Time         // when previous became that
	confirmed time.Time         // when Vault last said that current is current
	tried     time.Time         // when Vault was last asked
	used      time.Time         // when somebody last asked here
	reread    time.Time         // when it was last read because of a refusal
	offered   time.Time         // when previous was last offered because current was refused
	refused   int               // the current version, when Human API refused it and nothing else was there; 0: none
	stale     bool              // wiped because of MaxStale
	err       error             // why the last read brought nothing
}

// dueFunc says whether an app's entry is to be read now.
type dueFunc = func(*held, time.Time, SecretsConfig) bool

func newHeld(id user.ClientID) *held {
	h := &held{id: id, turn: make(chan struct{}, 1)}
	h.turn <- struct{}{}
	return h
}

func always(*held, time.Time, SecretsConfig) bool { return true }

func (h *held) use(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used = now
}

// due reports whether a use must ask Vault before it is answered: nothing usable
// is held, or Run did not look for two refreshes.
func (h *held) due(now time.Time, c SecretsConfig) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	gap := 2 * c.Refresh
	if h.current.Version == 0 || now.Sub(h.confirmed) > c.MaxStale {
		gap = retryGap
	}
	return h.tried.IsZero() || now.Sub(h.tried) >= gap
}

// wanted reports whether Run should read the entry: it is in use, was refused when
// it was last read, or was not confirmed for half of MaxStale.
func (h *held) wanted(now time.Time, c SecretsConfig) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	inUse := !h.used.IsZero() && now.Sub(h.used) < inUse
	if inUse || h.err != nil && !errors.Is(h.err, ErrUnreachable) {
		return true
	}
	return h.current.Version != 0 && now.Sub(h.confirmed) > c.MaxStale/2
}

// rereadDue reports whether a refusal may read the entry, and if so that it does.
func (h *held) rereadDue(now time.Time, _ SecretsConfig) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.reread.IsZero() && now.Sub(h.reread) < rereadGap {
		return false
	}
	h.reread = now
	return true
}

func (h *held) triedBefore(t time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tried.Before(t)
}

// usable reports whether something is held that may be handed out.
func (h *held) usable(now time.Time, c SecretsConfig) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expireLocked(now, c)
	return h.current.Version != 0
}

// unanswered notes that Vault is known to be unreachable, as if it had been asked.
func (h *held) unanswered(now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tried, h.err = now, err
}

// missed reports whether the last read found Vault unreachable.
func (h *held) missed(time.Time, SecretsConfig) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Is(h.err, ErrUnreachable)
}

// skip is unanswered, where something is held.
func (h *held) skip(now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current.Version != 0 {
		h.tried, h.err = now, err
	}
}

func (h *held) lastError() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// settle takes over the result of a read. It returns the states before and after.
func (h *held) settle(now time.Time, app App, err error) (was, is SecretState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was = h.stateLocked()
	h.tried, h.err = now, err
	switch {
	case err == nil:
		h.adopt(now, user.ClientSecret{Text: app.ClientSecret, Version: app.Version})
	case errors.Is(err, ErrDenied), errors.Is(err, ErrNotFound):
		h.wipe()
		h.stale = false
	}
	return was, h.stateLocked()
}

// deny wipes what is held because Vault refuses the daemon, and reports whether
// there was something.
func (h *held) deny(err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	had := h.current.Version != 0
	if had || !errors.Is(h.err, ErrDenied) {
		h.wipe()
		h.stale, h.err = false, err
	}
	return had
}

// adopt makes what was read the current version, and the one before, if it is
// another, the previous one. A version that carries other bytes than before was
// made anew: its predecessor is not a predecessor.
func (h *held) adopt(now time.Time, read user.ClientSecret) {
	h.confirmed, h.stale = now, false
	same := h.current.Text.Equal(read.Text)
	switch {
	case h.current.Version == read.Version && same:
		read.Text.Wipe()
		return
	case h.current.Version == 0 || h.current.Version == read.Version:
		h.wipe()
		h.confirmed = now
	default:
		h.previous.Text.Wipe()
		h.previous, h.rotated, h.offered = h.current, now, time.Time{}
	}
	h.current, h.since, h.refused = read, now, 0
}

func (h *held) wipe() {
	h.current.Text.Wipe()
	h.previous.Text.Wipe()
	h.current, h.previous, h.refused = user.ClientSecret{}, user.ClientSecret{}, 0
	h.since, h.confirmed = time.Time{}, time.Time{}
}

// expire wipes what has become too old.
func (h *held) expire(now time.Time, c SecretsConfig) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expireLocked(now, c)
}

func (h *held) expireLocked(now time.Time, c SecretsConfig) {
	if h.current.Version != 0 && now.Sub(h.confirmed) > c.MaxStale {
		h.wipe()
		h.stale = true
	}
	if h.previous.Version != 0 && now.Sub(h.rotated) > c.Overlap {
		h.previous.Text.Wipe()
		h.previous = user.ClientSecret{}
	}
}

// give returns a copy of the current secret, or why there is none.
func (h *held) give(now time.Time, c SecretsConfig) (user.ClientSecret, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expireLocked(now, c)
	if h.current.Version != 0 {
		return handOut(h.current), nil
	}
	kind := user.SecretUnavailable
	switch {
	case h.stale:
		kind = user.VaultStale
	case h.err == nil || errors.Is(h.err, ErrUnreachable):
		kind = user.VaultUnavailable
	}
	return user.ClientSecret{}, &user.Error{Kind: kind, Err: h.err}
}

// handOut copies: what is held is wiped at any time, also while it is in use.
func handOut(s user.ClientSecret) user.ClientSecret {
	return user.ClientSecret{Text: ownCopy(s.Text), Version: s.Version}
}

// accepted forgets that a version was refused, and reports whether it was.
func (h *held) accepted(version int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.refused != 0 && h.refused == version
	if was {
		h.refused = 0
	}
	return was
}

// instead returns a version to try instead of the refused one. The previous one
// is offered for a refusal of the current one, and the current one for any
// other, but not for a refusal of the previous one that was just offered:
// two versions that are both refused must not be tried in turns for ever. give,
// called before, has dropped a previous one that is past Overlap.
func (h *held) instead(now time.Time, refused int) (user.ClientSecret, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if refused == h.current.Version {
		if h.previous.Version == 0 {
			h.refused = h.current.Version
			return user.ClientSecret{}, false
		}
		h.offered = now
		return handOut(h.previous), true
	}
	both := refused == h.previous.Version && !h.offered.IsZero() && now.Sub(h.offered) < rereadGap
	if both {
		h.refused = h.current.Version
	}
	if h.current.Version == 0 || both {
		return user.ClientSecret{}, false
	}
	return handOut(h.current), true
}

func (h *held) state() SecretState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stateLocked()
}

func (h *held) stateLocked() SecretState {
	s := SecretState{ClientID: h.id, Version: h.current.Version, HeldSince: h.since, Confirmed: h.confirmed, Refused: h.refused != 0}
	switch {
	case h.err != nil:
		s.Reason = h.err.Error()
	case h.stale:
		s.Reason = "vault was not heard for longer than max_stale"
	case h.current.Version == 0:
		s.Reason = "not read yet"
	case s.Refused:
		s.Reason = fmt.Sprintf("Human API refuses version %d", s.Version)
	}
	return s
}
