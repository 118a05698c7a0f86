package vault

import (
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// testExactPolicy does all that the daemon does with exactly its policy.
func testExactPolicy(t *testing.T, p *place) {
	c := p.loggedIn(t)
	missing, err := c.Missing(t.Context(), []user.ClientID{app})
	if err != nil || missing != nil {
		t.Fatalf("missing %v, %v", missing, err)
	}
	got, err := c.ReadApp(t.Context(), app)
	if err != nil || !got.ClientSecret.Equal(text(markerSecret)) || got.Version != 1 || !got.AppKey.IsZero() {
		t.Fatalf("ReadApp: version %d, %v", got.Version, err)
	}
	wrapped, err := c.Wrap(t.Context(), text("marker-key"), []byte("context"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.Unwrap(t.Context(), wrapped, []byte("context"))
	if err != nil || !key.Equal(text("marker-key")) {
		t.Fatal("unwrapped key is another: ", err)
	}
	state := request{path: p.paths.KVMount + "/data/" + p.paths.StatePath + "/main", body: []byte(`{"data":{"a":"b"}}`)}
	for _, r := range []request{
		state, state, {path: state.path}, // create, update, read
		{path: p.paths.app("metadata", app)},
		{path: "transit/rewrap/" + p.name, body: decryptBody(wrapped, []byte("context"))},
		{path: "auth/token/lookup-self"},
		{path: "auth/token/renew-self", body: []byte("{}")},
		{path: "auth/token/revoke-self", body: []byte("{}")},
	} {
		if a, err := c.send(t.Context(), r); err != nil || !a.ok() {
			t.Errorf("%s: status %d, %v", r.path, a.status, err)
		}
	}
	a, err := c.send(t.Context(), request{path: "auth/token/lookup-self"})
	if err != nil || a.status != 403 {
		t.Errorf("after revoke-self: status %d, %v", a.status, err)
	}
}

// testForbidden shows that the policy grants nothing else.
func testForbidden(t *testing.T, p *place) {
	c := p.loggedIn(t)
	entry := []byte(`{"data":{"a":"b"}}`)
	for what, r := range map[string]request{
		"write an app's secret":       {path: p.paths.app("data", app), body: entry},
		"make an app's secret":        {path: p.paths.app("data", "another"), body: entry},
		"change an app's metadata":    {path: p.paths.app("metadata", app), body: []byte(`{"max_versions":1}`)},
		"delete an app's version":     {path: p.paths.KVMount + "/delete/" + p.paths.AppsPath + "/" + string(app), body: []byte(`{"versions":[1]}`)},
		"destroy an app's version":    {path: p.paths.KVMount + "/destroy/" + p.paths.AppsPath + "/" + string(app), body: []byte(`{"versions":[1]}`)},
		"read somebody else's secret": {path: "secret/data/other/entry"},
		"read the state's metadata":   {path: p.paths.KVMount + "/metadata/" + p.paths.StatePath + "/main"},
		"read the mount's settings":   {path: p.paths.KVMount + "/config"},
		"export the transit key":      {path: "transit/export/encryption-key/" + p.name},
		"back the transit key up":     {path: "transit/backup/" + p.name},
		"rotate the transit key":      {path: "transit/keys/" + p.name + "/rotate", body: []byte("{}")},
		"change the transit key":      {path: "transit/keys/" + p.name + "/config", body: []byte(`{"deletion_allowed":true}`)},
		"use another transit key":     {path: "transit/encrypt/another", body: encryptBody(text("marker-key"), nil)},
		"make a data key":             {path: "transit/datakey/plaintext/" + p.name, body: []byte("{}")},
		"make a token":                {path: "auth/token/create", body: []byte("{}")},
		"look another token up":       {path: "auth/token/lookup", body: []byte(`{"token":"another"}`)},
		"read its own policy":         {path: "sys/policies/acl/" + p.name},
		"change its own policy":       {path: "sys/policies/acl/" + p.name, body: []byte(`{"policy":""}`)},
		"make itself a secret id":     {path: p.role() + "/secret-id", body: []byte("{}")},
		"read its own role":           {path: p.role()},
		"read the mounts":             {path: "sys/mounts"},
		"use a cubbyhole":             {path: "cubbyhole/a", body: []byte(`{"a":"b"}`)},
		"wrap an answer":              {path: "sys/wrapping/wrap", body: []byte(`{"a":"b"}`)},
		"seal":                        {path: "sys/seal", body: []byte("{}")},
	} {
		a, err := c.send(t.Context(), r)
		if err != nil || a.status != 403 {
			t.Errorf("the policy lets the daemon %s: status %d, %v", what, a.status, err)
		}
	}
	_, err := c.main.api.Logical().ListWithContext(t.Context(), strings.TrimSuffix(p.paths.app("metadata", ""), "/"))
	if refused, ok := errors.AsType[*api.ResponseError](err); !ok || refused.StatusCode != 403 {
		t.Errorf("the policy lets the daemon list the apps: %v", ok)
	}
}

// testEachLine takes each line of the policy away in turn: what the daemon then
// cannot do is said by path and capability.
func testEachLine(t *testing.T, p *place) {
	full := p.loggedIn(t)
	wrapped, err := full.Wrap(t.Context(), text("marker-key"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.paths.rights() {
		p.putPolicy(t, func(o right) bool { return o.path != r.path })
		c := p.loggedIn(t) // token policies are looked up by name: a new login is not even needed
		path := strings.Replace(r.path, p.paths.AppsPath+"/*", p.paths.AppsPath+"/"+string(app), 1)
		missing, err := c.Missing(t.Context(), []user.ClientID{app})
		if err != nil || len(missing) != 1 || missing[0].Path != path || strings.Join(missing[0].Missing, " ") != strings.Join(r.capabilities, " ") {
			t.Errorf("without %s: missing %v, %v", r.path, missing, err)
		}
		if use := uses(c, wrapped, r.path); use != nil {
			logins := p.link.count(loginPath)
			want(t, use(t), ErrDenied, `"`+path+`"`, strings.Join(r.capabilities, ", "))
			if p.link.count(loginPath) != logins {
				t.Errorf("a fresh token was replaced because its policies lack %s", path)
			}
		}
	}
	p.putPolicy(t, func(right) bool { return false })
	logins := p.link.count(loginPath)
	for range 3 {
		_, err = full.ReadApp(t.Context(), app)
		want(t, err, ErrDenied, p.paths.app("data", app), "read")
	}
	if n := p.link.count(loginPath) - logins; n > 0 {
		t.Errorf("%d logins because of rights that are missing", n)
	}
	p.putPolicy(t, func(right) bool { return true })
	if _, err := full.ReadApp(t.Context(), app); err != nil {
		t.Error(err)
	}
}

// uses returns what fails without a line, nil when nothing does so at once.
func uses(c *Client, wrapped, path string) func(*testing.T) error {
	switch {
	case path == c.paths.app("data", "*"):
		return func(t *testing.T) error { _, err := c.ReadApp(t.Context(), app); return err }
	case strings.HasPrefix(path, "transit/encrypt/"), strings.HasPrefix(path, "transit/keys/"):
		return func(t *testing.T) error {
			_, err := c.Wrap(t.Context(), text("marker-key"), []byte("here"))
			return err
		}
	case strings.HasPrefix(path, "transit/decrypt/"):
		return func(t *testing.T) error { _, err := c.Unwrap(t.Context(), wrapped, []byte("here")); return err }
	}
	return nil
}

func testTransit(t *testing.T, p *place) {
	c := p.loggedIn(t)
	wrapped, err := c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Wrap(t.Context(), text("marker-key"), nil)
	want(t, err, ErrMalformed, "context")
	_, err = c.Unwrap(t.Context(), wrapped, nil)
	want(t, err, ErrMalformed)
	_, err = c.Unwrap(t.Context(), wrapped, []byte("elsewhere"))
	want(t, err, ErrMalformed)
	_, err = c.Unwrap(t.Context(), strings.Replace(wrapped, ":v1:", ":v1:AAAA", 1), []byte("here"))
	want(t, err, ErrMalformed)
	asked := p.link.count("")
	for _, bad := range []string{"", "vault:v1:", `vault:v1:AAAA","context":"`, "vault:v1:AA AA", wrapped + "\n"} {
		_, err = c.Unwrap(t.Context(), bad, []byte("here"))
		want(t, err, ErrMalformed, "not a transit ciphertext")
	}
	if p.link.count("") != asked {
		t.Error("something that is no ciphertext was sent")
	}
}

func testTransitTooOld(t *testing.T, p *place) {
	c := p.loggedIn(t)
	wrapped, err := c.Wrap(t.Context(), text("marker-key"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	p.server.Must("POST", "transit/keys/"+p.name+"/rotate", nil)
	if _, err := c.Unwrap(t.Context(), wrapped, []byte("here")); err != nil {
		t.Fatal("after a rotation: ", err)
	}
	p.server.Must("POST", "transit/keys/"+p.name+"/config", map[string]any{"min_decryption_version": 2})
	_, err = c.Unwrap(t.Context(), wrapped, []byte("here"))
	want(t, err, ErrTooOld)
	if errors.Is(err, ErrMalformed) {
		t.Error("too old is not malformed")
	}
}

// testTransitKeyKinds: Transit would take each of these keys and bind nothing,
// or give the key away.
func testTransitKeyKinds(t *testing.T, p *place) {
	for name, fields := range map[string]map[string]any{
		"plain":      {"type": keyType},
		"exportable": {"type": keyType, "derived": true, "exportable": true},
		"backup":     {"type": keyType, "derived": true, "allow_plaintext_backup": true},
		"convergent": {"type": keyType, "derived": true, "convergent_encryption": true},
		"chacha":     {"type": "chacha20-poly1305", "derived": true},
		"missing":    nil,
	} {
		p.config.TransitKey = p.name + "-" + name
		p.paths.TransitKey = p.config.TransitKey
		if fields != nil {
			p.server.Must("POST", "transit/keys/"+p.paths.TransitKey, fields)
		}
		p.putPolicy(t, func(right) bool { return true })
		wanted := ErrMalformed
		if fields == nil {
			wanted = ErrNotFound
		}
		_, err := p.loggedIn(t).Wrap(t.Context(), text("marker-key"), []byte("here"))
		want(t, err, wanted, p.paths.TransitKey)
	}
}

func testEntries(t *testing.T, p *place) {
	c := p.loggedIn(t)
	read := func() (App, error) { return c.ReadApp(t.Context(), app) }
	p.putApp(map[string]any{fieldClientSecret: "marker-client-secret <&> é", fieldAppKey: "marker-app-key", "note": 1})
	got, err := read()
	if err != nil || !got.ClientSecret.Equal(text("marker-client-secret <&> é")) || !got.AppKey.Equal(text("marker-app-key")) || got.Version != 2 {
		t.Fatalf("version %d, %v", got.Version, err)
	}
	for what, data := range map[string]map[string]any{
		"no field " + fieldClientSecret:         {"clientsecret": markerSecret},
		"no field  " + fieldClientSecret:        {fieldClientSecret: ""},
		fieldClientSecret + " is not a string":  {fieldClientSecret: 7},
		fieldClientSecret + "  is not a string": {fieldClientSecret: nil},
		fieldAppKey + " is not a string":        {fieldClientSecret: markerSecret, fieldAppKey: []string{"a"}},
	} {
		p.putApp(data)
		_, err := read()
		want(t, err, ErrMalformed, strings.ReplaceAll(what, "  ", " "))
	}
	p.server.Must("DELETE", p.paths.app("data", app), nil)
	_, err = read()
	want(t, err, ErrNotFound, "deleted")
	p.putApp(map[string]any{fieldClientSecret: markerSecret})
	p.server.Must("PUT", p.paths.app("destroy", app), map[string]any{"versions": []int{8}})
	_, err = read()
	want(t, err, ErrNotFound)
	p.server.Must("DELETE", p.paths.app("metadata", app), nil)
	_, err = read()
	want(t, err, ErrNotFound)
	for _, bad := range []user.ClientID{"", "..", ".", "a/../b", "a/b", "a?b", "a b", "*", "a%2fb", "/a"} {
		if _, err := c.ReadApp(t.Context(), bad); err == nil {
			t.Errorf("client id %q was taken", bad)
		}
	}
}

func testKVVersionOne(t *testing.T, p *place) {
	p.config.KVMount, p.paths.KVMount = "kv1", "kv1"
	p.putPolicy(t, func(right) bool { return true })
	p.server.Must("POST", p.paths.app("data", app), map[string]any{fieldClientSecret: markerSecret})
	_, err := p.loggedIn(t).ReadApp(t.Context(), app)
	want(t, err, ErrMalformed, "KV version 2")
}
