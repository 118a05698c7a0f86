package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// TestLogins runs what is about logging in, and needs mounts of its own.
func TestLogins(t *testing.T) {
	t.Parallel()
	server := vaulttest.Start(t)
	for path, kind := range map[string]string{"sys/mounts/transit": "transit", "sys/auth/approle": "approle", "sys/auth/jwt": "jwt"} {
		server.Must("POST", path, map[string]any{"type": kind})
	}
	issuer := newIssuer(t, server)
	for name, test := range map[string]func(*testing.T, *place){
		"JWT":          func(t *testing.T, p *place) { testJWT(t, p, issuer) },
		"UsedUp":       testSecretIDUsedUp,
		"NotLockedOut": testNotLockedOut,
		"LockedOut":    testLockedOut,
		"ClockSkew":    testClockSkew,
		"Batch":        testBatchTokens,
		"NoMount":      testNoMount,
		"Slow":         testSlowVault,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newPlace(t, server.For(t)))
		})
	}
}

// issuer signs JWTs that the mount jwt takes.
type issuer struct{ key *ecdsa.PrivateKey }

func newIssuer(t *testing.T, server *vaulttest.Server) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	server.Must("POST", "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}})
	return issuer{key}
}

// token is a JWT of RFC 7519, signed with ES256 (RFC 7518, section 3.4).
func (i issuer) token(t *testing.T, subject string, until time.Time) string {
	t.Helper()
	part := func(fields map[string]any) string {
		b, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"alg": "ES256", "typ": "JWT"}) + "." + part(map[string]any{"sub": subject, "aud": "marker-audience", "iat": until.Add(-time.Hour).Unix(), "exp": until.Unix()})
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// testJWT logs in with a JWT, which is read anew at every login.
func testJWT(t *testing.T, p *place, from issuer) {
	p.server.Must("POST", "auth/jwt/role/"+p.name, map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{"marker-audience"}, "bound_subject": "marker-subject",
		"token_policies": []string{p.name}, "token_no_default_policy": true, "token_ttl": 600,
	})
	file := p.config.Auth.SecretIDFile + "-jwt"
	p.config.Auth = AuthConfig{Method: "jwt", Role: p.name, JWTFile: file}
	soon := time.Now().Add(time.Hour)
	writeFile(t, file, from.token(t, "marker-subject", soon)+"\n")
	p.everyday(t)
	c := p.loggedIn(t)
	c.pace.floor = 0

	writeFile(t, file, from.token(t, "marker-subject", soon.Add(-2*time.Hour)))
	want(t, c.Login(t.Context()), ErrDenied, `jwt at "auth/jwt"`, "expired")
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Error("the token that works was dropped: ", err)
	}
	writeFile(t, file, from.token(t, "marker-subject", soon.Add(time.Minute)))
	p.revoke(c)
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Error("the new JWT was not used: ", err)
	}
	writeFile(t, file, from.token(t, "somebody-else", soon))
	want(t, c.Login(t.Context()), ErrDenied, "somebody else")
	foreigner, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, issuer{foreigner}.token(t, "marker-subject", soon))
	want(t, c.Login(t.Context()), ErrDenied, "another issuer")
	p.config.Auth.Role = "nobody"
	want(t, p.client(t).Login(t.Context()), ErrDenied, "no such role")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	local(t, c.Login(t.Context()))
}

