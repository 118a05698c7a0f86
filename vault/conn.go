package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/vault/api"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// conn is one vault/api client over our transport, with a token that vault/api is
// not given: it would keep it as a string. Several conns share a transport.
type conn struct {
	api   *api.Client
	token *heldToken
}

// heldToken is a token that is put into requests where they are written.
type heldToken struct {
	mu   sync.RWMutex
	text secret.Text // ours
}

// set makes further requests carry a copy of text.
func (h *heldToken) set(text secret.Text) {
	own := kept(text)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Wipe()
	h.text = own
}

type tokenKey struct{}

// authorized puts a conn's token beside each request, for the transport.
type authorized struct {
	base  http.RoundTripper
	token *heldToken
}

func (a authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	return a.base.RoundTrip(req.WithContext(context.WithValue(req.Context(), tokenKey{}, a.token)))
}

// setToken makes every further request of the conn carry the token; an empty one
// makes it carry none.
func (c *conn) setToken(token secret.Text) { c.token.set(token) }

// newConn builds a vault/api client that has nothing from the environment, and
// no token.
func newConn(c Config, rt http.RoundTripper) (*conn, error) {
	defer hideEnvironment()()
	token := &heldToken{}
	client, err := api.NewClient(&api.Config{
		Address:          c.Address,
		HttpClient:       &http.Client{Transport: authorized{rt, token}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		MaxRetries:       0,
		CheckRetry:       func(context.Context, *http.Response, error) (bool, error) { return false, nil },
		DisableRedirects: true,
	})
	if err != nil {
		return nil, errors.New("vault address: vault/api does not take it")
	}
	client.SetWrappingLookupFunc(func(string, string) string { return "" }) // its default reads VAULT_WRAP_TTL at every request
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.ClearToken()
	if c.Namespace != "" {
		client.SetNamespace(c.Namespace)
	}
	return &conn{client, token}, nil
}

var environment sync.Mutex

// hideEnvironment takes every VAULT_ variable out of the environment until the
// function that it returns is called. api.NewClient reads them even when it is
// given a Config: it opens the files that they name, fails when one does not
// parse, and takes token, namespace and headers from them.
func hideEnvironment() (restore func()) {
	environment.Lock()
	hidden := map[string]string{}
	for _, pair := range os.Environ() {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, "VAULT_") {
			hidden[name] = value
			_ = os.Unsetenv(name) // fails for no name that Environ gave
		}
	}
	return func() {
		for name, value := range hidden {
			_ = os.Setenv(name, value)
		}
		environment.Unlock()
	}
}

// answer is what Vault itself answered: 2xx, 400, 403, 404 or 405.
type answer struct {
	status int
	body   []byte // ours; forget clears it
}

func (a answer) forget() { clear(a.body) }

func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

// member is a member of the body, a part of it; nil when there is none.
func (a answer) member(name string) ([]byte, error) {
	members, err := fields(a.body)
	return members[name], err
}

// data decodes the field "data" of the body, which must hold no secret.
func (a answer) data(into any) error {
	raw, err := a.member("data")
	if err != nil || raw == nil {
		return err
	}
	return decode(raw, into)
}

// secrets returns the members of the object that is the body's field name: parts
// of the body, for textOf and bytesOf, which clear them.
func (a answer) secrets(name string) (map[string][]byte, error) {
	raw, err := a.member(name)
	if err != nil {
		return nil, err
	}
	return fields(raw)
}

// says reports whether one of Vault's error texts contains part. The texts
// themselves go no further.
func (a answer) says(part string) bool {
	var refusal struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(a.body, &refusal) != nil {
		return false
	}
	for _, text := range refusal.Errors {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// unmounted reports that nothing is mounted where a was asked for, as Vault says it
// (vault/router.go, Router.routeCommon, of Vault 1.21). An entry that never was is a
// 404 without words.
func (a answer) unmounted() bool {
	return a.status == http.StatusNotFound && a.says("no handler for route")
}

// unexpected is the error for an answer that the caller has no better word for.
func (a answer) unexpected() error {
	switch {
	case a.status == http.StatusForbidden:
		return ErrDenied
	case a.unmounted():
		return fmt.Errorf("%w: nothing is mounted there", ErrNotFound)
	case a.status == http.StatusNotFound:
		return ErrNotFound
	}
	return fmt.Errorf("%w: answered %d", ErrMalformed, a.status)
}

func (c *conn) get(ctx context.Context, path string) (answer, error) {
	return received(c.api.Logical().ReadRawWithContext(ctx, path))
}

func (c *conn) put(ctx context.Context, path string, body []byte) (answer, error) {
	return received(c.api.Logical().WriteRawWithContext(ctx, path, body))
}

// received turns vault/api's pair into ours. Its error for a status of 4xx comes
// beside the response and carries Vault's text: it is dropped.
func received(resp *api.Response, err error) (answer, error) {
	if resp == nil {
		return answer{}, unreachable(err)
	}
	defer resp.Body.Close()
	if own, ok := resp.Body.(*wipedBody); ok {
		return answer{status: resp.StatusCode, body: own.take()}, nil
	}
	body, err := io.ReadAll(resp.Body) // vault/api's copy of a refusal
	if err != nil {
		return answer{}, unreachable(err)
	}
	return answer{status: resp.StatusCode, body: body}, nil
}
