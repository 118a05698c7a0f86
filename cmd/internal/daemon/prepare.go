package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/restart"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/server"
	"github.com/tokenvault/tokenvault/vault"
)

// prepare builds what needs no Vault: it checks everything that can be checked,
// then locks the store, then opens the sockets.
func prepare(ctx context.Context, c Config) (*daemon, error) {
	d := &daemon{Config: c, cfg: c.Config, log: c.Logger}
	if d.cfg == nil {
		return nil, errors.New("the daemon needs a configuration")
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Notify == nil {
		d.Notify = func(string) {}
	}
	d.started = d.Now()
	d.state.set(starting, "starting", "starting")
	if _, err := d.mirror(); err != nil {
		return nil, err
	}
	if err := d.clients(); err != nil {
		return nil, err
	}
	if err := d.cfg.CheckPlaces(); err != nil {
		return nil, err
	}
	driver, err := boltstore.Open(ctx, boltstore.Config{Path: d.cfg.Store.Path, Reserve: int64(d.cfg.Store.Reserve), Now: d.Now, Logger: d.log})
	if err != nil {
		return nil, storeError(d.cfg.Store.Path, err)
	}
	d.driver = driver
	d.memory, err = restart.Open(restart.Config{
		Instance: d.cfg.Instance, Mode: d.cfg.Sandbox.RestartMemory, Inherited: d.Memory, Keep: d.Keep, Drop: d.Drop, Now: d.Now, Logger: d.log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the memory for a restart: %w", err), driver.Close())
	}
	if err := d.listen(); err != nil {
		return nil, errors.Join(err, driver.Close())
	}
	return d, nil
}

func storeError(path string, err error) error {
	if errors.Is(err, boltstore.ErrHeld) {
		return fmt.Errorf("another daemon runs on the store %s: %w", path, err)
	}
	return fmt.Errorf("open the store: %w", err)
}

// clients builds the clients of Vault and Human API. They dial nothing yet.
func (d *daemon) clients() error {
	source, err := d.chooseSource()
	if err != nil {
		return err
	}
	d.source = source
	v := d.cfg.Vault
	d.secrets, err = vault.NewSecrets(vault.SecretsConfig{
		Client: source.Apps, Apps: d.cfg.ClientIDs(), MaxStale: v.MaxStale.Std(), Overlap: v.SecretOverlap.Std(),
		Now: d.Now, Logger: d.log,
	})
	if err != nil {
		return fmt.Errorf("prepare the secrets: %w", err)
	}
	h := d.cfg.HumanAPI
	d.upstream, err = exchange.New(exchange.Config{
		UserURL: h.UserURL, Timeout: h.Timeout.Std(), CAFile: h.CAFile, ProxyURL: h.ProxyURL,
		Pins: h.Pins, UnsafePrivateAddresses: h.UnsafePrivateAddresses, UnsafePlainHTTP: h.UnsafePlainHTTP, Now: d.Now, Logger: d.log,
	})
	if err != nil {
		return fmt.Errorf("prepare the client of Human API: %w", err)
	}
	return nil
}

func (d *daemon) chooseSource() (Source, error) {
	if d.Source != nil {
		return *d.Source, nil
	}
	if err := d.cfg.CheckSecretFiles(); err != nil {
		return Source{}, err
	}
	client, err := newVault(d.Config)
	if err != nil {
		return Source{}, err
	}
	return Source{Name: d.cfg.Vault.Address, Keys: client, Apps: client, Session: client, Anchors: client}, nil
}

func newVault(c Config) (*vault.Client, error) {
	v := c.Config.VaultConfig()
	v.Now, v.Logger = c.Now, c.Logger
	client, err := vault.New(v)
	if err != nil {
		return nil, fmt.Errorf("prepare the client of Vault: %w", err)
	}
	return client, nil
}

// listen opens the sockets and builds the server on them.
func (d *daemon) listen() error {
	rules, err := d.cfg.Policy(d.Now)
	if err != nil {
		return fmt.Errorf("compile the rules: %w", err)
	}
	listeners, err := d.sockets()
	if err != nil {
		return err
	}
	l := d.cfg.Limits
	d.server, err = server.New(server.Config{
		Listeners: listeners, Policy: rules, Health: d.publicHealth, Version: d.Version, Admin: admin{d},
		Limits: server.Limits{
			Connections: l.Connections, ConnectionsPerUID: l.ConnectionsPerUID, InFlightPerUID: l.InFlightPerUID,
			AuditPerUID: int64(l.AuditPerUID), Body: int64(l.Body), Header: int(l.Header),
			HeaderTimeout: l.HeaderTimeout.Std(), BodyTimeout: l.BodyTimeout.Std(),
		},
		DrainTimeout: d.cfg.DrainTimeout.Std(), Apps: d.cfg.PolicyApps(),
		RequireClientUserID: d.mustName(), Durable: d.durable(), Now: d.Now, Logger: d.log,
		Peers:             d.Peers,
		UnrecordedLookups: d.cfg.Audit.WhenFull == "unsafe-unrecorded-lookups",
	})
	if err != nil {
		closeAll(listeners)
		return fmt.Errorf("prepare the server: %w", err)
	}
	return nil
}

func (d *daemon) mustName() map[user.ClientID]bool {
	m := map[user.ClientID]bool{}
	for _, a := range d.cfg.Apps {
		m[user.ClientID(a.ClientID)] = a.RequireClientUserID
	}
	return m
}

func (d *daemon) durable() map[string]bool {
	m := map[string]bool{} // never nil: nil is the server's own default
	for _, g := range d.cfg.Audit.Durable {
		m[g] = true
	}
	return m
}
