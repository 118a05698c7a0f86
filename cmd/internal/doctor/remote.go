package doctor

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault"
)

const restart = "systemctl restart tokenvault"

// certWarn is how long before its end a certificate is spoken of: a tenth of its life,
// at most two weeks. What is renewed by itself is by then.
func certWarn(c vault.Contact) time.Duration {
	return min(c.Until.Sub(c.Since)/10, 14*24*time.Hour)
}

// reach probes Vault, once.
func (e *exam) reach(ctx context.Context) {
	if !e.probed {
		e.probed = true
		e.contact, e.probe = vault.Probe(ctx, e.cfg.VaultConfig())
	}
}

func (e *exam) vaultAddress(ctx context.Context) Finding {
	e.reach(ctx)
	address := e.cfg.Vault.Address
	cure := "vault status -address=" + address
	switch c := e.contact; {
	case e.probe != nil && !c.Dialled && !errors.Is(e.probe, vault.ErrUnreachable):
		return bad("tokenvault config check", "%v", e.probe) // such as a ca_file
	case !c.Dialled, c.Secured && !c.Serves:
		return bad(cure, "%v", e.probe)
	}
	return good("%s answers", address)
}

func (e *exam) vaultTLS(ctx context.Context) Finding {
	e.reach(ctx)
	v := e.cfg.Vault
	u, err := url.Parse(v.Address)
	if err != nil {
		return unknown("the address does not parse")
	}
	cure := "openssl s_client -connect " + u.Host + " -servername " + cmp.Or(v.TLSServerName, u.Hostname())
	switch c := e.contact; {
	case !c.Dialled:
		return unknown("it needs Vault address")
	case !c.Secured:
		return bad(cure, "%v", e.probe)
	case !c.Encrypted:
		return warn("set vault.address to https://… and take unsafe_plain_http out", "plain HTTP, to a loopback address: no other machine sees it")
	case c.Until.Sub(e.Now()) < certWarn(c):
		return warn(cure, "Vault's certificate ends at %s", c.Until.UTC().Format(time.RFC3339))
	default:
		return good("Vault's certificate is good until %s", c.Until.UTC().Format(time.DateOnly))
	}
}

// vaultLogin logs in as the daemon does, unless that can harm it.
func (e *exam) vaultLogin(ctx context.Context) Finding {
	auth := e.cfg.Vault.Auth
	cure := e.newCredential()
	if e.status != nil && strings.HasPrefix(e.status.Vault.Reason, "log in to vault") {
		return bad(cure, "the daemon: %s", e.status.Vault.Reason)
	}
	if auth.Wrapped {
		if e.status != nil && e.status.Vault.Reachable && e.status.Vault.Reason == "" {
			return unknown("the daemon is logged in; its wrapped secret id works once, and is not used here")
		}
		return unknown("the wrapped secret id works once, and is the daemon's")
	}
	used := *e.cfg
	a := &used.Vault.Auth
	for _, path := range []*string{&a.RoleIDFile, &a.SecretIDFile, &a.TokenFile, &a.JWTFile, &a.CertFile, &a.KeyFile} {
		at, encrypted := e.source(*path)
		if encrypted && at != *path {
			return unknown("systemd decrypts the credential for the running daemon only: %s, and look again", restart)
		}
		*path = at
	}
	client, err := daemon.NewVault(daemon.Config{Config: &used, Now: e.Now})
	if err != nil {
		return bad("tokenvault config check", "%v", err)
	}
	if err := client.Login(ctx); err != nil {
		return refusedLogin(err, cure)
	}
	e.client, e.cfg = client, &used
	return good("%s at auth/%s", auth.Method, auth.Mount)
}

func refusedLogin(err error, cure string) Finding {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return unknown("%v: be root", err)
	case errors.Is(err, vault.ErrUnreachable):
		return unknown("%v", err)
	}
	return bad(cure, "%v", err)
}

// newCredential is how a credential is replaced.
func (e *exam) newCredential() string {
	a := e.cfg.Vault.Auth
	switch a.Method {
	case "approle":
		at, _ := e.source(a.SecretIDFile)
		return fmt.Sprintf("vault write -f -field=secret_id auth/%s/role/tokenvault/secret-id >%s && %s", a.Mount, at, restart)
	case "token":
		return "vault token create -policy=tokenvault -no-default-policy -period=24h -field=token >" + a.TokenFile
	}
	return fmt.Sprintf("vault read auth/%s/role/%s", a.Mount, a.Role)
}

// vaultRights holds the token's rights against what `vault policy` prints.
func (e *exam) vaultRights(ctx context.Context) Finding {
	const cure = "tokenvault vault policy | vault policy write tokenvault -"
	missing, err := e.client.Missing(ctx, e.cfg.ClientIDs())
	if err != nil {
		return late(ctx, cure, "ask for the rights", err)
	}
	if len(missing) > 0 {
		var lacks []string
		for _, m := range missing[:min(len(missing), 3)] {
			lacks = append(lacks, strings.Join(m.Missing, ", ")+" on "+m.Path)
		}
		return bad(cure, "on %s the daemon's token lacks what it needs: %s", count(len(missing), "path"), strings.Join(lacks, "; "))
	}
	held, err := e.client.Holding(ctx)
	if err != nil {
		return late(ctx, cure, "ask for the rights", err)
	}
	if slices.Contains(held.Surplus, "root") {
		return bad("tokenvault vault setup --apply", "the daemon's token is a root token")
	}
	if len(held.Surplus) > 0 {
		return warn("tokenvault vault setup --apply", "the token has the policy default beside its own, which gives more than is needed")
	}
	return good("what tokenvault vault policy prints, all of it")
}

