package clienttest

import (
	"context"
	"errors"
	"io"

	"github.com/tokenvault/tokenvault/exchange/user"
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
		Store: api.StoreStatus{ID: a.w.keys.StoreID().String(), Backend: "bolt", Incarnation: a.w.keys.Incarnation()},
		Exchanges: api.ExchangeStatus{
			InFlight: b.InFlight, Waiting: b.Waiting, Uncertain: b.Uncertain, Resuming: b.Resuming, Damaged: b.Damaged, Outcomes: outcomes,
		},
		Breaker:   b.Breaker,
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
	out := api.StoreCheck{OK: len(r.Problems) == 0, Counts: r.Counts, States: r.States, Ambiguous: r.Ambiguous, Problems: r.Problems, Omitted: r.Omitted}
	return out, nil
}

// errNotHere is what only a daemon with a configuration and a Vault can do.
var errNotHere = errors.New("the test server has no configuration file and no Vault")

// Reload refuses: rules are swapped by Server.SetPolicy.
func (a *admin) Reload(context.Context) error { return errNotHere }

// Accept refuses: nothing is ever rolled back.
func (a *admin) Accept(context.Context, string) error { return errNotHere }

// Backup asks the store.
func (a *admin) Backup(ctx context.Context, w io.Writer) error {
	_, err := a.w.server.Store.Backup(ctx, w)
	return err
}

// Prefer asks the store.
func (a *admin) Prefer(ctx context.Context, app user.ClientID, id user.ClientUserID, human user.HumanID) (user.Public, error) {
	return a.w.server.Store.Prefer(ctx, app, id, human)
}

// Candidates asks the store.
func (a *admin) Candidates(ctx context.Context, app user.ClientID, id user.ClientUserID) ([]user.Public, int, error) {
	return a.w.server.Store.AllByClientUserID(ctx, app, id)
}
