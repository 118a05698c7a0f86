package daemon

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/vault"
)

// countUpTo bounds how many indeterminate users a status counts.
const countUpTo = 1000

// admin answers the admin socket.
type admin struct{ d *daemon }

func (a admin) Status(ctx context.Context) api.Status {
	d := a.d
	out := api.Status{
		Version: d.Version, Instance: d.cfg.Instance, StartedAt: d.started.UTC(), Health: d.health(),
		Vault:   d.vaultStatus(),
		Secrets: d.secretStatus(d.secrets.Status()),
		Store:   api.StoreStatus{Backend: d.cfg.Store.Backend},
		Audit:   api.AuditStatus{Path: d.cfg.Audit.Path},

		Rollback: d.rollbackShown(), Disk: d.diskTroubles(), Memory: d.memoryStatus(),
	}
	for _, p := range d.Confined {
		out.Sandbox = append(out.Sandbox, api.SandboxPart(p))
	}
	out.Keys = keyMemory()
	for _, l := range d.cfg.Listeners {
		out.Listeners = append(out.Listeners, api.Listener{Name: l.Name, Path: l.Path, Ceiling: l.Grants()})
	}
	out.Store.Bytes, _ = d.driver.Size() // 0 says that it cannot be told
	if s := d.open(); s != nil {
		s.describe(ctx, &out)
	}
	return out
}

func (s *services) describe(ctx context.Context, out *api.Status) {
	id := s.keys.StoreID()
	out.Store.ID, out.Store.Incarnation = hex.EncodeToString(id[:]), s.keys.Incarnation()
	log := s.audit.Status()
	out.Audit.Sequence, out.Audit.PublicKey = log.Sequence, hex.EncodeToString(log.PublicKey)
	b := s.broker.Status()
	out.Breaker = b.Breaker
	out.Exchanges.InFlight = b.InFlight
	out.Exchanges.Waiting, out.Exchanges.Uncertain, out.Exchanges.Resuming = b.Waiting, b.Uncertain, b.Resuming
	out.Exchanges.Damaged = b.Damaged
	out.Exchanges.Outcomes = map[string]uint64{}
	for o, n := range b.Outcomes {
		out.Exchanges.Outcomes[string(o)] = n
	}
	if list, err := s.store.InState(ctx, "", user.Indeterminate, countUpTo); err == nil {
		out.Exchanges.Indeterminate = len(list)
	}
}

func keyMemory() api.KeyMemory {
	r := secret.Region()
	return api.KeyMemory{Locked: r.Locked && r.Guarded, Hidden: r.Hidden, Bytes: r.Bytes, Used: r.Used, Spilled: r.Spilled, Reason: r.Reason}
}

func (d *daemon) memoryStatus() string {
	switch why := d.state.read().memory; {
	case d.source.Session == nil:
		return "off: nothing needs to outlive a restart"
	case d.memory.Off() != "":
		return "off: " + d.memory.Off()
	case why != "":
		return "not kept: " + why
	}
	return "kept"
}

func (d *daemon) vaultStatus() api.VaultStatus {
	out := api.VaultStatus{Address: d.source.Name, Reachable: true}
	if d.source.Session == nil {
		return out
	}
	v := d.source.Session.Status()
	out.Reachable, out.Reason = v.Reachable, v.Reason
	out.LastWord, out.TokenExpiry = moment(v.LastWord), moment(v.TokenExpiry)
	return out
}

func (d *daemon) secretStatus(states []vault.SecretState) []api.SecretStatus {
	names := map[user.ClientID]string{}
	for _, a := range d.cfg.PolicyApps() {
		names[a.ClientID] = a.Name
	}
	out := make([]api.SecretStatus, len(states))
	for i, s := range states {
		out[i] = api.SecretStatus{
			App: names[s.ClientID], ClientID: string(s.ClientID), Version: s.Version,
			HeldSince: moment(s.HeldSince), Confirmed: moment(s.Confirmed), Reason: s.Reason, Refused: s.Refused,
		}
	}
	return out
}

func (a admin) CheckSecrets(ctx context.Context) api.SecretCheck {
	out := api.SecretCheck{OK: true, Secrets: a.d.secretStatus(a.d.secrets.Check(ctx))}
	for _, s := range out.Secrets {
		out.OK = out.OK && s.Version > 0 && s.Reason == ""
	}
	return out
}

func (a admin) CheckStore(ctx context.Context) (api.StoreCheck, error) {
	s := a.d.open()
	if s == nil {
		return api.StoreCheck{}, user.Fail(user.StoreUnavailable, "the store is not open yet")
	}
	return checkStore(ctx, s.store)
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
