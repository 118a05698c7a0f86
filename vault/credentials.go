package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// credentials is what the configured method logs in with, as its files are now.
type credentials struct {
	roleID, secretID secret.Text // approle; secretID may be the wrapping token of one
	token            secret.Text // token
	jwt              secret.Text // jwt, kubernetes
	cert, key        secret.Text // cert, in PEM; cert is no secret
}

func (k credentials) all() []secret.Text {
	return []secret.Text{k.roleID, k.secretID, k.token, k.jwt, k.cert, k.key}
}

func (k credentials) equal(o credentials) bool {
	others, same := o.all(), true
	for i, t := range k.all() {
		same = t.Equal(others[i]) && same
	}
	return same
}

func (k credentials) wipe() {
	for _, t := range k.all() {
		t.Wipe()
	}
}

// refusedLogin is Vault's no to a login, in our words. It matches ErrDenied.
type refusedLogin struct {
	how, why string
	counts   bool // towards a lockout
}

func (e *refusedLogin) Error() string {
	return "log in to vault " + e.how + ": " + ErrDenied.Error() + ": " + e.why
}

func (e *refusedLogin) Is(target error) bool { return target == ErrDenied }

// counts reports whether err counts towards a lockout of the role.
func counts(err error) bool {
	refused, ok := errors.AsType[*refusedLogin](err)
	return ok && refused.counts
}

// readCredentials reads the files. The wrapping token of a secret id that is held
// already may be gone.
func (c *Client) readCredentials() (credentials, error) {
	k, err := c.config.Auth.read()
	if c.config.Auth.Wrapped && !k.roleID.IsZero() && errors.Is(err, fs.ErrNotExist) && c.holdsSecretID() {
		return k, nil
	}
	return k, err
}

func (a AuthConfig) read() (credentials, error) {
	var k credentials
	err := k.fill(a)
	if err == nil && a.Method == methodCert {
		_, err = k.keyPair()
		if err != nil { // its text may quote the files
			err = fileError{fmt.Errorf("read secret file %s: it is not the key, in PEM, of the certificate in %s", a.KeyFile, a.CertFile)}
		}
	}
	return k, err
}

// fill reads the files one after the other, until one cannot be read.
func (k *credentials) fill(a AuthConfig) error {
	type file struct {
		to   *secret.Text
		path string
	}
	files := map[string][]file{
		methodAppRole:    {{&k.roleID, a.RoleIDFile}, {&k.secretID, a.SecretIDFile}},
		methodToken:      {{&k.token, a.TokenFile}},
		methodCert:       {{&k.key, a.KeyFile}},
		methodJWT:        {{&k.jwt, a.JWTFile}},
		methodKubernetes: {{&k.jwt, a.JWTFile}},
	}
	for _, f := range files[a.Method] {
		var err error
		if *f.to, err = keepSecretFile(f.path, a.Reader); err != nil {
			return err
		}
	}
	if a.Method == methodCert {
		var err error
		k.cert, err = readCertificate(a.CertFile)
		return err
	}
	return nil
}

// readCertificate reads a file that is no secret.
func readCertificate(path string) (secret.Text, error) {
	f, err := os.Open(path)
	if err != nil {
		return secret.Text{}, fileError{fmt.Errorf("read the certificate to log in with: %w", err)}
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile))
	if err != nil {
		return secret.Text{}, fileError{fmt.Errorf("read the certificate to log in with: %w", err)}
	}
	return secret.New(bytes.TrimSpace(pem)), nil
}

// enter exchanges credentials for a session.
func (c *Client) enter(ctx context.Context, with credentials) (session, error) {
	switch c.config.Auth.Method {
	case methodToken:
		return c.enterWithToken(ctx, with.token)
	case methodCert:
		return c.enterWithCertificate(ctx, with)
	case methodJWT, methodKubernetes:
		return c.enterWithJWT(ctx, with.jwt)
	}
	return c.enterWithAppRole(ctx, with)
}

