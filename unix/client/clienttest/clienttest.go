// Package clienttest runs a whole tokenvault in a test: the real server, broker,
// store and audit log on real sockets, over the Human API simulator.
//
// It trusts the test. HashiCorp Vault alone is missing: client secrets and the
// keyring's wrapping key live in memory, and end with the test. It keeps
// everything in a directory of its own, dials nothing but loopback, and never
// belongs in a program.
package clienttest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

// Config of a Server; the zero Config is a good one.
type Config struct {
	Apps []policy.App // nil: DefaultApp
	// Rules: nil lets the test's own user do everything on every socket.
	Rules               []policy.Rule
	RequireClientUserID map[user.ClientID]bool
	Limits              server.Limits
	Mode                humanapitest.Mode // what a session token that comes twice is answered with
	Deadline            time.Duration     // how long an exchange may keep its caller; 0: 30 s
	DrainTimeout        time.Duration
	Starting            bool // the services stay shut until Open
	Now                 func() time.Time
}

// DefaultApp is the app of the zero Config.
var DefaultApp = policy.App{Name: "shop", ClientID: "example-client-id-of-the-shop"}

// Server is a running tokenvault.
type Server struct {
	Public, Private, Admin string // paths of the sockets
	Dir                    string // holds the store, the audit log and the sockets
	AuditPath              string
	HumanAPI               *humanapitest.Server
	Store                  *store.Store
	Audit                  *audit.Log
	Policy                 *policy.Policy

	server   *server.Server
	services server.Services
	apps     []policy.App
	users    atomic.Int64
	stop     func() error
}

// Ceilings are those of the product's default sockets.
func Ceilings() map[string][]api.Grant {
	public := []api.Grant{api.GrantExchange, api.GrantPublicToken, api.GrantLookup, api.GrantConnectSession, api.GrantConnectID, api.GrantWebhook}
	return map[string][]api.Grant{
		"public":             public,
		"private":            append(append([]api.Grant{}, public...), api.GrantProxy, api.GrantAccessToken, api.GrantForget),
		policy.AdminListener: {api.GrantMetrics, api.GrantAdminRead, api.GrantAdmin},
	}
}

// Start returns when the sockets answer. Everything ends with the test, and a
// part that does not end cleanly fails it.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	if c.Apps == nil {
		c.Apps = []policy.App{DefaultApp}
	}
	if c.Rules == nil {
		c.Rules = []policy.Rule{{
			Name: "everything", Users: []uint32{uint32(os.Getuid())}, Contained: true, Apps: c.Apps,
			Grants: []api.Grant{api.GrantExchange, api.GrantPublicToken, api.GrantLookup, api.GrantAccessToken},
		}, {
			Name: "administration", Users: []uint32{uint32(os.Getuid())}, Grants: Ceilings()[policy.AdminListener],
		}}
	}
	s := &Server{Dir: shortDir(t), apps: c.Apps}
	secrets := map[string]string{}
	for _, a := range c.Apps {
		secrets[string(a.ClientID)] = "marker-client-secret-of-" + a.Name
	}
	s.HumanAPI = humanapitest.Start(t, humanapitest.Config{Apps: secrets, Mode: c.Mode, Now: c.Now})
	w := &wiring{t: t, server: s, config: c, secrets: secrets}
	if err := w.start(); err != nil {
		t.Fatalf("start the test server: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("stop the test server: %v", err)
		}
	})
	return s
}

// shortDir is t.TempDir where its name leaves room for a socket's path (108
// bytes, unix(7)), else one under the system's own.
func shortDir(t testing.TB) string {
	if dir := t.TempDir(); len(dir) < 60 {
		return dir
	}
	dir, err := os.MkdirTemp("", "tv")
	if err != nil {
		t.Fatalf("make a directory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Stop ends the server as the daemon does: drain, then flush and close. It may
// be called more than once.
func (s *Server) Stop() error { return s.stop() }

// Open opens the services of a server that was started with Starting.
func (s *Server) Open() { s.server.Open(s.services) }

// SetPolicy swaps the rules.
func (s *Server) SetPolicy(p *policy.Policy) { s.server.SetPolicy(p) }

// Client returns a client on one of the sockets, closed with the test.
func (s *Server) Client(t testing.TB, socket string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Socket: socket})
	if err != nil {
		t.Fatalf("make a client: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// NewSession lets a new user of the first app finish the popup, and returns
// what the browser then holds.
func (s *Server) NewSession(clientUserID string) client.SessionTokenObject {
	return s.NewSessionOf(s.apps[0].ClientID, user.HumanID(fmt.Sprintf("example-human-%d", s.users.Add(1))), clientUserID)
}

// NewSessionOf lets that user of that app finish the popup.
func (s *Server) NewSessionOf(app user.ClientID, human user.HumanID, clientUserID string) client.SessionTokenObject {
	token := s.HumanAPI.NewSession(string(app), string(human), clientUserID)
	return client.SessionTokenObject{HumanID: human, ClientID: app, SessionToken: secret.FromString(token)}
}

func (s *Server) socket(name string) string { return filepath.Join(s.Dir, name, "api.sock") }
