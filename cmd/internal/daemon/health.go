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
	mu      sync.Mutex
	phase   phase
	reason  string   // why it is still starting, for administrators
	brief   string   // the same for everybody
	missing []string // rights that Vault does not give
	stale   error    // why private keys are not in memory
}

// set takes why in words for administrators, and for everybody.
func (s *state) set(p phase, reason, brief string) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == draining {
		return false // there is no way back
	}
	changed = s.phase != p || s.reason != reason
	s.phase, s.reason, s.brief = p, reason, brief
	return changed
}

func (s *state) setMissing(list []string) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news = len(list) > 0 && !slices.Equal(list, s.missing)
	s.missing = list
	return news
}

func (s *state) setStale(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = err
}

func (s *state) staleness() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stale
}

func (s *state) read() (p phase, reason, brief string, missing []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase, s.reason, s.brief, s.missing
}

// Reasons that everybody may read: they name no address, app or path. An
// administrator reads the details in the status.
const (
	briefUnreachable = "Vault cannot be reached"
	briefDenied      = "Vault denies the daemon something that it needs"
	briefLacking     = "Vault lacks something that the daemon needs"
	briefSecrets     = "the clientSecret of an app is not available or not fresh"
	briefPrivateKeys = "private keys are not in memory"
	briefCredential  = "a credential of the daemon is not there yet"
)

func brief(err error) string {
	switch {
	case errors.Is(err, vault.ErrUnreachable):
		return briefUnreachable
	case errors.Is(err, vault.ErrDenied):
		return briefDenied
	case errors.Is(err, errNoCredential):
		return briefCredential
	}
	return briefLacking
}

// publicHealth is the answer to GET /v1/health. Everybody may ask.
func (d *daemon) publicHealth() api.Health {
	phase, _, why, missing := d.state.read()
	h := d.health()
	switch {
	case phase == starting:
		h.Reasons = []string{why}
	case phase == draining || !h.Degraded:
		return h
	default:
		h.Reasons = d.briefly(missing)
	}
	return h
}

// briefly says in constant words what health says in detail.
func (d *daemon) briefly(missing []string) []string {
	reasons := []string{}
	if d.source.Session != nil {
		switch v := d.source.Session.Status(); {
		case v.Denied:
			reasons = append(reasons, briefDenied)
		case !v.Reachable || v.Reason != "":
			reasons = append(reasons, briefUnreachable)
		}
	}
	if len(missing) > 0 && !slices.Contains(reasons, briefDenied) {
		reasons = append(reasons, briefDenied)
	}
	if slices.ContainsFunc(d.secrets.Status(), func(s vault.SecretState) bool { return s.Reason != "" }) {
		reasons = append(reasons, briefSecrets)
	}
	if d.state.staleness() != nil {
		reasons = append(reasons, briefPrivateKeys)
	}
	return reasons
}

// health is what an administrator reads: reasons name apps, addresses and Vault
// paths, never a user or a secret.
func (d *daemon) health() api.Health {
	phase, reason, _, missing := d.state.read()
	switch phase {
	case starting:
		return api.Health{Reasons: []string{reason}}
	case draining:
		return api.Health{Reasons: []string{"stopping"}}
	}
	h := api.Health{Ready: true, Reasons: []string{}}
	if d.source.Session != nil {
		if v := d.source.Session.Status(); !v.Reachable || v.Denied || v.Reason != "" {
			h.Reasons = append(h.Reasons, "vault: "+firstOf(v.Reason, "cannot be reached"))
		}
	}
	for _, m := range missing {
		h.Reasons = append(h.Reasons, "vault: the daemon's token lacks "+m)
	}
	for _, s := range d.secretStatus(d.secrets.Status()) {
		if s.Reason != "" {
			h.Reasons = append(h.Reasons, fmt.Sprintf("app %s: %s", s.App, s.Reason))
		}
	}
	if err := d.state.staleness(); err != nil {
		h.Reasons = append(h.Reasons, briefPrivateKeys)
	}
	h.Degraded = len(h.Reasons) > 0
	return h
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
	if d.state.set(starting, reason, brief(err)) {
		d.log.Warn("not ready", "reason", reason)
		d.Notify("STATUS=Not ready: " + oneLine(reason))
	}
}

func (d *daemon) ready() {
	if d.state.set(serving, "", "") {
		d.log.Info("ready", "version", d.Version, "instance", d.cfg.Instance)
		d.Notify("READY=1\nSTATUS=Ready")
	}
}

func (d *daemon) stopping() {
	d.state.set(draining, "", "")
	d.log.Info("stopping")
	d.Notify("STOPPING=1\nSTATUS=Finishing what is in flight")
}

// oneLine keeps a text from becoming further assignments of sd_notify(3).
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
