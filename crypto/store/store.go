// Package store keeps the sealed records of users, the indexes over them, the
// intents of exchanges under way and what finished ones leave behind.
//
// It trusts the keyring for its keys and nothing that a [Driver] returns: every
// box is opened under a key derived from what the row is (store, purpose, row
// id, revision), and the ids inside must hash back to the row id before anything
// is believed. It trusts its caller, the broker, to have checked the answers
// that it stores.
//
// It never writes an id or a token in clear, never opens a private box for a
// public lookup, and never puts either into an error: errors name rows by their
// row id in hex, which is an HMAC.
//
// Every write is one durable transaction that is checked against the revisions
// it was computed from and against the keyring's version; on a conflict it is
// computed anew.
//
// BUG: one row, or one file, put back to an older state of itself opens as it did
// then. The rollback anchor of the whole store finds the file, nothing finds the
// row.
package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// DefaultReplayWindow is how long a repeated session token is recognised when
// Config says nothing: a week, the documented default of replay_window.
const DefaultReplayWindow = 168 * time.Hour

// Config says what a Store works with.
type Config struct {
	Driver Driver           // required; stays its opener's, who closes it after the Store
	Keys   *keyring.Keyring // required; opened over the same driver
	Now    func() time.Time // nil: time.Now
	// ReplayWindow is how long a finished session is recognised. 0:
	// DefaultReplayWindow. Negative is an error.
	ReplayWindow time.Duration
}

// Store is the sealed store. All methods may be called concurrently. Its errors
// are *user.Error where a caller can act on them; their kinds are named at each
// method. Possible everywhere are StoreUnavailable (the driver failed, its disk is
// full, the Store is closed), RowDamaged (a row is there and is not what this store
// wrote: waiting does not help) and VaultStale (keys were wiped, or cannot be had).
type Store struct {
	driver Driver
	keys   *keyring.Keyring
	now    func() time.Time
	window time.Duration

	inUse  sync.RWMutex // read-held by every call, so that Close can wait
	closed bool         // under inUse

	sweepMu sync.Mutex
	sweepAt *[32]byte // under sweepMu; last session seen, nil: start over
}

// Open returns a Store over an open driver and keyring. It reads nothing but
// the version of the keyring's blob: a driver without a keyring is an error.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Driver == nil || c.Keys == nil {
		return nil, errors.New("open the store: Driver and Keys are required")
	}
	if c.ReplayWindow < 0 {
		return nil, errors.New("open the store: ReplayWindow is negative")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.ReplayWindow == 0 {
		c.ReplayWindow = DefaultReplayWindow
	}
	_, version, err := c.Driver.LoadKeyring(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the store: read the keyring's version: %w", err)
	}
	if version == 0 {
		return nil, errors.New("open the store: its driver holds no keyring")
	}
	return &Store{driver: c.Driver, keys: c.Keys, now: c.Now, window: c.ReplayWindow}, nil
}

// Close waits for the calls in flight; later ones fail. It closes neither the
// driver nor the keyring.
func (s *Store) Close() error {
	s.inUse.Lock()
	defer s.inUse.Unlock()
	s.closed = true
	return nil
}

// Size is what the store occupies, in bytes.
func (s *Store) Size() (int64, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.inUse.RUnlock()
	n, err := s.driver.Size()
	if err != nil {
		return 0, unavailable("ask for the store's size", err)
	}
	return n, nil
}

// Ready reports whether tokens could be sealed now: nil, or VaultStale when the
// private keys were wiped. It asks nobody, and so says nothing about the driver.
func (s *Store) Ready() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.inUse.RUnlock()
	if err := s.keys.Ready(keyring.Private); err != nil {
		return unavailable("take the active key of class "+string(keyring.Private), err)
	}
	return nil
}

// Low is nil, or why nothing new is begun: the disk is nearly full. It is of kind
// StoreUnavailable, and the reason is in it. What was received already is stored
// from the driver's reserve.
func (s *Store) Low() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.inUse.RUnlock()
	return s.low()
}

func (s *Store) low() error {
	if err := s.driver.Low(); err != nil {
		return unavailable("begin nothing new", err)
	}
	return nil
}

