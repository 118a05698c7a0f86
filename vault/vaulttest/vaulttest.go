// Package vaulttest runs a real HashiCorp Vault server for tests, on loopback,
// as a child process that ends with the test.
//
// It trusts the binary that it finds and nothing else: the server gets an
// environment of its own. It never touches a Vault that it did not start, and
// leaves neither a process nor a file behind.
package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// devToken is the root token of dev servers; obvious, so that it is found when
// it leaks.
const devToken = "marker-vault-root-token"

const (
	startTimeout = 30 * time.Second // the machine may be busy
	stopTimeout  = 10 * time.Second
	pollEvery    = 20 * time.Millisecond
	portRetries  = 3
)

// Server is a running Vault.
type Server struct {
	Addr      string // http://127.0.0.1:PORT or https://…
	RootToken string

	t         testing.TB
	binary    string
	args      []string
	dir       string // of the process: HOME, configuration, storage
	unsealKey string // "" for a dev server
	client    *http.Client
	process   *process // nil: stopped
}

// TLS is a certificate for a server, as PEM files, with the authority that
// signed it and the name that it is for: the Server's own requests check both.
type TLS struct{ CertFile, KeyFile, CAFile, ServerName string }

// Start runs a dev server: in memory, unsealed, with KV version 2 at secret/.
func Start(t testing.TB) *Server {
	t.Helper()
	s := newServer(t, nil)
	s.RootToken = devToken
	s.start(func(address string) []string {
		return []string{"server", "-dev", "-dev-no-store-token", "-dev-root-token-id=" + devToken, "-dev-listen-address=" + address}
	})
	return s
}

// StartStorage runs a server over storage in a directory of the test's,
// initialised and unsealed, with nothing mounted. It survives Stop and Restart.
func StartStorage(t testing.TB) *Server { return startStorage(t, nil) }

// StartTLS is StartStorage with a listener that speaks TLS.
func StartTLS(t testing.TB, certificate TLS) *Server { return startStorage(t, &certificate) }

func startStorage(t testing.TB, certificate *TLS) *Server {
	t.Helper()
	s := newServer(t, certificate)
	config := filepath.Join(s.dir, "vault.hcl")
	s.start(func(address string) []string {
		must(t, os.WriteFile(config, []byte(s.configuration(address, certificate)), 0o600))
		return []string{"server", "-config=" + config}
	})
	s.initialise()
	s.Unseal()
	return s
}

func newServer(t testing.TB, certificate *TLS) *Server {
	t.Helper()
	s := &Server{t: t, binary: Binary(t), dir: t.TempDir(), client: httpClient(t, certificate), Addr: "http"}
	if certificate != nil {
		s.Addr = "https"
	}
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) configuration(address string, certificate *TLS) string {
	cluster := freeAddress(s.t)
	listener := "tls_disable = true"
	if certificate != nil {
		listener = fmt.Sprintf("tls_cert_file = %q\n  tls_key_file = %q", certificate.CertFile, certificate.KeyFile)
	}
	storage := filepath.Join(s.dir, "storage")
	must(s.t, os.MkdirAll(storage, 0o700))
	// performance_multiplier 1: an election takes a second, not five.
	return fmt.Sprintf(`disable_mlock = true
api_addr = %q
cluster_addr = %q
storage "raft" {
  path = %q
  node_id = "test"
  performance_multiplier = 1
}
listener "tcp" {
  address = %q
  cluster_address = %q
  %s
}
`, s.Addr, "https://"+cluster, storage, address, cluster, listener)
}

// start picks a port and runs the server. Somebody else may take the port in
// between: then the process ends, and another port is tried.
func (s *Server) start(args func(address string) []string) {
	s.t.Helper()
	scheme := s.Addr
	for range portRetries {
		address := freeAddress(s.t)
		s.Addr = scheme + "://" + address
		s.args = args(address)
		if s.run() {
			return
		}
	}
	s.t.Fatalf("vault does not start on any port; it said:\n%s", s.process.output.String())
}

// run starts the process and waits until it answers; false when it ended.
func (s *Server) run() bool {
	s.t.Helper()
	var err error
	s.process, err = startProcess(s.binary, s.args, s.dir)
	must(s.t, err)
	s.within(startTimeout, "answer", func() bool { return s.process.ended() || s.status() != 0 })
	return !s.process.ended()
}

// status is what sys/health says: 200 in service, 501 not initialised, 503
// sealed; 0 when nothing answers.
func (s *Server) status() int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Addr+"/v1/sys/health", nil)
	must(s.t, err)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// within polls until done or until the time is up: Vault announces neither by an
// event.
func (s *Server) within(limit time.Duration, what string, done func() bool) {
	s.t.Helper()
	end := time.Now().Add(limit)
	for !done() {
		if time.Now().After(end) {
			s.t.Fatalf("vault does not %s within %v", what, limit)
		}
		time.Sleep(pollEvery)
	}
}

