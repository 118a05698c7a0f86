package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// App is what Vault holds for one app, in the current version of its entry.
type App struct {
	ClientSecret secret.Text
	AppKey       secret.Text // empty when there is none
	Version      int         // of the entry, from 1
}

// The fields of an app's entry.
const (
	fieldClientSecret = "clientSecret"
	fieldAppKey       = "appKey"
)

// checkClientID refuses what cannot be one segment of a path in Vault.
func checkClientID(id user.ClientID) error {
	if len(id) > 128 || strings.Contains(string(id), "/") {
		return errors.New("client id: at most 128 characters, and no '/'")
	}
	return checkPath("client id", string(id))
}

// entry is an answer to a read of secret/data/….
type entry struct {
	Data     map[string][]byte // parts of the answer; nil when deleted or destroyed
	Metadata struct {
		Version   int  `json:"version"`
		Destroyed bool `json:"destroyed"`
	}
}

// gone reports whether the version is there no more.
func (e entry) gone() bool { return e.Data == nil || e.Metadata.Destroyed }

// ReadApp reads an app's entry. Errors match ErrNotFound (no entry, or its
// current version deleted or destroyed), ErrMalformed (no clientSecret in it),
// ErrDenied or ErrUnreachable.
func (c *Client) ReadApp(ctx context.Context, id user.ClientID) (App, error) {
	if err := checkClientID(id); err != nil {
		return App{}, err
	}
	path := c.paths.app("data", id)
	a, err := c.do(ctx, request{path: path, capability: "read"})
	if err != nil {
		return App{}, fmt.Errorf("read the secret of app %s: %w", id, err)
	}
	defer a.forget()
	app, err := parseApp(a)
	if err != nil {
		return App{}, fmt.Errorf("read the secret of app %s at %q: %w", id, path, err)
	}
	return app, nil
}

func parseApp(a answer) (App, error) {
	e, err := parseEntry(a)
	if err != nil {
		return App{}, err
	}
	if e.gone() {
		return App{}, fmt.Errorf("%w: version %d was deleted", ErrNotFound, e.Metadata.Version)
	}
	clientSecret, err := textField(e.Data, fieldClientSecret)
	if err != nil {
		return App{}, err
	}
	if clientSecret.IsZero() {
		return App{}, fmt.Errorf("%w: the entry has no field %s", ErrMalformed, fieldClientSecret)
	}
	appKey, err := textField(e.Data, fieldAppKey)
	if err != nil {
		clientSecret.Wipe()
		return App{}, err
	}
	return App{ClientSecret: clientSecret, AppKey: appKey, Version: e.Metadata.Version}, nil
}

// parseEntry decodes a version, also a deleted one (which comes with a 404).
func parseEntry(a answer) (entry, error) {
	if !a.ok() && a.status != http.StatusNotFound {
		return entry{}, a.unexpected()
	}
	e, err := splitEntry(a)
	if err != nil {
		return entry{}, err
	}
	switch {
	case e.Metadata.Version < 0:
		return entry{}, ErrMalformed
	case e.Metadata.Version == 0 && a.ok():
		return entry{}, fmt.Errorf("%w: the entry has no version (kv_mount must be KV version 2)", ErrMalformed)
	case e.Metadata.Version == 0:
		return entry{}, a.unexpected()
	case !a.ok():
		e.Data = nil // whatever a 404 carries is not there
	}
	return e, nil
}

// splitEntry decodes what an entry says of itself, and leaves its fields as they
// came.
func splitEntry(a answer) (e entry, err error) {
	raw, err := a.member("data")
	if err != nil || raw == nil || string(raw) == "null" {
		return e, err
	}
	parts, err := fields(raw)
	if err != nil {
		return e, err
	}
	if metadata, ok := parts["metadata"]; ok {
		if err := decode(metadata, &e.Metadata); err != nil {
			return e, err
		}
	}
	if data, ok := parts["data"]; ok && string(data) != "null" {
		e.Data, err = fields(data)
	}
	return e, err
}

// textField returns a string field, empty when absent, and clears it.
func textField(data map[string][]byte, name string) (secret.Text, error) {
	raw, ok := data[name]
	if !ok {
		return secret.Text{}, nil
	}
	text, ok := textOf(raw)
	if !ok {
		return secret.Text{}, fmt.Errorf("%w: the field %s is not a string", ErrMalformed, name)
	}
	return text, nil
}