// Empty reports whether there is nothing that a user could miss: no user, no
// session, no intent.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	if err := s.enter(); err != nil {
		return false, err
	}
	defer s.inUse.RUnlock()
	for _, t := range []Table{Users, Sessions, Intents} {
		rows, err := s.driver.Scan(ctx, t, nil, 1)
		if err != nil {
			return false, unavailable("scan "+t.String(), err)
		}
		if len(rows) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// enter takes inUse for reading, unless it returns an error.
func (s *Store) enter() error {
	s.inUse.RLock()
	if s.closed {
		s.inUse.RUnlock()
		return user.Fail(user.StoreUnavailable, "the store is closed")
	}
	return nil
}

// seconds is the time of a write: UTC, whole seconds.
func (s *Store) seconds() time.Time { return s.now().UTC().Truncate(time.Second) }

// unavailable gives err a kind, unless it has one: VaultStale when keys were
// wiped because Vault was not heard for too long, else StoreUnavailable.
func unavailable(what string, err error) error {
	if user.KindOf(err) != "" {
		return err
	}
	if errors.Is(err, keyring.ErrWiped) {
		return user.Fail(user.VaultStale, "%s: %w", what, err)
	}
	return user.Fail(user.StoreUnavailable, "%s: %w", what, err)
}

// opening gives a kind to the error of opening a row: RowDamaged when what is
// there was altered, moved or never written by this store.
func opening(t Table, id [32]byte, err error) error {
	if user.KindOf(err) == "" && damaged(err) {
		return user.Fail(user.RowDamaged, "open %s: %w", at(t, id), err)
	}
	return unavailable("open "+at(t, id), err)
}

func damaged(err error) bool {
	for _, is := range []error{errFormat, errRevision, errStranger, seal.ErrMalformed, seal.ErrTampered, keyring.ErrUnknownKey} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// at names a row in an error.
func at(t Table, id [32]byte) string { return t.String() + " row " + hex.EncodeToString(id[:]) }

// errRevision is found where the driver's revision of a row is not the one that
// its box was sealed for.
var errRevision = errors.New("revision of row and box disagree")

// sealBox seals under the active key of class.
func (s *Store) sealBox(class keyring.Class, p seal.Purpose, id [32]byte, revision uint64, plaintext []byte) ([]byte, error) {
	envelope, err := s.keys.SealBox(class, seal.Binding{Purpose: p, Row: id, Revision: revision}, plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal with the active key of class %s: %w", class, err)
	}
	return envelope, nil
}

// openBox opens an envelope that must have been sealed for exactly this row.
func (s *Store) openBox(ctx context.Context, class keyring.Class, p seal.Purpose, id [32]byte, revision uint64, envelope []byte) ([]byte, error) {
	h, err := seal.ParseHeader(envelope)
	if err != nil {
		return nil, fmt.Errorf("%s box: %w", p, err)
	}
	if h.Revision != revision {
		return nil, fmt.Errorf("%s box: %w", p, errRevision)
	}
	b := seal.Binding{Purpose: p, Row: id, Revision: revision}
	plaintext, err := s.keys.OpenBox(class, b, envelope)
	if errors.Is(err, keyring.ErrUnknownKey) {
		if err = s.refresh(ctx); err == nil {
			plaintext, err = s.keys.OpenBox(class, b, envelope)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s box: %w", p, err)
	}
	return plaintext, nil
}

// refresh reloads the keyring when the driver holds another version of it, as
// it does after a rotation by another process. A made-up key id in a row
// therefore never makes us ask Vault.
func (s *Store) refresh(ctx context.Context) error {
	_, version, err := s.driver.LoadKeyring(ctx)
	if err != nil {
		return fmt.Errorf("read the keyring's version: %w", err)
	}
	if version == s.keys.Version() {
		return nil
	}
	return s.reload(ctx)
}

// reload is VaultStale when the driver has a keyring whose keys cannot be had.
func (s *Store) reload(ctx context.Context) error {
	err := s.keys.Reload(ctx)
	if err == nil || errors.Is(err, keyring.ErrDamaged) {
		return err
	}
	if _, _, unread := s.driver.LoadKeyring(ctx); unread != nil {
		return err
	}
	return user.Fail(user.VaultStale, "unwrap the keys: %w", err)
}
