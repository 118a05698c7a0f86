package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/unix/api"
)

// lookAgain is how often a daemon that found a rollback reads the anchor again:
// somebody may have put it right.
const lookAgain = 30 * time.Second

// rollback is a store, log or keyring that is not at or ahead of its anchor.
type rollback struct {
	shown  api.Rollback
	anchor anchor
	accept chan struct{} // closed when an administrator accepted it
}

// errNotAsSeen is returned when what is to be accepted is not what was shown.
var errNotAsSeen = errors.New("this is not what the status shows: look at it again")

// fits waits until store, log and keyring fit their anchor. When they do not,
// only the admin socket serves until an administrator has accepted what is here;
// then it returns the incarnation that it must get.
func (d *daemon) fits(ctx context.Context) (incarnation uint64, err error) {
	if d.source.Anchors == nil {
		return 0, nil
	}
	for {
		found, err := d.compare(ctx)
		if err != nil || found == nil {
			return 0, err
		}
		if accepted, err := d.awaitAccept(ctx, found); err != nil {
			return 0, err
		} else if accepted {
			return d.accepted(ctx, found)
		}
	}
}

// compare reads the anchor and looks at what is here. nil: all is well.
func (d *daemon) compare(ctx context.Context) (*rollback, error) {
	var there anchor
	err := d.insist(ctx, "read the rollback anchor", func(ctx context.Context) (err error) {
		there, err = d.readAnchor(ctx)
		return named(err)
	})
	if err != nil {
		return nil, err
	}
	here, err := standOf(ctx, d.driver)
	if err != nil {
		return nil, err
	}
	reasons, err := here.behind(there.content, there.found, d.holdsLine(ctx))
	if err != nil {
		return nil, err
	}
	if len(reasons) == 0 {
		d.setAnchored(there)
		return nil, nil
	}
	return &rollback{shown: shown(reasons, there, here), anchor: there, accept: make(chan struct{})}, nil
}

// shown is both sides in words, and a name for just this pair.
func shown(reasons []string, there anchor, here stand) api.Rollback {
	r := api.Rollback{Reasons: reasons, Anchor: map[string]string{}, Store: map[string]string{}}
	if a := there.content; there.found {
		r.Anchor = map[string]string{
			"store": a.StoreID, "incarnation": fmt.Sprint(a.Incarnation), "keyring": fmt.Sprint(a.Generation),
			"change": fmt.Sprint(a.StorePosition), "auditLine": fmt.Sprint(a.AuditSequence),
			"time": a.Time.UTC().Format(time.RFC3339), "host": a.Host,
		}
	}
	if k := here.keys; k.Exists {
		r.Store = map[string]string{
			"store": hex.EncodeToString(k.StoreID[:]), "incarnation": fmt.Sprint(k.Incarnation),
			"keyring": fmt.Sprint(k.Generation), "change": fmt.Sprint(here.position),
		}
	}
	text, _ := json.Marshal(struct { // of strings and numbers: it cannot fail
		R       api.Rollback
		Version int
	}{r, there.version})
	sum := sha256.Sum256(text)
	r.Seen = hex.EncodeToString(sum[:8])
	return r
}

// awaitAccept shows what was found and waits; false when it is time to look again.
func (d *daemon) awaitAccept(ctx context.Context, r *rollback) (bool, error) {
	d.setRollback(r)
	defer d.setRollback(nil)
	reason := "rollback found: " + strings.Join(r.shown.Reasons, "; ") + " (tokenvault store accept)"
	if d.turn(starting, reason, briefRollback, "") {
		d.log.Error("rollback found: only the admin socket serves", "reasons", r.shown.Reasons)
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-r.accept:
		return true, nil
	case <-time.After(lookAgain):
	}
	d.setRollback(nil)
	select {
	case <-r.accept: // in the same moment, and the administrator was told so
		return true, nil
	default:
		return false, nil
	}
}

// accepted goes on with what is here, whatever the anchor said.
func (d *daemon) accepted(ctx context.Context, r *rollback) (incarnation uint64, err error) {
	d.log.Warn("an administrator accepted the store as it is", "reasons", r.shown.Reasons)
	d.turn(starting, "starting", "starting", "")
	d.setAnchored(anchor{version: r.anchor.version})
	info, err := keyring.Peek(ctx, d.driver)
	if err != nil {
		return 0, fmt.Errorf("look at the keys: %w", err)
	}
	return max(info.Incarnation, r.anchor.content.Incarnation) + 1, nil
}

// noteAccepted records it, once there is a log.
func noteAccepted(log *audit.Log) error {
	return log.Write(audit.Event{Kind: audit.Note, Outcome: "accepted"})
}

// acceptRollback is what an administrator asks for; seen names what was shown.
func (d *daemon) acceptRollback(seen string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r := d.found; {
	case r == nil:
		return errors.New("there is nothing to accept: no rollback was found")
	case r.shown.Seen != seen:
		return errNotAsSeen
	default:
		close(r.accept)
		d.found = nil
		return nil
	}
}

func (d *daemon) setRollback(r *rollback) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.found = r
}

func (d *daemon) rollbackShown() *api.Rollback {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.found == nil {
		return nil
	}
	out := d.found.shown
	return &out
}
