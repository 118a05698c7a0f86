// Package server is the HTTP API on the daemon's Unix sockets: it identifies
// the caller, authorizes, records, acts and answers, in that order.
//
// It trusts the kernel for who the caller is, the policy for what that caller
// may do, and its services for doing it. Everything that arrives over a socket
// is untrusted until it is small, well-formed and complete. It never logs a
// body, a header, a query or an id, never answers with a cause, and never gives
// an answer that the audit log could not take, with four exceptions: health is
// not recorded. Refusals before anything was done, whoami, and lookups of users that
// are not there are counted beyond a budget, what net/http itself refuses always, and
// the counts written every few seconds: those of the last seconds are lost with the
// process. So is it while the daemon starts, when there is no
// audit log yet: refusals, whoami, the daemon's status, and what administrators
// may do then (reload, accept a store) are counted in memory and written when the
// log opens; when it never does, only the daemon's log has them. Last, the operator may
// have public reads go on while the log takes nothing (Config.UnrecordedLookups):
// they are counted, and noted when it works again.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
)

// DefaultDrain is how long Run waits for requests in flight once it is told to
// stop.
const DefaultDrain = 20 * time.Second

// Listener is one socket.
type Listener struct {
	Name    string       // required, unique
	L       net.Listener // required; must accept *net.UnixConn. Run closes it.
	Ceiling []api.Grant  // for whoever shows the listeners: the policy enforces it
}

// Limits bound what a caller can make the daemon hold.
type Limits struct {
	// Connections at once, over all client sockets; 0: 2048. A sixteenth is for
	// callers without a rule, half of the rest is divided among the listeners. When
	// they are used up, an idle one of the client that has most makes room for a
	// client with fewer. Each takes two descriptors.
	Connections       int
	ConnectionsPerUID int           // 0: 512; without a rule at most 16
	InFlightPerUID    int           // requests; 0: 256
	Body              int64         // bytes of a request's body; 0: 64 KiB
	Header            int           // bytes of a request's head; 0: 16 KiB
	AuditPerUID       int64         // bytes a second of the audit log's lines about granted requests; 0: 1 MiB, and 64 times as much at once
	HeaderTimeout     time.Duration // for a whole head; 0: 5 s
	BodyTimeout       time.Duration // for a whole body; 0: 10 s
}

// Config of a Server. Policy, Listeners and Health are required.
type Config struct {
	Listeners    []Listener
	Policy       *policy.Policy
	Limits       Limits
	Health       func() api.Health // must be quick and safe for concurrent use
	Version      string
	Admin        Admin // nil: the admin endpoints answer "starting"
	DrainTimeout time.Duration
	// Apps are all apps: RequireClientUserID may name no other.
	Apps []policy.App
	// RequireClientUserID lists the apps whose exchanges must say whose they are.
	RequireClientUserID map[user.ClientID]bool
	// Durable names the grants whose outcome is on disk before the answer. nil:
	// exchange, access-token, proxy, forget, admin.
	Durable map[string]bool
	// UnrecordedLookups lets public reads go on while the audit log cannot take
	// them. They are counted, and noted in the log when it works again. Nothing
	// that must be durable, and no access token, is ever answered unrecorded.
	UnrecordedLookups bool
	Peers             peer.Reader // says who connects
	Now               func() time.Time
	Logger            *slog.Logger
}

// Server serves the sockets. All methods may be called concurrently; Run once.
type Server struct {
	listeners []Listener
	peers     peer.Reader
	policy    atomic.Pointer[policy.Policy]
	services  atomic.Pointer[Services]
	limits    Limits
	health    func() api.Health
	version   string
	admin     Admin
	drainFor  time.Duration
	required  map[user.ClientID]bool
	durable   map[string]bool
	now       func() time.Time
	log       *slog.Logger
	backingUp sync.Mutex
	lookups   unrecorded
	accounts  accounts
	unheld    seldom // callers that could not be identified

	gate     gate
	refusals refusals
	ledger   ledger
	states   states
	feed     *feed
	parked   parked
	draining atomic.Bool     // answers close their connections
	refusing atomic.Bool     // new requests are answered with "draining"
	cut      context.Context // of every request; ends when draining is about to
	cutOff   context.CancelFunc
	http     *http.Server
}

