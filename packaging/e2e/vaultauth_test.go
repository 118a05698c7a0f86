package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// tokenWorld is one whose daemon logs in with a token file.
func tokenWorld(t *testing.T) *world {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.loginBy(`method = "token"`, `token_file = "`+w.path("token")+`"`)
	return w
}

func startWithToken(fields map[string]any) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) {
		w.credential("token", w.token(fields))
		w.start()
		w.awaitReady()
	}
}

func newToken(t *testing.T, w *world) { w.credential("token", w.token(nil)); ask(t, w) }

// withdrawnRow: Vault refuses the daemon as a whole.
func withdrawnRow(name string) faultRow {
	return row(name, "503 secret_unavailable", noOutcome, nothingStored, deniedHealth)
}

// onlyLookups: what needs neither a clientSecret nor a private key goes on.
func onlyLookups(known sto) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		root := w.root("private")
		defer root.http.CloseIdleConnections()
		root.do("GET", "/v1/users/"+known.humanID+"?clientId="+shop, "").want(t, 200, "")
		root.do("POST", tokens, known.json()).want(t, 200, "")
		root.do("GET", "/v1/users/"+known.humanID+"/access-token?clientId="+shop, "").want(t, 503, "secret_unavailable")
	}
}

// stored is a user who has connected.
func (w *world) connected() sto {
	w.t.Helper()
	human := w.sim.NewHumanID()
	s := w.finishEvent(human, human+"@example.test")
	root := w.root("public")
	defer root.http.CloseIdleConnections()
	root.do("POST", tokens, s.json()).want(w.t, 200, "")
	return s
}

// revoke revokes the daemon's token when it is older than a minute, by the daemon's
// clock: one of seconds ago would not be replaced at once.
func revoke(t *testing.T, w *world) {
	w.clock(w.ahead() + time.Minute)
	w.revokeTokens()
	ask(t, w)
}

func killSwitch(t *testing.T) {
	w := tokenWorld(t)
	startWithToken(map[string]any{"ttl": "1h"})(t, w)
	known := w.connected()
	w.vaultRows(t, []vaultRow{{
		faultRow: withdrawnRow("token revoked (method token): the kill switch"), then: "by itself within a minute, with a new token in token_file",
		end: func(_ *testing.T, w *world) { w.credential("token", w.token(nil)) },
		begin: func(t *testing.T, w *world) {
			time.Sleep(7 * time.Second) // 5 s after a start it looks at the Transit key: that must not be what finds out
			w.revokeTokens()
			since := time.Now()
			w.awaitWords(deniedHealth)
			took := time.Since(since)
			if took > time.Minute {
				t.Errorf("it takes effect after %v", took)
			}
			t.Logf("figure: kill switch: the token revoked, exchanges and access tokens stop %.0f s later", took.Seconds())
		},
		also: onlyLookups(known),
	}})
}

func expiredToken(t *testing.T) {
	w := tokenWorld(t)
	w.vaultRows(t, []vaultRow{{
		faultRow: withdrawnRow("a token that is not renewable has expired"), then: "by itself within a minute, with a new token in token_file", end: newToken,
		begin: startWithToken(map[string]any{"ttl": "20s", "renewable": false}),
	}})
}

func maxTTLOfToken(t *testing.T) {
	w := tokenWorld(t)
	w.vaultRows(t, []vaultRow{{
		faultRow: withdrawnRow("the token's max TTL is reached (method token)"), then: "by itself within a minute, with a new token in token_file", end: newToken,
		begin: startWithToken(map[string]any{"ttl": "20s", "explicit_max_ttl": "30s"}),
	}})
}

func maxTTLOfAppRole(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.vault.Must("POST", daemonRole, map[string]any{"token_ttl": 20, "token_max_ttl": 30, "token_policies": []string{"tokenvault"}, "token_no_default_policy": true})
	w.vaultRows(t, []vaultRow{{
		faultRow: nothingHappens("the token's max TTL is reached (AppRole)"), then: "logs in anew before",
		begin: func(t *testing.T, w *world) {
			w.start()
			w.awaitReady()
			w.awaitLog("logged in to vault", 2)
			ask(t, w)
		},
	}})
}

// awaitLog waits until the daemon has logged something so often.
func (w *world) awaitLog(text string, times int) {
	w.t.Helper()
	for limit := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // nobody tells
		log, err := os.ReadFile(w.path("daemon.log"))
		must(w.t, err)
		if bytes.Count(log, []byte(text)) >= times {
			return
		}
		if time.Now().After(limit) {
			w.t.Fatalf("the daemon has not logged %s %d times\n%s", text, times, w.logTail())
		}
	}
}

