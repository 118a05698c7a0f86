package daemon

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/vault"
)

type phase int

const (
	starting phase = iota
	serving
	draining
)

// state is what health says about.
type state struct {
	mu  sync.Mutex
	now condition
}

type condition struct {
	phase   phase
	reason  string   // why it is still starting, for administrators
	brief   string   // the same for everybody
	missing []string // rights that Vault does not give; replaced, never changed
	stale   error    // why private keys are not in memory
	rules   string   // why the rules on disk are not the ones in force
	anchor  string   // why the rollback anchor is not up to date
	memory  string   // why nothing is remembered for a restart
	transit string   // why the key that wraps keys is not there
}

// set takes why in words for administrators, and for everybody.
func (s *state) set(p phase, reason, brief string) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.phase == draining {
		return false // there is no way back
	}
	changed = s.now.phase != p || s.now.reason != reason
	s.now.phase, s.now.reason, s.now.brief = p, reason, brief
	return changed
}

func (s *state) setMissing(list []string) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news = len(list) > 0 && !slices.Equal(list, s.now.missing)
	s.now.missing = list
	return news
}

func (s *state) setStale(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.stale = err
}

// setRules keeps why a reload failed; nil forgets it.
func (s *state) setRules(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.rules = ""
	if err != nil {
		s.now.rules = "the rules on disk were not loaded: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
}

// setAnchor keeps why the anchor could not be written; nil forgets it.
func (s *state) setAnchor(err error) (news bool) { return s.note(&s.now.anchor, err) }

// setMemory keeps why nothing could be saved for a restart.
func (s *state) setMemory(err error) (news bool) { return s.note(&s.now.memory, err) }

// setTransit keeps why the Transit key cannot be used; nil forgets it.
func (s *state) setTransit(err error) (news bool) { return s.note(&s.now.transit, err) }

func (s *state) note(where *string, err error) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	news = text != "" && text != *where
	*where = text
	return news
}

func (s *state) read() condition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *state) staleness() error { return s.read().stale }

// Reasons that everybody may read: they name no address, app or path. An
// administrator reads the details in the status.
const (
	briefUnreachable   = "Vault cannot be reached"
	briefDenied        = "Vault denies the daemon something that it needs"
	briefLacking       = "Vault lacks something that the daemon needs"
	briefSecrets       = "the clientSecret of an app is not available or not fresh"
	briefPrivateKeys   = "private keys are not in memory"
	briefCredential    = "a credential of the daemon is not there yet"
	briefBadCredential = "a credential of the daemon cannot be used"
	briefRules         = "the rules on disk were not loaded: see tokenvault status"
	briefRollback      = "the store is not at or ahead of its rollback anchor"
	briefAnchor        = "the rollback anchor is not up to date"
	briefTransit       = "the key in Vault that wraps the store's keys is gone"
	briefDisk          = "the disk is nearly full, or takes no more"
)

func brief(err error) string {
	switch {
	case errors.Is(err, vault.ErrUnreachable):
		return briefUnreachable
	case errors.Is(err, vault.ErrDenied):
		return briefDenied
	case errors.Is(err, errNoCredential):
		return briefCredential
	case errors.Is(err, errBadCredential):
		return briefBadCredential
	}
	return briefLacking
}

// publicHealth is the answer to GET /v1/health. Everybody may ask.
func (d *daemon) publicHealth() api.Health {
	now := d.state.read()
	h := d.health()
	switch {
	case now.phase == starting:
		h.Reasons = []string{now.brief}
	case now.phase == draining || !h.Degraded:
		return h
	default:
		h.Reasons = d.briefly(now)
	}
	if now.rules != "" {
		h.Reasons = append(h.Reasons, briefRules)
	}
	return h
}

// briefly says in constant words what health says in detail.
func (d *daemon) briefly(now condition) []string {
	reasons := []string{}
	if d.source.Session != nil {
		switch v := d.source.Session.Status(); {
		case v.Denied:
			reasons = append(reasons, briefDenied)
		case !v.Reachable || v.Reason != "":
			reasons = append(reasons, briefUnreachable)
		}
	}
	if len(now.missing) > 0 && !slices.Contains(reasons, briefDenied) {
		reasons = append(reasons, briefDenied)
	}
	if slices.ContainsFunc(d.secrets.Status(), func(s vault.SecretState) bool { return s.Reason != "" }) {
		reasons = append(reasons, briefSecrets)
	}
	if now.stale != nil {
		reasons = append(reasons, briefPrivateKeys)
	}
	if now.anchor != "" {
		reasons = append(reasons, briefAnchor)
	}
	if now.transit != "" {
		reasons = append(reasons, briefTransit)
	}
	if len(d.diskTroubles()) > 0 {
		reasons = append(reasons, briefDisk)
	}
	return reasons
}

