package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/vault"
)

// Anchors keeps the rollback anchor away from this machine. *vault.Client is one.
type Anchors interface {
	// ReadAnchor returns the entry and its version; an error that matches
	// vault.ErrNotFound says that there is none, and comes with the version that a
	// write must name.
	ReadAnchor(ctx context.Context, instance string) (vault.Anchor, int, error)
	// WriteAnchor writes over that version; vault.ErrAnchorMoved when another is
	// there.
	WriteAnchor(ctx context.Context, instance string, a vault.Anchor, over int) (version int, err error)
}

const (
	anchorEvery   = time.Minute     // between two writes of the anchor, at least
	anchorAtStop  = 3 * time.Second // how long a stop waits for the last one
	errAnotherOne = "the anchor in Vault was written by somebody else: is another daemon of this instance running?"
)

// stand is where store and keyring on this machine stand, as can be told without
// a key.
type stand struct {
	keys     keyring.Info
	position uint64
	unused   bool // no user, session or intent is in the store
}

func standOf(ctx context.Context, driver store.Driver) (s stand, err error) {
	if s.keys, err = keyring.Peek(ctx, driver); err != nil {
		return s, fmt.Errorf("look at the keys: %w", err)
	}
	if s.position, err = driver.Position(ctx); err != nil {
		return s, fmt.Errorf("look at the store: %w", err)
	}
	s.unused = true
	for _, t := range []store.Table{store.Users, store.Sessions, store.Intents} {
		rows, err := driver.Scan(ctx, t, nil, 1)
		if err != nil {
			return s, fmt.Errorf("look at the store: %w", err)
		}
		s.unused = s.unused && len(rows) == 0
	}
	return s, nil
}

// holds says whether the audit log has the line that an anchor names.
type holds func(audit.Position) (bool, error)

// isNew: there is nothing, or the first start was cut short before the anchor.
func (s stand) isNew() bool { return !s.keys.Exists || s.keys.Generation == 1 && s.unused }

// behind compares what is here with the anchor, and says what is older than it, or
// not what it names. Nothing: the store is new, or at or ahead of its anchor.
func (s stand) behind(a vault.Anchor, found bool, log holds) (reasons []string, err error) {
	switch {
	case !found && s.isNew():
		return nil, nil
	case !found:
		return []string{"there is a store here, and Vault has no anchor for it"}, nil
	case !s.keys.Exists:
		return []string{"Vault has an anchor, and there is no store here"}, nil
	case hex.EncodeToString(s.keys.StoreID[:]) != a.StoreID:
		return []string{"the store here is another one than the anchor names"}, nil
	}
	reasons = s.older(a)
	if a.AuditSequence == 0 {
		return reasons, nil
	}
	p, err := positionOf(a)
	if err != nil {
		return append(reasons, "the anchor's position in the audit log is malformed"), nil
	}
	has, err := log(p)
	if err != nil {
		return reasons, fmt.Errorf("look for the anchor's line in the audit log: %w", err)
	}
	if !has {
		reasons = append(reasons, fmt.Sprintf("the audit log lacks line %d of segment %d as it was: it is older, or was changed", p.Sequence, p.Segment))
	}
	return reasons, nil
}

// older compares counters, which grow within an incarnation.
func (s stand) older(a vault.Anchor) (reasons []string) {
	switch k := s.keys; {
	case k.Incarnation < a.Incarnation:
		return []string{fmt.Sprintf("the store is of incarnation %d, the anchor of %d", k.Incarnation, a.Incarnation)}
	case k.Incarnation > a.Incarnation: // restored or accepted, and not anchored since
		return nil
	case k.Generation < a.Generation:
		reasons = append(reasons, fmt.Sprintf("the keyring is of generation %d, the anchor of %d", k.Generation, a.Generation))
	case k.Generation == a.Generation && hex.EncodeToString(k.Digest[:]) != a.KeyringDigest:
		reasons = append(reasons, "the keyring is not the one that the anchor names")
	}
	if s.position < a.StorePosition {
		reasons = append(reasons, fmt.Sprintf("the store stands at change %d, the anchor at %d", s.position, a.StorePosition))
	}
	return reasons
}

func positionOf(a vault.Anchor) (audit.Position, error) {
	p := audit.Position{Segment: a.AuditSegment, Sequence: a.AuditSequence}
	head, err := hex.DecodeString(a.AuditHead)
	if err != nil || len(head) != len(p.Head) {
		return p, errors.New("not a SHA-256")
	}
	copy(p.Head[:], head)
	return p, nil
}

// holdsLine asks the audit log of the configuration.
func (d *daemon) holdsLine(ctx context.Context) holds {
	return func(p audit.Position) (bool, error) { return audit.Holds(ctx, d.cfg.Audit.Path, p) }
}