// TestKubernetes is against a double: the server for tests is built without that
// method. What the double takes and answers is that of Vault's API documentation
// ("Kubernetes auth method (API)", Login).
func TestKubernetes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	allowed := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Role, JWT string }
		err := json.NewDecoder(r.Body).Decode(&body)
		right := err == nil && body.Role == "marker-role" && body.JWT == "marker.service.account"
		switch {
		case r.Method != http.MethodPut || r.URL.Path != "/v1/auth/cluster/one/login" || r.Header.Get("X-Vault-Token") != "":
			says(404, `{"errors":[]}`)(w, r)
		case !right || !allowed:
			says(403, `{"errors":["permission denied"]}`)(w, r)
		default:
			says(200, `{"auth":{"client_token":"marker-token","renewable":true,"lease_duration":600,"policies":["tokenvault"]}}`)(w, r)
		}
	}))
	defer server.Close()
	config := Config{Address: server.URL, UnsafePlainHTTP: true, Auth: AuthConfig{Method: "kubernetes", Mount: "cluster/one", Role: "marker-role", JWTFile: file}}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	local(t, c.Login(t.Context()))
	writeFile(t, file, "marker.service.account")
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := c.current(); !s.token.Equal(text("marker-token")) || !s.renewable || s.lease != 10*time.Minute {
		t.Errorf("lease %v, renewable %v", s.lease, s.renewable)
	}
	allowed = false
	want(t, c.Login(t.Context()), ErrDenied, `kubernetes at "auth/cluster/one"`, "no such role")
	config.Auth.JWTFile = ""
	if d := config.withDefaults(); d.Auth.JWTFile != ServiceAccountToken {
		t.Errorf("jwt_file is %q", d.Auth.JWTFile)
	}
}

// testSecretIDUsedUp: a secret id that may be used once logs in once, and then the
// error says so; what was right before is not tried until the role is locked.
func testSecretIDUsedUp(t *testing.T, p *place) {
	p.putRole(map[string]any{"secret_id_num_uses": 1, "token_ttl": 600})
	p.writeCredentials(t)
	clk := newClock()
	p.config.Now = clk.Now
	c := p.loggedIn(t)
	p.revoke(c)
	for range 15 { // Vault's own clock does not pass: it would lock at the fifth
		clk.pass(time.Minute)
		_, err := c.ReadApp(t.Context(), app)
		want(t, err, ErrDenied, "worked before", "used up", "make a new secret id")
	}
	p.sent(t, loginPath, 1+maxBadLogins)
	p.writeCredentials(t)
	if _, err := c.ReadApp(t.Context(), app); err != nil {
		t.Fatal("with a new secret id, at once: ", err)
	}
}

// testNotLockedOut: a wrong secret id is not sent so often that the right one
// would be refused when it comes.
func testNotLockedOut(t *testing.T, p *place) {
	right, err := os.ReadFile(p.config.Auth.SecretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.config.Auth.SecretIDFile, "marker-upstream-secret-id")
	clk := newClock()
	p.config.Now = clk.Now
	c := p.client(t)
	for range 15 {
		want(t, c.Login(t.Context()), ErrDenied, "wrong")
		clk.pass(time.Minute)
	}
	p.sent(t, loginPath, 4)
	writeFile(t, p.config.Auth.SecretIDFile, string(right))
	if err := c.Login(t.Context()); err != nil {
		t.Fatal("locked out: ", err)
	}
	writeFile(t, p.config.Auth.SecretIDFile, "marker-upstream-secret-id")
	for range 4 {
		want(t, c.Login(t.Context()), ErrDenied, "wrong")
		clk.pass(time.Minute)
	}
	clk.pass(16 * time.Minute)
	sent := p.link.count(loginPath)
	want(t, c.Login(t.Context()), ErrDenied)
	p.sent(t, loginPath, sent+1)
}

// testLockedOut: a role that somebody else has locked is called that, is asked once
// a minute, and is back when the lock is gone.
func testLockedOut(t *testing.T, p *place) {
	mount := p.name
	p.server.Must("POST", "sys/auth/"+mount, map[string]any{"type": "approle"})
	p.server.Must("POST", "sys/auth/"+mount+"/tune", map[string]any{"user_lockout_config": map[string]any{"lockout_threshold": "5", "lockout_duration": "3s", "lockout_counter_reset": "3s"}})
	role := "auth/" + mount + "/role/" + p.name
	p.server.Must("POST", role, map[string]any{"token_policies": []string{p.name}, "token_no_default_policy": true})
	roleID := p.server.Must("GET", role+"/role-id", nil)["role_id"].(string)
	writeFile(t, p.config.Auth.RoleIDFile, roleID)
	writeFile(t, p.config.Auth.SecretIDFile, p.server.Must("POST", role+"/secret-id", nil)["secret_id"].(string))
	p.config.Auth.Mount = mount
	clk := newClock()
	p.config.Now = clk.Now
	c := p.client(t)
	for range 5 {
		p.server.Do("PUT", "auth/"+mount+"/login", map[string]any{"role_id": roleID, "secret_id": "marker-wrong"})
	}
	want(t, c.Login(t.Context()), ErrDenied, "locked out after bad logins")
	want(t, c.Login(t.Context()), ErrDenied, "locked out after bad logins")
	p.sent(t, "auth/"+mount+"/login", 1)
	eventually(t, "the lock to go", func() bool {
		clk.pass(time.Minute)
		return c.Login(t.Context()) == nil
	})
}

