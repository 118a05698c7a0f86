package humanapitest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	stdlog "log"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server is the simulator. All methods may be called concurrently.
type Server struct {
	// URL is the origin, once Open has returned.
	URL string

	tag     string
	closing chan struct{}
	ended   sync.Once

	mu       sync.Mutex
	cfg      Config
	apps     map[string]string
	users    map[userKey]*person
	sessions map[string]*session
	minted   int
	faults   []*Fault
	log      *log

	http *http.Server
	done chan struct{}
}

// New makes a simulator that does not listen: use Handler, or Open.
func New(c Config) *Server {
	c.Mode = cmp.Or(c.Mode, OneTime)
	c.RefusedStatus = cmp.Or(c.RefusedStatus, http.StatusBadRequest)
	c.Keep = cmp.Or(c.Keep, 10_000)
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{tag: tag(), closing: make(chan struct{}), cfg: c, apps: maps.Clone(c.Apps),
		users: map[userKey]*person{}, sessions: map[string]*session{}, log: newLog(c.Keep)}
	if s.apps == nil {
		s.apps = map[string]string{}
	}
	return s
}

// Start is New and Open on a free loopback port, closed when the test is over.
func Start(t TB, c Config) *Server {
	t.Helper()
	s := New(c)
	if err := s.Open("127.0.0.1:0"); err != nil {
		t.Fatalf("starting the Human API simulator: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Open listens on address and serves until Close. Call it at most once.
func (s *Server) Open(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening for the Human API simulator: %w", err)
	}
	s.URL = "http://" + l.Addr().String()
	s.done = make(chan struct{})
	s.http = &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: stdlog.New(io.Discard, "", 0)}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l)
	}()
	return nil
}

// Close ends all delays, gives requests under way a second to be answered, and
// waits. Every call but the first does nothing.
func (s *Server) Close() { s.ended.Do(s.close) }

func (s *Server) close() {
	close(s.closing)
	if s.http == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
	<-s.done
}
