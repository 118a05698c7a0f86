package clienttest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

// wiring constructs the parts in the daemon's order, and closes them in the
// opposite one.
type wiring struct {
	t       testing.TB
	server  *Server
	config  Config
	secrets map[string]string

	keys   *keyring.Keyring
	broker *broker.Broker
	closes []func() error
}

func (w *wiring) start() error {
	ctx := context.Background()
	for _, step := range []func(context.Context) error{w.openStore, w.openAudit, w.makeBroker, w.makeServer} {
		if err := step(ctx); err != nil {
			return errors.Join(err, w.close())
		}
	}
	serving, stop := context.WithCancel(ctx)
	working, rest := context.WithCancel(ctx)
	var serve, work errgroup.Group
	serve.Go(func() error { return w.server.server.Run(serving) })
	work.Go(func() error { return w.broker.Run(working) })
	w.server.stop = sync.OnceValue(func() error {
		stop()
		err := serve.Wait()
		rest()
		drain, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return errors.Join(err, work.Wait(), w.broker.Drain(drain), w.close())
	})
	if !w.config.Starting {
		w.server.Open()
	}
	return nil
}

func (w *wiring) close() (err error) {
	for i := len(w.closes) - 1; i >= 0; i-- {
		err = errors.Join(err, w.closes[i]())
	}
	return err
}

func (w *wiring) openStore(ctx context.Context) error {
	db, err := boltstore.Open(ctx, boltstore.Config{Path: filepath.Join(w.server.Dir, "store.db"), Now: w.config.Now})
	if err != nil {
		return err
	}
	w.closes = append(w.closes, db.Close)
	wrapper := newMemoryWrapper()
	w.keys, err = keyring.Open(ctx, keyring.Config{Blob: db, Wrapper: wrapper, Now: w.config.Now})
	if err != nil {
		return err
	}
	w.closes = append(w.closes, func() error { w.keys.Close(); return nil })
	w.server.Store, err = store.Open(ctx, store.Config{Driver: db, Keys: w.keys, Now: w.config.Now})
	if err == nil {
		w.closes = append(w.closes, w.server.Store.Close)
	}
	return err
}

func (w *wiring) openAudit(ctx context.Context) (err error) {
	w.server.AuditPath = filepath.Join(w.server.Dir, "audit.log")
	w.server.Audit, err = audit.Open(ctx, audit.Config{
		Path: w.server.AuditPath, Instance: "test", Incarnation: w.keys.Incarnation(),
		Signer: w.keys.Signer(), SubjectKey: w.keys.Subject(), Now: w.config.Now,
	})
	if err == nil {
		w.closes = append(w.closes, w.server.Audit.Close)
	}
	return err
}

func (w *wiring) makeBroker(context.Context) error {
	upstream, err := exchange.New(exchange.Config{UserURL: w.server.HumanAPI.URL, UnsafePlainHTTP: true, Now: w.config.Now})
	if err != nil {
		return err
	}
	w.closes = append(w.closes, func() error { upstream.Close(); return nil })
	apps := map[user.ClientID]broker.App{}
	for _, a := range w.config.Apps {
		apps[a.ClientID] = broker.App{Name: a.Name, RequireClientUserID: w.config.RequireClientUserID[a.ClientID]}
	}
	w.broker, err = broker.New(broker.Config{
		Store: w.server.Store, Upstream: upstream, Secrets: memorySecrets(w.secrets), Journal: w.server.Audit,
		Apps: apps, Incarnation: w.keys.Incarnation(), Deadline: w.config.Deadline, Now: w.config.Now,
	})
	return err
}

func (w *wiring) makeServer(context.Context) error {
	ceilings := Ceilings()
	p, err := policy.New(policy.Config{Rules: w.config.Rules, Apps: w.config.Apps, Ceilings: ceilings, Now: w.config.Now})
	if err != nil {
		return err
	}
	var listeners []server.Listener
	for _, name := range []string{"public", "private", policy.AdminListener} {
		l, err := server.Listen(server.ListenConfig{Path: w.server.socket(name), UID: -1, GID: -1, Mode: os.FileMode(0o666)})
		if err != nil {
			return err
		}
		listeners = append(listeners, server.Listener{Name: name, L: l, Ceiling: ceilings[name]})
	}
	s := w.server
	s.Public, s.Private, s.Admin, s.Policy = s.socket("public"), s.socket("private"), s.socket(policy.AdminListener), p
	s.services = server.Services{Broker: w.broker, Users: s.Store, Audit: s.Audit}
	s.server, err = server.New(server.Config{
		Listeners: listeners, Policy: p, Limits: w.config.Limits, Version: "test", Apps: w.config.Apps,
		Admin: &admin{w}, RequireClientUserID: w.config.RequireClientUserID, DrainTimeout: w.config.DrainTimeout, Now: w.config.Now,
		Health: func() api.Health { return api.Health{Ready: true} },
	})
	return err
}

// memorySecrets are client secrets by client id; they are never rotated.
type memorySecrets map[string]string

func (m memorySecrets) ClientSecret(_ context.Context, app user.ClientID) (user.ClientSecret, error) {
	s, ok := m[string(app)]
	if !ok {
		return user.ClientSecret{}, user.Fail(user.SecretUnavailable, "no such app")
	}
	return user.ClientSecret{Text: secret.FromString(s), Version: 1}, nil
}

func (memorySecrets) Accepted(user.ClientID, int) {}

func (m memorySecrets) Refused(context.Context, user.ClientID, int) (user.ClientSecret, bool, error) {
	return user.ClientSecret{}, false, nil
}