// testNoMount: a mount that is not there is no wrong secret id.
func testNoMount(t *testing.T, p *place) {
	p.config.Auth.Mount = "nowhere"
	want(t, p.client(t).Login(t.Context()), ErrDenied, "nothing is mounted there")
}

// testClockSkew: nothing depends on what Vault's clock says. A daemon whose clock
// is an hour off logs in, renews, replaces a token at its end, and is not told
// otherwise by what it looks up.
func testClockSkew(t *testing.T, p *place) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			p := newPlace(t, p.server.For(t))
			p.putRole(map[string]any{"token_ttl": 3, "token_max_ttl": 6})
			p.config.Now = func() time.Time { return time.Now().Add(off) }
			p.config.Heartbeat = 200 * time.Millisecond
			c := p.client(t)
			c.pace.floor = 500 * time.Millisecond
			if err := c.Login(t.Context()); err != nil {
				t.Fatal(err)
			}
			running(t, c.Run)
			p.everyday(t)
			eventually(t, "a second token", func() bool {
				if a, err := c.main.get(t.Context(), lookupPath); err != nil || !a.ok() {
					t.Fatalf("a token died: status %d, %v", a.status, err)
				}
				left := c.Status().TokenExpiry.Sub(p.config.Now())
				if left < 0 || left > 4*time.Second {
					t.Fatalf("%v are left of a lease of 3 s", left)
				}
				return c.current().generation >= 2
			})
			if n := p.link.count("auth/token/renew-self"); n < 1 || n > 8 {
				t.Errorf("renewed %d times", n)
			}
		})
	}
}

// testBatchTokens: tokens that can be neither renewed nor revoked are replaced
// before they end.
func testBatchTokens(t *testing.T, p *place) {
	p.putRole(map[string]any{"token_type": "batch", "token_ttl": 3})
	p.config.Heartbeat = 200 * time.Millisecond
	c := p.client(t)
	c.pace.floor = 500 * time.Millisecond
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.current().renewable {
		t.Fatal("a batch token is renewable")
	}
	running(t, c.Run)
	eventually(t, "a third token", func() bool {
		if _, err := c.ReadApp(t.Context(), app); err != nil {
			t.Fatal(err)
		}
		return c.current().generation >= 3
	})
	p.sent(t, "auth/token/renew-self", 0)
	if s := c.Status(); s.Denied || !s.Reachable || strings.Contains(s.Reason, "token") {
		t.Errorf("status %+v", s)
	}
}

// testSlowVault: who takes longer than Timeout is away, for a login as for
// everything else, and is back at the first answer in time.
func testSlowVault(t *testing.T, p *place) {
	p.config.Timeout = 200 * time.Millisecond
	c := p.loggedIn(t)
	p.link.answer(func(http.ResponseWriter, *http.Request) { <-t.Context().Done() })
	_, err := c.ReadApp(t.Context(), app)
	want(t, err, ErrUnreachable, "no answer in time")
	want(t, c.Login(t.Context()), ErrUnreachable, "no answer in time")
	if s := c.Status(); s.Reachable || s.Denied || !strings.Contains(s.Reason, "in time") {
		t.Errorf("status %+v", s)
	}
	p.link.answer(nil)
	eventually(t, "an answer in time", func() bool { _, err := c.ReadApp(t.Context(), app); return err == nil })
	if s := c.Status(); !s.Reachable || s.Reason != "" || c.current().generation != 1 {
		t.Errorf("status %+v", s)
	}
}
