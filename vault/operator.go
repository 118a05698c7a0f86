package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// OperatorConfig is where Vault is, and the operator's own token. How the daemon
// logs in (Config.Auth) matters only for its method, and the mount of AppRole.
type OperatorConfig struct {
	Config
	Token secret.Text // required
}

// Operator does with the operator's own token what the daemon may not: set Vault
// up, and put secrets into it. It keeps no token alive and repeats nothing.
//
// BUG: what an entry holds beside the clientSecret, and the clientSecret on its way
// into one, pass through encoding/json, whose copies cannot be cleared. The process
// ends soon after.
type Operator struct {
	config Config
	paths  Paths
	conn   *conn
	base   http.RoundTripper // below conn
	token  secret.Text
}

// NewOperator checks the configuration; it sends nothing.
func NewOperator(c OperatorConfig) (*Operator, error) {
	config := c.withDefaults()
	if c.Token.IsZero() {
		return nil, errors.New("vault: the operator's token is missing")
	}
	if err := errors.Join(config.checkPlace(), checkPath("auth mount", config.Auth.Mount)); err != nil {
		return nil, err
	}
	rt, err := newTransport(config)
	if err != nil {
		return nil, err
	}
	operator := &Operator{config: config, paths: config.paths(), base: rt, token: c.Token}
	if operator.conn, err = newConn(config, rt); err != nil {
		return nil, err
	}
	operator.conn.setToken(c.Token)
	return operator, nil
}

// get reads a path; ok is false when there is nothing.
func (o *Operator) get(ctx context.Context, path string) (a answer, ok bool, err error) {
	a, err = o.conn.get(ctx, path)
	switch {
	case err != nil:
		return a, false, err
	case a.status == http.StatusNotFound:
		return a, false, nil
	case !a.ok():
		return a, false, refusedOn("read", path, a)
	}
	return a, true, nil
}

// put writes fields to a path.
func (o *Operator) put(ctx context.Context, path string, fields any) (answer, error) {
	body, err := json.Marshal(fields)
	if err != nil {
		return answer{}, fmt.Errorf("write %q: %w", path, ErrMalformed)
	}
	a, err := o.conn.put(ctx, path, body)
	if err != nil {
		return answer{}, err
	}
	if !a.ok() {
		return a, refusedOn("write", path, a)
	}
	return a, nil
}

// putWrapped is put with an answer that Vault keeps, and returns the token for it.
func (o *Operator) putWrapped(ctx context.Context, path string, fields any, life time.Duration) (secret.Text, time.Duration, error) {
	wrapping, err := newConn(o.config, o.base)
	if err != nil {
		return secret.Text{}, 0, err
	}
	wrapping.setToken(o.token)
	defer wrapping.setToken(secret.Text{})
	wrapping.api.SetWrappingLookupFunc(func(string, string) string { return strconv.Itoa(int(life / time.Second)) })
	a, err := (&Operator{conn: wrapping}).put(ctx, path, fields)
	if err != nil {
		return secret.Text{}, 0, err
	}
	defer a.forget()
	var made struct {
		TTL  int    `json:"ttl"`
		Path string `json:"creation_path"`
	}
	members, err := a.secrets("wrap_info")
	if err == nil {
		err = errors.Join(decodeMember(members, "ttl", &made.TTL), decodeMember(members, "creation_path", &made.Path))
	}
	token, ok := textOf(members["token"])
	if err != nil || !ok || token.IsZero() || made.Path != path {
		token.Wipe()
		return secret.Text{}, 0, fmt.Errorf("write %q: %w: its answer is not wrapped", path, ErrMalformed)
	}
	return token, time.Duration(made.TTL) * time.Second, nil
}

func refusedOn(what, path string, a answer) error {
	if a.status == http.StatusForbidden {
		return fmt.Errorf("%s %q: %w: the operator's token may not, or is not valid any more", what, path, ErrDenied)
	}
	return fmt.Errorf("%s %q: %w", what, path, a.unexpected())
}

// PutSecret makes clientSecret the current one of the app, and returns the
// version. What else the entry holds is kept. It is written with check-and-set:
// when somebody else changes the entry meanwhile, nothing is written and the
// error says so.
func (o *Operator) PutSecret(ctx context.Context, id user.ClientID, clientSecret secret.Text) (int, error) {
	if err := checkClientID(id); err != nil {
		return 0, err
	}
	encoded, err := encodeSecret(clientSecret)
	if err != nil {
		return 0, err
	}
	defer clear(encoded)
	path := o.paths.app("data", id)
	fields, version, err := o.entry(ctx, path)
	if err != nil {
		return 0, fmt.Errorf("put the secret of app %s: %w", id, err)
	}
	fields[fieldClientSecret] = encoded
	a, err := o.put(ctx, path, map[string]any{"data": fields, "options": map[string]int{"cas": version}})
	if err != nil {
		if a.status == http.StatusBadRequest && a.says("check-and-set") {
			err = fmt.Errorf("somebody else changed %q meanwhile, nothing was written: try again", path)
		}
		return 0, fmt.Errorf("put the secret of app %s: %w", id, err)
	}
	var written struct {
		Version int `json:"version"`
	}
	if err := a.data(&written); err != nil || written.Version < 1 {
		return 0, fmt.Errorf("put the secret of app %s: %w: it answered no version", id, ErrMalformed)
	}
	return written.Version, nil
}

func encodeSecret(clientSecret secret.Text) (json.RawMessage, error) {
	encoded := secretJSON(clientSecret)
	switch {
	case !isText(clientSecret) || bytes.ContainsRune(encoded, utf8.RuneError):
		clear(encoded)
		return nil, errors.New("a client secret must be valid UTF-8")
	case clientSecret.IsZero():
		return nil, errors.New("a client secret must not be empty")
	}
	return encoded, nil
}

// entry returns what an entry holds and its version, for check-and-set; nothing
// and 0 when there is none.
func (o *Operator) entry(ctx context.Context, path string) (map[string]json.RawMessage, int, error) {
	a, _, err := o.get(ctx, path)
	if err != nil {
		return nil, 0, err
	}
	defer a.forget()
	e, err := parseEntry(a)
	if errors.Is(err, ErrNotFound) {
		return map[string]json.RawMessage{}, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%q: %w", path, err)
	}
	copied := map[string]json.RawMessage{}
	if !e.gone() {
		for name, raw := range e.Data {
			copied[name] = bytes.Clone(raw)
		}
	}
	return copied, e.Metadata.Version, nil
}
