package clienttest

import (
	"context"

	"github.com/tokenvault/tokenvault/unix/api"
)

// admin answers the admin socket from the parts.
type admin struct{ w *wiring }

// Status says what is known without Vault.
func (a *admin) Status(context.Context) api.Status {
	b := a.w.broker.Status()
	outcomes := map[string]uint64{}
	for o, n := range b.Outcomes {
		outcomes[string(o)] = n
	}
	return api.Status{
		Version: "test", Instance: "test", Health: api.Health{Ready: true, Reasons: []string{}}, Secrets: a.secrets(),
		Store:     api.StoreStatus{ID: a.w.keys.StoreID().String(), Backend: "bolt", Incarnation: a.w.keys.Incarnation()},
		Exchanges: api.ExchangeStatus{InFlight: b.InFlight, Outcomes: outcomes},
		Audit:     api.AuditStatus{Path: a.w.server.AuditPath, Sequence: a.w.server.Audit.Status().Sequence},
		Listeners: []api.Listener{},
	}
}

func (a *admin) secrets() []api.SecretStatus {
	out := []api.SecretStatus{}
	for _, app := range a.w.config.Apps {
		out = append(out, api.SecretStatus{App: app.Name, ClientID: string(app.ClientID), Version: 1})
	}
	return out
}

// CheckSecrets finds every app's secret, in memory.
func (a *admin) CheckSecrets(context.Context) api.SecretCheck {
	return api.SecretCheck{Secrets: a.secrets(), OK: true}
}

// CheckStore walks the store.
func (a *admin) CheckStore(ctx context.Context) (api.StoreCheck, error) {
	r, err := a.w.server.Store.Check(ctx)
	if err != nil {
		return api.StoreCheck{}, err
	}
	return api.StoreCheck{OK: len(r.Problems) == 0, Counts: r.Counts, Problems: r.Problems, Omitted: r.Omitted}, nil
}
