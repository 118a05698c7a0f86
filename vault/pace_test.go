package vault

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// mood is how the Vault of a paced test answers: "" as one that is well.
type mood = string

// paced is a client with the default pace and a cache with one app in use, in a
// bubble where time passes at once. What answers is no Vault but says what one
// says: that the words are right is for the tests beside the real server.
type paced struct {
	client  *Client
	secrets *Secrets

	mu       sync.Mutex
	mood     mood
	dials    int
	requests int
}

const pacedToken = "marker-vault-token"

func newPaced(t *testing.T, method string) *paced {
	t.Helper()
	p := &paced{}
	dir := t.TempDir()
	auth := AuthConfig{Method: method, TokenFile: dir + "/token", RoleIDFile: dir + "/token", SecretIDFile: dir + "/token"}
	if err := os.WriteFile(auth.TokenFile, []byte(pacedToken), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.client, err = New(Config{Address: "http://127.0.0.1:1", UnsafePlainHTTP: true, Auth: auth, dial: p.dial}); err != nil {
		t.Fatal(err)
	}
	if p.secrets, err = NewSecrets(SecretsConfig{Client: p.client, Apps: []user.ClientID{app}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// run logs in, reads the secret, and runs both until the test ends.
func (p *paced) run(t *testing.T) {
	t.Helper()
	if err := p.client.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.secrets.holds(t, 1, markerSecret)
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	both.Go(func() { _ = p.client.Run(ctx) })
	both.Go(func() { _ = p.secrets.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		both.Wait()
		time.Sleep(2 * defaultTimeout) // net/http's dials end
	})
}

func (p *paced) becomes(m mood) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mood = m
}

func (p *paced) is() mood {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mood
}

// dial connects to a server of its own for every connection.
func (p *paced) dial(context.Context, string, string) (net.Conn, error) {
	p.mu.Lock()
	p.dials++
	mood := p.mood
	p.mu.Unlock()
	for _, again := range []time.Duration{time.Second, 2 * time.Second, defaultTimeout - 3*time.Second} { // as Linux repeats a SYN: tcp(7), tcp_syn_retries
		if mood != "black hole" {
			break
		}
		time.Sleep(again)
		mood = p.is()
	}
	switch mood {
	case "stopped":
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	case "black hole":
		return nil, context.DeadlineExceeded
	}
	here, there := net.Pipe()
	server := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	server.SetKeepAlivesEnabled(false)
	go func() { _ = server.Serve(&once{conn: there}) }()
	return here, nil
}

// once is a listener with one connection.
type once struct {
	conn net.Conn
}

func (o *once) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return c, nil
	}
	return nil, net.ErrClosed
}

func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (p *paced) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests++
	mood := p.mood
	p.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	kv := strings.HasPrefix(path, "secret/")
	refused := says(403, `{"errors":["permission denied"]}`)
	switch {
	case mood == "sealed":
		says(503, `{"errors":["Vault is sealed"]}`)(w, r)
	case mood == "429":
		says(429, `{"errors":["request path: rate limit quota exceeded"]}`)(w, r)
	case mood == "500", mood == "500 of KV" && kv:
		says(500, `{"errors":["internal error"]}`)(w, r)
	case mood == "HTML":
		says(200, "<html>welcome</html>")(w, r)
	case mood == "hangs":
		<-r.Context().Done()
	case mood == "dead", mood == "revoked" && path != loginPath, mood == "no lookup-self" && path == lookupPath, mood == "narrowed" && kv:
		refused(w, r)
	case path == loginPath:
		if mood == "revoked" {
			p.becomes("") // the new token works
		}
		says(200, `{"auth":{"client_token":"`+pacedToken+`","lease_duration":3600,"renewable":true}}`)(w, r)
	case path == lookupPath:
		says(200, `{"data":{"ttl":0,"expire_time":null,"renewable":false}}`)(w, r)
	case path == capabilitiesPath:
		says(200, `{"data":{"secret/data/tokenvault/apps/`+string(app)+`":["deny"]}}`)(w, r)
	case strings.HasSuffix(path, "renew-self"):
		says(200, `{"auth":{"client_token":"`+pacedToken+`","lease_duration":3600,"renewable":true}}`)(w, r)
	default:
		says(200, `{"data":{"data":{"clientSecret":"`+markerSecret+`"},"metadata":{"version":1}}}`)(w, r)
	}
}

// counts is how many requests were sent, and how many connections tried.
func (p *paced) counts() (requests, dials int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests, p.dials
}