func appRole(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.withClock()
	w.start()
	w.awaitReady()
	known := w.connected()
	w.vaultRows(t, []vaultRow{
		{
			faultRow: nothingHappens("token revoked (AppRole)"), then: "logs in anew",
			begin: func(t *testing.T, w *world) { revoke(t, w) },
		},
		{
			faultRow: withdrawnRow("secret id used up, and the token revoked"), then: "by itself within a minute, with a new secret id in secret_id_file",
			begin: func(t *testing.T, w *world) {
				w.vault.Must("POST", daemonRole, map[string]any{"secret_id_num_uses": 1})
				w.newSecretID()
				w.again()
				w.awaitReady()
				revoke(t, w)
			},
			also: onlyLookups(known),
			end: func(t *testing.T, w *world) {
				w.vault.Must("POST", daemonRole, map[string]any{"secret_id_num_uses": 0})
				w.newSecretID()
				ask(t, w)
			},
		},
		{
			faultRow: row("the role is locked out by somebody's bad logins, and the daemon restarts", "503 starting", noOutcome, nothingStored, refusedHealth),
			then:     "by itself, at most a minute after the lock is gone", begin: lockOut,
			end: func(_ *testing.T, w *world) { // Vault's own clock ends the lock
				time.Sleep(lockLasts + 2*time.Second)
				w.clock(w.ahead() + time.Minute + time.Second)
			},
		},
	})
}

// lockLasts is for how long the mount locks a role out; the default is 15 minutes.
const lockLasts = 8 * time.Second

func lockOut(_ *testing.T, w *world) {
	w.vault.Must("POST", "sys/auth/approle/tune", map[string]any{"user_lockout_config": map[string]any{
		"lockout_threshold": "5", "lockout_duration": lockLasts.String(), "lockout_counter_reset": lockLasts.String(),
	}})
	roleID, err := os.ReadFile(w.path("role-id"))
	must(w.t, err)
	w.stop()
	for range 5 {
		w.vault.Do("PUT", "auth/approle/login", map[string]any{"role_id": strings.TrimSpace(string(roleID)), "secret_id": "marker-wrong-secret-id"})
	}
	w.start()
}

func wrapped(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.loginBy(`role_id_file = "`+w.path("role-id")+`"`, `secret_id_file = "`+w.path("secret-id")+`"`, "wrapped = true")
	w.withClock()
	wrap := func() {
		w.credential("secret-id", w.vault.Wrap("POST", daemonRole+"/secret-id", map[string]any{}, time.Hour))
	}
	var elsewhere string
	refused := func(name string) faultRow { return row(name, "503 starting", noOutcome, nothingStored, refusedHealth) }
	end := func(*testing.T, *world) { wrap() }
	w.vaultRows(t, []vaultRow{
		{
			faultRow: nothingHappens("wrapped secret id"), then: "unwrapped once",
			begin: func(_ *testing.T, w *world) { wrap(); w.start(); w.awaitReady() },
		},
		{
			faultRow: nothingHappens("wrapped secret id, the token revoked"), then: "logs in anew with what was unwrapped",
			begin: func(t *testing.T, w *world) { revoke(t, w) },
		},
		{
			faultRow: refused("the wrapping token was used already"), then: "by itself within a minute, with a new wrapping token in secret_id_file", end: end,
			begin: func(_ *testing.T, w *world) { w.again() },
			also: func(t *testing.T, w *world) {
				if status := w.must("", "status"); !strings.Contains(status, "someone else's hands") {
					t.Errorf("the status does not say what it may mean:\n%s", status)
				}
			},
		},
		{
			faultRow: refused("a wrapping token that was made elsewhere"), then: "by itself within a minute, with the right wrapping token in secret_id_file", end: end,
			begin: func(_ *testing.T, w *world) {
				elsewhere = w.vault.Wrap("POST", "sys/wrapping/wrap", map[string]any{"secret_id": "marker-secret-id-of-a-thief"}, time.Hour)
				w.credential("secret-id", elsewhere)
				w.again()
			},
			also: func(t *testing.T, w *world) {
				if !w.vault.Unwraps(elsewhere) {
					t.Error("it was unwrapped")
				}
			},
		},
	})
}

func certificateLogin(t *testing.T) {
	w := prepareWorld(t, options{})
	w.withClock()
	w.vault.Stop()
	plain, authority := w.vault.Addr, vaulttest.NewAuthority(t)
	files := authority.Server("vault.test")
	ca, err := os.ReadFile(authority.CAFile)
	must(t, err)
	w.write("ca.pem", string(ca), 0, 0o644)
	w.vault = vaulttest.StartTLS(t, files)
	w.write("operator-token", w.vault.RootToken, 0, 0o600)
	w.edit(`address = "`+plain+`"`, `address = "`+w.vault.Addr+"\"\nca_file = \""+w.path("ca.pem")+"\"\ntls_server_name = \"vault.test\"")
	w.setUpVault()
	w.vault.Must("POST", "sys/auth/cert", map[string]any{"type": "cert"})
	w.vault.Must("POST", "auth/cert/certs/tokenvault", map[string]any{
		"certificate": string(ca), "allowed_common_names": []string{"marker-daemon"},
		"token_policies": []string{"tokenvault"}, "token_no_default_policy": true, "token_ttl": 3600,
	})
	w.loginBy(`method = "cert"`, `cert_file = "`+w.path("cert.pem")+`"`, `key_file = "`+w.path("key.pem")+`"`)
	identify := func(name string) {
		authority.Client(name, w.path("cert.pem"), w.path("key.pem"))
		must(t, os.Chown(w.path("cert.pem"), daemonUID, -1))
		must(t, os.Chown(w.path("key.pem"), daemonUID, -1))
	}
	w.vaultRows(t, []vaultRow{
		{
			faultRow: nothingHappens("login with a client certificate"), then: "it is read anew at every login",
			begin: func(_ *testing.T, w *world) { identify("marker-daemon"); w.start(); w.awaitReady() },
		},
		{
			faultRow: withdrawnRow("the client certificate matches no role any more, and the token is revoked"), then: "by itself within a minute, with another certificate in cert_file",
			begin: func(t *testing.T, w *world) { identify("marker-somebody"); revoke(t, w) },
			end:   func(t *testing.T, w *world) { identify("marker-daemon"); ask(t, w) },
		},
	})
}

