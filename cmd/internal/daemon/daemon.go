// Package daemon constructs and wires everything: it holds the order of start
// and stop, and tells systemd the truth about both.
//
// Order of start: the store's file is opened (two daemons never share one), the
// sockets are there, the server answers "starting", Vault is asked until it
// answers, the rollback anchor is compared with what is here, then keyring, audit
// log, store and broker open, and requests are served. When Vault cannot be
// reached and an earlier life has left its memory with systemd, that memory
// stands in for it. Order of stop: no new connections and no new attempts at Human API,
// requests in flight and what is on the wire drain within one drain_timeout, then
// audit log, store and keys are closed.
//
// It trusts its configuration, which was checked as a whole before, and the
// sockets that systemd hands over. It never holds a secret itself and never
// decides what a caller may do.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/restart"
	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/broker"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/server"
	"github.com/tokenvault/tokenvault/vault"
	"golang.org/x/sync/errgroup"
)

// Config of the daemon. Only Config is required.
type Config struct {
	Config  *config.Config
	Version string
	// Source is where keys are wrapped and secrets come from. Nil: HashiCorp
	// Vault as configured.
	Source *Source
	// Listeners are inherited sockets by the name of their listener. Empty: the
	// daemon makes its own. Some but not all of the configured ones is an error.
	Listeners map[string]net.Listener
	// Notify tells the service manager (sd_notify(3)). Nil: nobody listens.
	Notify func(state string)
	// Watchdog is the interval within which Notify must hear WATCHDOG=1. 0: none.
	Watchdog time.Duration
	// Reload gives an event when the rules are to be read again, by Load. Both or none.
	Reload <-chan struct{}
	Load   func() (*config.Config, error)
	// Memory is what an earlier life left with the service manager; nil when it
	// left nothing. Keep and Drop hand a descriptor to it, and take it back; nil:
	// there is nobody to keep it.
	Memory *os.File
	Keep   func(name string, f *os.File) error
	Drop   func(name string) error
	// Confined is what the process has given up, for the status.
	Confined []sandbox.Part
	// Step is the broker's, and Peers how callers are told, for tests.
	Step   func(name string)
	Peers  peer.Reader
	Now    func() time.Time
	Logger *slog.Logger
}

// Source is what stands in for Vault: insecuredev in a try-out.
type Source struct {
	Name string // shown where Vault's address is shown
	Keys keyring.Wrapper
	Apps vault.AppReader
	// Session is how the source is logged in to; nil when it needs no login and is
	// always there.
	Session Session
	// Anchors keeps the rollback anchor; nil: nobody does. It needs a Session.
	Anchors Anchors
}

// Session is a login that has to be kept alive. *vault.Client is one.
type Session interface {
	// Login logs in; an error that matches vault.ErrUnreachable or
	// vault.ErrDenied is tried again.
	Login(ctx context.Context) error
	// Run keeps the login alive until ctx ends.
	Run(ctx context.Context) error
	// Missing says which rights the login lacks for these apps.
	Missing(ctx context.Context, apps []user.ClientID) ([]vault.Capability, error)
	// Status asks nobody.
	Status() vault.Status
	// Memory is what a later life needs; false when there is no session, or Vault
	// refuses the daemon. Recall takes it up there, and Revalidate asks Vault.
	Memory() (vault.Memory, bool)
	Recall(m vault.Memory) error
	Revalidate(ctx context.Context) error
	// TransitState is about the key that wraps keys.
	TransitState(ctx context.Context) (vault.TransitState, error)
}

// daemon is one running daemon.
type daemon struct {
	Config
	cfg      *config.Config
	log      *slog.Logger
	source   Source
	secrets  *vault.Secrets
	upstream *exchange.Client
	driver   *boltstore.DB
	server   *server.Server
	started  time.Time
	state    state
	telling  sync.Mutex // held while the service manager is told of a phase

	serving   context.Context // ends when the daemon is told to stop, or must
	memory    *restart.Area
	recalled  *restart.Contents // what a start during an outage goes by; nil: Vault's own word
	anchoring sync.Mutex        // held while the anchor is written
	reloading sync.Mutex        // held while rules are read and swapped

	mu        sync.Mutex
	services  *services
	lastKnown anchor
	found     *rollback // nil: none
}

// services are there once Vault has answered and everything is open.
type services struct {
	keys   *keyring.Keyring
	audit  *audit.Log
	store  *store.Store
	broker *broker.Broker
}

// Run is the daemon: it returns when ctx has ended and everything is drained and
// closed, or with an error when it cannot go on.
func Run(ctx context.Context, c Config) error {
	d, err := prepare(ctx, c)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// run has two spans of time. Serving ends when it is told to stop, or when what
// works in the background fails: then nothing new begins. The background ends
// when all that was begun is drained.
func (d *daemon) run(ctx context.Context) error {
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	d.serving = serving
	parent, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	work, background := errgroup.WithContext(parent)
	context.AfterFunc(background, stopServing)
	up, drained := make(chan struct{}), make(chan struct{})
	context.AfterFunc(serving, func() {
		defer close(drained)
		d.stopping()
		d.drain(up)
	})

	work.Go(func() error { defer close(up); return d.bringUp(serving, background, work) })
	work.Go(func() error { return d.failures(background) })
	work.Go(func() error { return d.watch(serving) }) // then the stop's own timeout watches
	work.Go(func() error { return d.reloads(serving) })

	err := d.server.Run(serving) // returns drained, beside the broker
	stopServing()
	<-drained
	stopWork()
	err = errors.Join(err, work.Wait(), d.close())
	d.log.Info("stopped")
	return err
}

// drain waits for what the broker has on the wire. The server drains at the same
// time and has as long. A store that is broken takes nothing of it any more: then
// nothing is waited for, and the next start repeats what was cut off.
func (d *daemon) drain(up <-chan struct{}) {
	limited, cancel := context.WithTimeout(context.Background(), d.cfg.DrainTimeout.Std())
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-d.driver.Failed():
			cancel()
		case <-limited.Done():
		}
	})
	<-up // from here on the services are there, or will not come
	s := d.open()
	if s == nil {
		return
	}
	if err := s.broker.Drain(limited); err != nil {
		// Not a failure: what is cut off keeps its intent, and the next start goes on.
		d.log.Warn("exchanges were cut off", "error", err)
	}
}

// close closes what is open, last opened first.
func (d *daemon) close() error {
	var errs []error
	if s := d.open(); s != nil {
		_ = s.audit.Write(audit.Event{Kind: audit.Note, Outcome: "stopped"}) // Close says what is wrong with it
		errs = append(errs, s.audit.Close())
		d.lastAnchor(s)
		errs = append(errs, s.store.Close())
		s.keys.Close()
	}
	d.memory.Close()
	errs = append(errs, d.driver.Close())
	d.upstream.Close()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// open returns the services, nil while they are not there.
func (d *daemon) open() *services {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.services
}

func (d *daemon) opened(s *services) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.services = s
}