// TestIdleMinute: an idle client asks at most twice a minute, and once for each app
// in use, also when it is answered errors or refused. One that is stopped costs
// nothing; one that is sealed, or hangs, is asked every few seconds, by one request
// at a time, so that its return is seen.
func TestIdleMinute(t *testing.T) {
	const minutes = 30 // within the hour in which the app is in use
	for mood, most := range map[mood]int{
		"": 3, "no lookup-self": 3, "429": 3, "500": 3, "HTML": 3, "500 of KV": 3, "dead": 3, "revoked": 3, "narrowed": 4,
		"stopped": 0, "black hole": 0, "sealed": 21, "hangs": 13,
	} {
		for _, method := range []string{methodToken, methodAppRole} {
			t.Run(mood+"/"+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPaced(t, method)
					p.run(t)
					time.Sleep(2 * time.Minute)
					p.becomes(mood)
					time.Sleep(5*time.Minute + time.Second) // what the change costs
					synctest.Wait()
					before, dials := p.counts()
					counted := p.client.Requests()
					time.Sleep(minutes * time.Minute)
					synctest.Wait()
					after, dialled := p.counts()
					t.Logf("%.1f requests a minute, %.1f connections", float64(after-before)/minutes, float64(dialled-dials)/minutes)
					if after-before > most*minutes || dialled-dials > 25*minutes {
						t.Errorf("%d requests and %d connections in %d minutes", after-before, dialled-dials, minutes)
					}
					if n := p.client.Requests() - counted; int(n) != after-before {
						t.Errorf("Requests counts %d, there were %d", n, after-before)
					}
				})
			})
		}
	}
}

// TestBackInFiveSeconds: after an outage of ten minutes all is well five seconds
// after Vault is, with nobody asking.
func TestBackInFiveSeconds(t *testing.T) {
	for _, mood := range []mood{"stopped", "black hole", "sealed"} {
		t.Run(mood, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPaced(t, methodAppRole)
				p.run(t)
				for range 20 {
					p.becomes(mood)
					time.Sleep(10*time.Minute + 137*time.Millisecond)
					if st := p.secrets.Status()[0]; p.client.Status().Reachable || st.Reason == "" || st.Version != 1 {
						t.Fatalf("the outage is not seen: %+v", st)
					}
					p.secrets.holds(t, 1, markerSecret)
					back := time.Now()
					p.becomes("500") // as after unsealing, until there is a leader
					time.Sleep(500 * time.Millisecond)
					p.becomes("")
					time.Sleep(4500 * time.Millisecond)
					synctest.Wait()
					if st := p.secrets.Status()[0]; !p.client.Status().Reachable || st.Reason != "" || st.Confirmed.Before(back) {
						t.Fatalf("after 5 s: %+v, %+v", p.client.Status(), st)
					}
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

// TestRevokedWithinAMinute: with nobody asking, a revoked token is replaced within
// a minute or, where nothing can, the daemon is denied and its secrets are gone.
func TestRevokedWithinAMinute(t *testing.T) {
	for method, mood := range map[string]mood{methodToken: "dead", methodAppRole: "dead", "replaced": "revoked"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if mood == "revoked" {
					method = methodAppRole
				}
				p := newPaced(t, method)
				p.run(t)
				time.Sleep(3 * time.Minute)
				p.becomes(mood)
				time.Sleep(time.Minute)
				synctest.Wait()
				generation, status, state := p.client.current().generation, p.client.Status(), p.secrets.Status()[0]
				switch {
				case mood == "dead" && (!status.Denied || state.Version != 0):
					t.Errorf("after a minute: %+v, %+v", status, state)
				case mood == "revoked" && (status.Denied || generation != 2 || state.Version != 1):
					t.Errorf("after a minute: generation %d, %+v, %+v", generation, status, state)
				}
			})
		})
	}
}

// TestBackFromStop: the same beside a real server, which comes back sealed and
// without a leader, at the default pace.
func TestBackFromStop(t *testing.T) {
	t.Parallel()
	server := vaulttest.StartStorage(t)
	server.Must("POST", "sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	server.Must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	server.Must("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	p := newPlace(t, server)
	s, err := NewSecrets(SecretsConfig{Client: p.loggedIn(t), Apps: []user.ClientID{app}, Logger: p.config.Logger})
	if err != nil {
		t.Fatal(err)
	}
	c := s.config.Client.(*Client)
	running(t, c.Run)
	running(t, s.Run)
	eventually(t, "the secret", func() bool { return s.Status()[0].Version == 1 })
	server.Stop()
	for _, st := range s.Check(t.Context()) {
		if st.Version != 1 || st.Reason == "" {
			t.Errorf("state %+v", st)
		}
	}
	sent := p.link.count("")
	eventually(t, "four looks", func() bool { return p.link.count("") >= sent+4 })
	server.Restart()
	back := time.Now()
	eventually(t, "all to be well", func() bool {
		st := s.Status()[0]
		return c.Status().Reachable && st.Reason == "" && st.Confirmed.After(back)
	})
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if c.current().generation != 1 {
		t.Error("a good token was dropped because Vault was away")
	}
}