func jwtLogin(t *testing.T) {
	w := prepareWorld(t, options{})
	w.withClock()
	w.setUpVault()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	w.vault.Must("POST", "sys/auth/jwt", map[string]any{"type": "jwt"})
	w.vault.Must("POST", "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}})
	w.vault.Must("POST", "auth/jwt/role/tokenvault", map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{"marker-audience"}, "bound_subject": "marker-subject",
		"token_policies": []string{"tokenvault"}, "token_no_default_policy": true, "token_ttl": 3600,
	})
	w.loginBy(`method = "jwt"`, `role = "tokenvault"`, `jwt_file = "`+w.path("jwt")+`"`)
	issue := func(until time.Duration) { w.credential("jwt", signedJWT(t, key, time.Now().Add(until))) }
	w.vaultRows(t, []vaultRow{
		{
			faultRow: nothingHappens("login with a JWT"), then: "it is read anew at every login",
			begin: func(_ *testing.T, w *world) { issue(time.Hour); w.start(); w.awaitReady() },
		},
		{
			faultRow: withdrawnRow("the JWT has expired, and the token is revoked"), then: "by itself within a minute, with a new one in jwt_file",
			begin: func(t *testing.T, w *world) { issue(-time.Hour); revoke(t, w) },
			end:   func(t *testing.T, w *world) { issue(time.Hour); ask(t, w) },
		},
	})
}

// signedJWT is a JWT of RFC 7519, signed with ES256 (RFC 7518, section 3.4).
func signedJWT(t *testing.T, key *ecdsa.PrivateKey, until time.Time) string {
	part := func(fields map[string]any) string {
		b, err := json.Marshal(fields)
		must(t, err)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"alg": "ES256", "typ": "JWT"}) + "." +
		part(map[string]any{"sub": "marker-subject", "aud": "marker-audience", "iat": until.Add(-2 * time.Hour).Unix(), "exp": until.Unix()})
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	must(t, err)
	return text + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// kubernetesLogin is against a double of one endpoint: the server for tests is built
// without that method. What it takes and answers is that of Vault's API
// documentation ("Kubernetes auth method (API)", Login); the token that it hands
// out, and everything after, is the real server's.
func kubernetesLogin(t *testing.T) {
	w := prepareWorld(t, options{})
	w.withClock()
	w.setUpVault()
	f := newFront(w, nil)
	w.loginBy(`method = "kubernetes"`, `role = "tokenvault"`, `jwt_file = "`+w.path("jwt")+`"`)
	f.answer(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/auth/kubernetes/login" {
			f.pass.ServeHTTP(rw, r)
			return
		}
		var body struct{ Role, JWT string }
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.Role != "tokenvault" || body.JWT != "marker.service.account" || r.Header.Get("X-Vault-Token") != "" {
			frontSays(403, "application/json", `{"errors":["permission denied"]}`)(rw, r)
			return
		}
		answer, err := json.Marshal(map[string]any{"auth": map[string]any{"client_token": w.token(map[string]any{"ttl": "1h"}), "renewable": true, "lease_duration": 3600, "policies": []string{"tokenvault"}}})
		must(t, err)
		frontSays(200, "application/json", string(answer))(rw, r)
	})
	w.vaultRows(t, []vaultRow{
		{
			faultRow: nothingHappens("login with a Kubernetes service account (a double of that endpoint)"), then: "it is read anew at every login",
			begin: func(_ *testing.T, w *world) { w.credential("jwt", "marker.service.account"); w.start(); w.awaitReady() },
		},
		{
			faultRow: withdrawnRow("the service account is refused, and the token revoked (a double)"), then: "by itself within a minute, with another service account token",
			begin: func(t *testing.T, w *world) { w.credential("jwt", "marker.somebody"); revoke(t, w) },
			end:   func(t *testing.T, w *world) { w.credential("jwt", "marker.service.account"); ask(t, w) },
		},
	})
}