// diskTroubles says where the reserve cannot be kept.
func (d *daemon) diskTroubles() (reasons []string) {
	if err := d.driver.Low(); err != nil {
		reasons = append(reasons, "store: "+err.Error())
	}
	if s := d.open(); s != nil {
		if err := s.audit.Low(); err != nil {
			reasons = append(reasons, "audit log: "+err.Error())
		}
	}
	return reasons
}

// health is what an administrator reads: reasons name apps, addresses and Vault
// paths, never a user or a secret.
func (d *daemon) health() api.Health {
	now := d.state.read()
	h := api.Health{Reasons: []string{}}
	if now.phase == draining {
		h.Reasons = append(h.Reasons, "stopping")
		return h
	}
	if now.phase == starting {
		h.Reasons = append(h.Reasons, now.reason)
	} else {
		h.Ready = true
		h.Reasons = append(h.Reasons, d.troubles(now)...)
		h.Degraded = len(h.Reasons) > 0 || now.rules != ""
	}
	if now.rules != "" {
		h.Reasons = append(h.Reasons, now.rules)
	}
	return h
}

// troubles says what is not well although it serves.
func (d *daemon) troubles(now condition) (reasons []string) {
	if d.source.Session != nil {
		if v := d.source.Session.Status(); !v.Reachable || v.Denied || v.Reason != "" {
			reasons = append(reasons, "vault: "+firstOf(v.Reason, "cannot be reached"))
		}
	}
	for _, m := range now.missing {
		reasons = append(reasons, "vault: the daemon's token lacks "+m)
	}
	for _, s := range d.secretStatus(d.secrets.Status()) {
		if s.Reason != "" {
			reasons = append(reasons, fmt.Sprintf("app %s: %s", s.App, s.Reason))
		}
	}
	if now.stale != nil {
		reasons = append(reasons, briefPrivateKeys)
	}
	if now.anchor != "" {
		reasons = append(reasons, "rollback anchor: "+now.anchor)
	}
	if now.transit != "" {
		reasons = append(reasons, "transit key: "+now.transit)
	}
	return append(reasons, d.diskTroubles()...)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// waiting says, once for each reason, why it is not ready.
func (d *daemon) waiting(what string, err error) {
	reason := fmt.Sprintf("%s: %v", what, err)
	if d.turn(starting, reason, brief(err), "") {
		d.log.Warn("not ready", "reason", reason)
	}
}

func (d *daemon) ready() {
	if d.turn(serving, "", "", "READY=1\n") {
		d.log.Info("ready", "version", d.Version, "instance", d.cfg.Instance)
	}
}

func (d *daemon) stopping() {
	d.log.Info("stopping")
	d.turn(draining, "", "", "STOPPING=1\n")
}

// turn changes the phase, or why it is in it, and tells the service manager so
// with words of its own in front of the status. It returns false, and nothing is
// told, when nothing changed.
func (d *daemon) turn(p phase, reason, brief, words string) bool {
	d.telling.Lock()
	defer d.telling.Unlock()
	changed := d.state.set(p, reason, brief)
	if changed {
		d.Notify(words + d.statusLine())
	}
	return changed
}

// tell is turn without a change, and only in one of these phases: READY=1 after
// STOPPING=1, say, would be a lie.
func (d *daemon) tell(words string, in ...phase) bool {
	d.telling.Lock()
	defer d.telling.Unlock()
	is := slices.Contains(in, d.state.read().phase)
	if is {
		d.Notify(words + d.statusLine())
	}
	return is
}

// statusLine is what systemctl status shows.
func (d *daemon) statusLine() string {
	now, text := d.state.read(), ""
	switch now.phase {
	case starting:
		text = "Not ready: " + now.reason
	case serving:
		text = "Ready"
	case draining:
		return "STATUS=Finishing what is in flight"
	}
	if now.rules != "" {
		text += ", but " + now.rules
	}
	return "STATUS=" + oneLine(text)
}

// oneLine keeps a text from becoming further assignments of sd_notify(3).
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