func (c *Client) enterWithAppRole(ctx context.Context, with credentials) (session, error) {
	secretID, err := c.secretIDOf(ctx, with.secretID)
	if err != nil {
		return session{}, err
	}
	defer secretID.Wipe()
	body, err := appRoleBody(with.roleID, secretID)
	if err != nil {
		return session{}, errors.New("log in to vault with AppRole: the credentials cannot be sent")
	}
	s, err := c.enterAt(ctx, body, func(status int) *refusedLogin { return c.refusedAppRole(status, with) })
	if err == nil && c.config.Auth.Wrapped {
		c.origin(with.secretID)
	}
	return s, err
}

// refusedAppRole says what a refused AppRole login means. Vault answers 400 to
// credentials that it does not know, or not any more, and 403 while the role is
// locked out.
func (c *Client) refusedAppRole(status int, with credentials) *refusedLogin {
	refused := &refusedLogin{how: fmt.Sprintf("with AppRole at %q", "auth/"+c.config.Auth.Mount)}
	switch {
	case status == http.StatusForbidden:
		refused.why = "the role is locked out after bad logins (for 15 minutes, unless the mount says otherwise), or nothing is mounted there, or tokens of the role are bound to other addresses"
	case with.equal(c.proven):
		refused.counts = true
		refused.why = "these credentials worked before: the secret id is used up (secret_id_num_uses), has expired (secret_id_ttl) or was destroyed, or the role was: make a new secret id"
	default:
		refused.counts = true
		refused.why = "role id or secret id is wrong, expired, used up or destroyed: make a new secret id"
	}
	return refused
}

func (c *Client) enterWithCertificate(ctx context.Context, with credentials) (session, error) {
	pair, err := with.keyPair()
	if err != nil {
		return session{}, errors.New("log in to vault with a certificate: crypto/tls does not take it")
	}
	c.identity.Store(&pair)
	body, err := json.Marshal(map[string]string{"name": c.config.Auth.Role})
	if err != nil {
		return session{}, errors.New("log in to vault with a certificate: the role cannot be sent")
	}
	return c.enterAt(ctx, body, c.refusedBecause("the certificate of cert_file matches no role there (or not the one of role), or has expired or been revoked, or tokens of the role are bound to other addresses"))
}

func (c *Client) enterWithJWT(ctx context.Context, jwt secret.Text) (session, error) {
	body, err := jwtBody(c.config.Auth.Role, jwt)
	if err != nil {
		return session{}, errors.New("log in to vault with a JWT: it cannot be sent")
	}
	return c.enterAt(ctx, body, c.refusedBecause("there is no such role, or it does not take the token of jwt_file: expired, not valid yet by Vault's clock, of another issuer or audience, or for somebody else"))
}

// refusedBecause says what a refused login may mean, whatever its status.
func (c *Client) refusedBecause(why string) func(int) *refusedLogin {
	auth := c.config.Auth
	return func(int) *refusedLogin {
		return &refusedLogin{how: fmt.Sprintf("with %s at %q", auth.Method, "auth/"+auth.Mount), why: why}
	}
}

// enterAt sends a login to the mount. refused says what a no of Vault's means.
func (c *Client) enterAt(ctx context.Context, body []byte, refused func(status int) *refusedLogin) (session, error) {
	defer clear(body)
	a, err := c.entry.put(ctx, "auth/"+c.config.Auth.Mount+"/login", body)
	if err != nil {
		return session{}, fmt.Errorf("log in to vault: %w", err)
	}
	defer a.forget()
	if !a.ok() {
		return session{}, refused(a.status)
	}
	return c.admitted(a)
}

// errNoToken is for an answer of 2xx to a login: also when Vault wants a second
// factor.
var errNoToken = fmt.Errorf("log in to vault: %w", &noAnswer{why: "its answer to a login holds no token", busy: true})

// admitted takes the session out of the answer to a login.
func (c *Client) admitted(a answer) (session, error) {
	raw, err := a.member("auth")
	if err != nil || raw == nil {
		return session{}, errNoToken
	}
	var renewable bool
	var lease int // seconds
	members, err := fields(raw)
	if err != nil || decodeMember(members, "renewable", &renewable) != nil || decodeMember(members, "lease_duration", &lease) != nil {
		return session{}, errNoToken
	}
	token, ok := textOf(members["client_token"])
	if !ok || token.IsZero() {
		return session{}, errNoToken
	}
	return c.newSession(token, renewable, lease), nil
}