// anchor is the last one that was read from Vault or written there.
type anchor struct {
	content vault.Anchor
	version int
	found   bool
}

// readAnchor returns what Vault has, or during an outage what was remembered.
func (d *daemon) readAnchor(ctx context.Context) (anchor, error) {
	if r := d.recalled; r != nil && r.AnchorVersion > 0 {
		return anchor{content: r.Anchor, version: r.AnchorVersion, found: true}, nil
	}
	content, version, err := d.source.Anchors.ReadAnchor(ctx, d.cfg.Instance)
	if errors.Is(err, vault.ErrNotFound) {
		return anchor{version: version}, nil
	}
	return anchor{content: content, version: version, found: err == nil}, err
}

// current is the anchor as it would be written now. It names nothing that is not
// on disk.
func (d *daemon) current(ctx context.Context, s *services) (vault.Anchor, error) {
	line := s.audit.Durable() // first: the store may only be ahead of the log
	position, err := d.driver.Position(ctx)
	if err != nil {
		return vault.Anchor{}, fmt.Errorf("look at the store: %w", err)
	}
	k := s.keys.Info()
	return vault.Anchor{
		StoreID: hex.EncodeToString(k.StoreID[:]), Incarnation: k.Incarnation, Generation: k.Generation,
		KeyringDigest: hex.EncodeToString(k.Digest[:]), StorePosition: position,
		AuditSegment: line.Segment, AuditSequence: line.Sequence, AuditHead: hex.EncodeToString(line.Head[:]),
		AuditKey: hex.EncodeToString(s.audit.Status().PublicKey), Time: d.Now().UTC().Truncate(time.Second), Host: host(),
	}, nil
}

// host is this machine's name, for people alone, in the characters that an anchor
// takes: the kernel takes any (sethostname(2)).
func host() string {
	name, _ := os.Hostname()
	return printableASCII(name)
}

func printableASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// same reports whether an anchor says nothing new, its time aside.
func same(a, b vault.Anchor) bool {
	a.Time, b.Time = time.Time{}, time.Time{}
	return a == b
}

// writeAnchor brings the anchor to where store and log are now.
func (d *daemon) writeAnchor(ctx context.Context, s *services) error {
	d.anchoring.Lock()
	defer d.anchoring.Unlock()
	next, err := d.current(ctx, s)
	if err != nil {
		return err
	}
	was := d.anchored()
	if was.found && same(was.content, next) {
		return nil
	}
	version, err := d.source.Anchors.WriteAnchor(ctx, d.cfg.Instance, next, was.version)
	if errors.Is(err, vault.ErrAnchorMoved) {
		version, err = d.writeOver(ctx, next)
	}
	if err != nil {
		return fmt.Errorf("write the anchor: %w", err)
	}
	d.setAnchored(anchor{content: next, version: version, found: true})
	return nil
}

// writeOver writes next although the anchor is not the one that was there: it may
// be our own, written by a request whose answer was lost. One that names what is
// not here is somebody else's.
func (d *daemon) writeOver(ctx context.Context, next vault.Anchor) (int, error) {
	there, version, err := d.source.Anchors.ReadAnchor(ctx, d.cfg.Instance)
	switch {
	case errors.Is(err, vault.ErrNotFound):
	case err != nil:
		return 0, err
	case there.StoreID != next.StoreID || there.Incarnation != next.Incarnation ||
		there.Generation > next.Generation || there.StorePosition > next.StorePosition || there.AuditSequence > next.AuditSequence:
		return 0, errors.New(errAnotherOne)
	}
	return d.source.Anchors.WriteAnchor(ctx, d.cfg.Instance, next, version)
}

// anchors writes the anchor once a minute, when something has changed.
func (d *daemon) anchors(ctx context.Context, s *services) error {
	if d.source.Anchors == nil {
		return nil
	}
	for wait(ctx, anchorEvery) {
		if !d.source.Session.Status().Reachable {
			continue // the status says so already
		}
		d.tellAnchored(ctx, d.writeAnchor(ctx, s))
	}
	return nil
}

// tellAnchored keeps what the last write of the anchor brought.
func (d *daemon) tellAnchored(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if d.state.setAnchor(err) {
		d.log.Warn("the rollback anchor is not up to date", "error", err)
	}
}

// lastAnchor writes the anchor of a clean stop.
func (d *daemon) lastAnchor(s *services) {
	if d.source.Anchors == nil || !d.source.Session.Status().Reachable {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), anchorAtStop)
	defer cancel()
	if err := d.writeAnchor(ctx, s); err != nil {
		d.log.Warn("the rollback anchor was not written at the stop", "error", err)
	}
}

func (d *daemon) anchored() anchor {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lastKnown
}

func (d *daemon) setAnchored(a anchor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lastKnown = a
}