// credential says what keeps a stolen credential from working elsewhere.
func (e *exam) credential(ctx context.Context) Finding {
	a := e.cfg.Vault.Auth
	if a.Wrapped {
		return good("a wrapped secret id: who reads it first is noticed")
	}
	secretFile := map[string]string{"approle": a.SecretIDFile, "token": a.TokenFile, "cert": a.KeyFile, "jwt": a.JWTFile}[a.Method]
	if a.Method == "kubernetes" {
		return good("the pod's own token, which Kubernetes replaces")
	}
	if _, encrypted := e.source(secretFile); encrypted {
		return good("systemd decrypts it, with a key of this machine")
	}
	if e.client == nil {
		return unknown("it needs Vault login")
	}
	held, err := e.client.Holding(ctx)
	if err != nil {
		return unknown("%v", err)
	}
	if len(held.BoundCIDRs) > 0 {
		return good("bound to %s", strings.Join(held.BoundCIDRs, ", "))
	}
	return warn("systemd-creds encrypt --name=vault-secret-id FILE /etc/credstore.encrypted/vault-secret-id, and LoadCredentialEncrypted=",
		"nothing binds it to this machine: with a stolen disk it works anywhere")
}

// clientSecrets looks for each app's, and believes the daemon whether Human API
// takes it.
func (e *exam) clientSecrets(ctx context.Context) Finding {
	var t tally
	if !e.admitted() && (e.status == nil || !e.status.Health.Ready) {
		return unknown("it needs Vault rights")
	}
	for _, app := range e.cfg.Apps {
		if !e.admitted() {
			break // the daemon has looked
		}
		held, err := e.client.ReadApp(ctx, user.ClientID(app.ClientID))
		held.ClientSecret.Wipe()
		held.AppKey.Wipe()
		if err != nil {
			t.add(late(ctx, "tokenvault secret put "+app.Name, "app "+app.Name, err))
		}
	}
	if e.status == nil {
		return t.worst(good("present for %s; whether Human API takes them only the running daemon knows", count(len(e.cfg.Apps), "app")))
	}
	for _, s := range e.status.Secrets {
		switch {
		case s.Refused:
			t.add(bad("tokenvault secret put "+s.App, "app %s: Human API refuses the clientSecret", s.App))
		case s.Reason != "" && len(t.list) == 0:
			t.add(warn("tokenvault secret check", "app %s: the daemon: %s", s.App, s.Reason))
		}
	}
	if e.status.Exchanges.Outcomes[string(user.Stored)] > 0 {
		return t.worst(good("present for %s, and Human API takes them", count(len(e.cfg.Apps), "app")))
	}
	return t.worst(good("present for %s, and Human API has refused none", count(len(e.cfg.Apps), "app")))
}

// admitted: this look is logged in, and lacks no right.
func (e *exam) admitted() bool { return e.client != nil && e.states["Vault rights"] != Fail }

// transit wraps a key that is thrown away, and unwraps it.
func (e *exam) transit(ctx context.Context) Finding {
	cure := "tokenvault vault setup --apply"
	if !absent(e.cfg.Store.Path) { // a new key opens nothing of before
		cure = "vault operator raft snapshot restore FILE"
	}
	at := []byte("tokenvault doctor")
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	key := secret.New(b)
	defer key.Wipe()
	wrapped, err := e.client.Wrap(ctx, key, at)
	if err != nil {
		return late(ctx, cure, "wrap a key with Transit", err)
	}
	back, err := e.client.Unwrap(ctx, wrapped, at)
	defer back.Wipe()
	if err != nil {
		return late(ctx, cure, "unwrap a key with Transit", err)
	}
	state, err := e.client.TransitState(ctx)
	if err != nil || !back.Equal(key) {
		return late(ctx, cure, "look at the Transit key", errors.Join(err, notSame(back.Equal(key))))
	}
	return good("%s/%s wraps and unwraps, version %d", e.cfg.Vault.TransitMount, e.cfg.Vault.TransitKey, state.Latest)
}

func notSame(same bool) error {
	if same {
		return nil
	}
	return errors.New("another key came back")
}

// origins connects to Human API, and asks nothing.
func (e *exam) origins(ctx context.Context) Finding {
	var t tally
	h := e.cfg.HumanAPI
	list := []string{h.UserURL, h.AuthURL, h.DataURL}
	slices.Sort(list)
	list = slices.Compact(list)
	for _, origin := range list {
		if err := reachOrigin(ctx, h, origin); err != nil {
			t.add(bad("curl -sSv -o /dev/null "+origin, "%s: %v", origin, err))
		}
	}
	return t.worst(good("%s", strings.Join(list, ", ")))
}

func reachOrigin(ctx context.Context, h config.HumanAPI, origin string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return exchange.Reach(ctx, exchange.Config{
		UserURL: origin, CAFile: h.CAFile, ProxyURL: h.ProxyURL, Pins: h.Pins,
		UnsafePrivateAddresses: h.UnsafePrivateAddresses, UnsafePlainHTTP: h.UnsafePlainHTTP,
	})
}

// clientUserID names the apps whose users can attach a session to another's record.
func (e *exam) clientUserID(context.Context) Finding {
	var off []string
	for _, a := range e.cfg.Apps {
		if !a.RequireClientUserID {
			off = append(off, a.Name)
		}
	}
	if len(off) > 0 {
		return warn("set require_client_user_id = true for each [[app]], and "+restart, "require_client_user_id is off for %s: an exchange need not say whose it is", strings.Join(off, ", "))
	}
	return good("every exchange says whose it is")
}