func (s *Server) initialise() {
	s.t.Helper()
	var keys struct {
		Keys []string `json:"keys"`
		Root string   `json:"root_token"`
	}
	status, body := s.Do(http.MethodPut, "sys/init", map[string]int{"secret_shares": 1, "secret_threshold": 1})
	if status != http.StatusOK || json.Unmarshal(body, &keys) != nil || len(keys.Keys) != 1 {
		s.t.Fatalf("vault does not initialise: status %d", status)
	}
	s.unsealKey, s.RootToken = keys.Keys[0], keys.Root
}

// Unseal unseals the server and waits until it is in service.
func (s *Server) Unseal() {
	s.t.Helper()
	if status, _ := s.Do(http.MethodPut, "sys/unseal", map[string]string{"key": s.unsealKey}); status != http.StatusOK {
		s.t.Fatalf("vault does not unseal: status %d", status)
	}
	s.within(startTimeout, "come into service", func() bool { return s.status() == http.StatusOK })
}

// Seal seals the server. A dev server cannot be unsealed again.
func (s *Server) Seal() {
	s.t.Helper()
	s.Must(http.MethodPut, "sys/seal", nil)
	s.within(startTimeout, "seal", func() bool { return s.status() == http.StatusServiceUnavailable })
}

// Stop kills the process and waits for its end. What was stored stays stored.
func (s *Server) Stop() {
	if s.process == nil {
		return
	}
	s.process.kill()
	select {
	case <-s.process.done:
	case <-time.After(stopTimeout):
		s.t.Errorf("vault (pid %d) does not end", s.process.pid)
	}
	s.client.CloseIdleConnections()
	s.process = nil
}

// Pause stops the process as SIGSTOP does: it keeps its port and its connections,
// and answers nobody. Resume lets it go on.
func (s *Server) Pause()  { s.signal(syscall.SIGSTOP) }
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	must(s.t, s.process.handle.Signal(sig))
}

// Restart starts a stopped server again at the same address and unseals it. A
// dev server has forgotten everything.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	if !s.run() {
		s.t.Fatalf("vault does not start again; it said:\n%s", s.process.output.String())
	}
	if s.unsealKey != "" {
		s.Unseal()
	}
}

// Do sends a request with the root token. path is below /v1/; body is marshalled
// as JSON, nil is none.
func (s *Server) Do(method, path string, body any) (status int, answer []byte) {
	s.t.Helper()
	return s.do(s.request(method, path, body))
}

func (s *Server) request(method, path string, body any) *http.Request {
	s.t.Helper()
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		must(s.t, err)
		reader = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.Addr+"/v1/"+strings.TrimPrefix(path, "/"), reader)
	must(s.t, err)
	req.Header.Set("X-Vault-Token", s.RootToken)
	req.Header.Set("X-Vault-Request", "true")
	return req
}

func (s *Server) do(req *http.Request) (status int, answer []byte) {
	s.t.Helper()
	resp, err := s.client.Do(req)
	must(s.t, err)
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	must(s.t, err)
	return resp.StatusCode, answer
}

// Wrap is Must with an answer that Vault keeps for life, in whole seconds. It
// returns the token that unwraps it.
func (s *Server) Wrap(method, path string, body any, life time.Duration) string {
	s.t.Helper()
	req := s.request(method, path, body)
	req.Header.Set("X-Vault-Wrap-TTL", strconv.Itoa(int(life/time.Second)))
	status, answer := s.do(req)
	var out struct {
		Wrapped struct{ Token string } `json:"wrap_info"`
	}
	if status >= 300 || json.Unmarshal(answer, &out) != nil || out.Wrapped.Token == "" {
		s.t.Fatalf("vault: %s %s wraps nothing: status %d", method, path, status)
	}
	return out.Wrapped.Token
}

// Unwraps uses a wrapping token up, and reports whether it was good.
func (s *Server) Unwraps(token string) bool {
	s.t.Helper()
	req := s.request(http.MethodPut, "sys/wrapping/unwrap", nil)
	req.Header.Set("X-Vault-Token", token)
	status, _ := s.do(req)
	return status < 300
}

// Must is Do for what has to succeed. It returns the field data of the answer,
// or the field auth when there is one.
func (s *Server) Must(method, path string, body any) map[string]any {
	s.t.Helper()
	status, answer := s.Do(method, path, body)
	if status >= 300 {
		s.t.Fatalf("vault: %s %s: status %d", method, path, status) // the body may hold a secret
	}
	var out struct{ Data, Auth map[string]any }
	if len(answer) > 0 && json.Unmarshal(answer, &out) != nil {
		s.t.Fatalf("vault: %s %s: not JSON", method, path)
	}
	if out.Auth != nil {
		return out.Auth
	}
	return out.Data
}

// For returns the same server for a subtest, whose failures Do and Must then
// report. It must not be stopped through it.
func (s *Server) For(t testing.TB) *Server {
	c := *s
	c.t = t
	return &c
}

// freeAddress returns a loopback address whose port nobody had a moment ago.
func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