// New checks c. It serves nothing before Run.
func New(c Config) (*Server, error) {
	if c.Policy == nil || c.Health == nil || len(c.Listeners) == 0 {
		return nil, errors.New("make a server: it needs a policy, a health function and listeners")
	}
	seen := map[string]bool{}
	for _, l := range c.Listeners {
		if l.Name == "" || l.L == nil || seen[l.Name] {
			return nil, fmt.Errorf("make a server: listener %q needs a name of its own and a socket", l.Name)
		}
		seen[l.Name] = true
	}
	for id := range c.RequireClientUserID {
		if !slices.ContainsFunc(c.Apps, func(a policy.App) bool { return a.ClientID == id }) {
			return nil, errors.New("make a server: an app that does not exist must state its users")
		}
	}
	limits, err := c.Limits.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("make a server: %w", err)
	}
	s := &Server{
		listeners: c.Listeners, limits: limits, health: c.Health, version: c.Version, admin: c.Admin,
		drainFor: c.DrainTimeout, required: maps.Clone(c.RequireClientUserID), durable: maps.Clone(c.Durable),
		peers: c.Peers, now: c.Now, log: c.Logger,
	}
	s.lookups.allowed = c.UnrecordedLookups
	s.defaults()
	s.policy.Store(c.Policy)
	s.gate.open(limits, c.Listeners)
	s.gate.parked = &s.parked
	s.ledger.open(limits.AuditPerUID)
	s.states.changed = make(chan struct{}, 1)
	s.feed = newFeed()
	s.refusals.wake = make(chan struct{}, 1)
	s.cut, s.cutOff = context.WithCancel(context.Background())
	s.http = s.httpServer()
	return s, nil
}

func (s *Server) defaults() {
	if s.drainFor == 0 {
		s.drainFor = DefaultDrain
	}
	if s.durable == nil {
		s.durable = map[string]bool{}
		for _, g := range []api.Grant{api.GrantExchange, api.GrantAccessToken, api.GrantProxy, api.GrantForget, api.GrantAdmin} {
			s.durable[string(g)] = true
		}
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
}

func (l Limits) withDefaults() (Limits, error) {
	for _, n := range []*int{&l.Connections, &l.ConnectionsPerUID, &l.InFlightPerUID, &l.Header} {
		if *n < 0 {
			return l, errors.New("a limit is negative")
		}
	}
	if l.Body < 0 || l.AuditPerUID < 0 || l.HeaderTimeout < 0 || l.BodyTimeout < 0 {
		return l, errors.New("a limit is negative")
	}
	l.Connections = orDefault(l.Connections, 2048)
	l.ConnectionsPerUID = orDefault(l.ConnectionsPerUID, 512)
	l.InFlightPerUID = orDefault(l.InFlightPerUID, 256)
	l.Body = orDefault(l.Body, 64<<10)
	l.Header = orDefault(l.Header, 16<<10)
	l.AuditPerUID = orDefault(l.AuditPerUID, 1<<20)
	l.HeaderTimeout = orDefault(l.HeaderTimeout, 5*time.Second)
	l.BodyTimeout = orDefault(l.BodyTimeout, 10*time.Second)
	return l, nil
}

func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// SetPolicy swaps the rules. Every request that begins afterwards is decided by
// p, on old connections too.
func (s *Server) SetPolicy(p *policy.Policy) { s.policy.Store(p) }

// Open hands over the services: from then on requests are served. What was
// answered before is written to the audit log as notes.
func (s *Server) Open(v Services) {
	s.services.Store(&v)
	s.refusals.flush(s, v.Audit)
}
