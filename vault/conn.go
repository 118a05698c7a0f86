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
)

// conn is one vault/api client over our transport. Its token is what was set
// last; several conns share a transport.
type conn struct{ api *api.Client }

// newConn builds a vault/api client that has nothing from the environment, and
// no token.
func newConn(c Config, rt http.RoundTripper) (*conn, error) {
	defer hideEnvironment()()
	client, err := api.NewClient(&api.Config{
		Address:          c.Address,
		HttpClient:       &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
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
	return &conn{client}, nil
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

// data decodes the field "data" of the body.
func (a answer) data(into any) error {
	envelope := struct {
		Data any `json:"data"`
	}{into}
	if err := json.Unmarshal(a.body, &envelope); err != nil {
		return ErrMalformed // the decoder's error quotes what it read
	}
	return nil
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
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, unreachable(err)
	}
	return answer{status: resp.StatusCode, body: body}, nil
}
