package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// wrappedForm is what Transit's ciphertexts look like; nothing else is sent.
var wrappedForm = regexp.MustCompile(`^vault:v[0-9]{1,9}:[A-Za-z0-9+/=]+$`)

// tooOld is what Transit says below min_decryption_version (builtin/logical/transit
// and sdk/helper/keysutil, policy.go, of Vault 1.21).
const tooOld = "disallowed by policy (too old)"

// keyType is the type that setup makes, and the only one that is taken.
const keyType = "aes256-gcm96"

// Wrap encrypts key with the Transit key, bound to context: only Unwrap with the
// same context opens it. Errors match ErrNotFound (the Transit key was deleted, or
// nothing is mounted there), ErrMalformed (it is not of the right kind), ErrDenied
// or ErrUnreachable.
func (c *Client) Wrap(ctx context.Context, key secret.Text, context []byte) (string, error) {
	if len(context) == 0 {
		return "", fmt.Errorf("wrap a key: %w: without a context it is bound to nothing", ErrMalformed)
	}
	var out struct {
		Ciphertext string `json:"ciphertext"`
	}
	body := encryptBody(key, context)
	defer clear(body)
	if err := c.transit(ctx, "encrypt", body, func(a answer) error { return a.data(&out) }); err != nil {
		return "", fmt.Errorf("wrap a key: %w", err)
	}
	if !wrappedForm.MatchString(out.Ciphertext) {
		return "", fmt.Errorf("wrap a key: %w: transit answered no ciphertext", ErrMalformed)
	}
	return out.Ciphertext, nil
}

// Unwrap decrypts what Wrap returned. Errors match ErrMalformed (another key,
// another context, changed bytes), ErrTooOld, or those of Wrap.
func (c *Client) Unwrap(ctx context.Context, wrapped string, context []byte) (secret.Text, error) {
	if !wrappedForm.MatchString(wrapped) {
		return secret.Text{}, fmt.Errorf("unwrap a key: %w: not a transit ciphertext", ErrMalformed)
	}
	var key secret.Text
	take := func(a answer) (err error) { key, err = plaintext(a); return err }
	if err := c.transit(ctx, "decrypt", decryptBody(wrapped, context), take); err != nil {
		return secret.Text{}, fmt.Errorf("unwrap a key: %w", err)
	}
	return key, nil
}

// plaintext takes what decrypt answers out of the answer.
func plaintext(a answer) (secret.Text, error) {
	data, err := a.secrets("data")
	if err != nil {
		return secret.Text{}, err
	}
	key, ok := bytesOf(data["plaintext"])
	if !ok || key.IsZero() {
		return secret.Text{}, fmt.Errorf("%w: transit answered no plaintext", ErrMalformed)
	}
	return key, nil
}

// transit asks <mount>/<op>/<key>, after the key was once seen to bind contexts.
func (c *Client) transit(ctx context.Context, op string, body []byte, take func(answer) error) error {
	if err := c.checkKey(ctx); err != nil {
		return err
	}
	path := c.paths.TransitMount + "/" + op + "/" + c.paths.TransitKey
	a, err := c.do(ctx, request{path: path, body: body, capability: "update"})
	defer a.forget()
	if errors.Is(err, ErrDenied) || err == nil && a.status == http.StatusBadRequest && !a.says(tooOld) {
		if gone := c.keyGone(ctx); gone != nil {
			return gone
		}
	}
	switch {
	case err != nil:
		return err
	case a.status == http.StatusBadRequest && a.says(tooOld):
		return fmt.Errorf("%q: %w", path, ErrTooOld)
	case a.status == http.StatusBadRequest:
		return fmt.Errorf("%q: %w: it was not wrapped here by this transit key, or was changed", path, ErrMalformed)
	case !a.ok():
		return fmt.Errorf("%q: %w", path, a.unexpected())
	}
	if err := take(a); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	return nil
}

// keyGone looks at the Transit key after an operation was refused, and returns why
// it is no key for us any more, nil when it is one or that cannot be told. Where it
// was deleted, encrypt is a 403 (it would make one, which the policy does not
// grant), and decrypt a 400 as for changed bytes.
func (c *Client) keyGone(ctx context.Context) error {
	_, err := c.readKey(ctx)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrMalformed) {
		return err
	}
	return nil
}

// transitKey is an answer to a read of transit/keys/….
type transitKey struct {
	Type                 string `json:"type"`
	Derived              bool   `json:"derived"`
	Convergent           bool   `json:"convergent_encryption"`
	Exportable           bool   `json:"exportable"`
	AllowPlaintextBackup bool   `json:"allow_plaintext_backup"`
	Latest               int    `json:"latest_version"`
	MinDecryption        int    `json:"min_decryption_version"`

	// Keys is when each version was made that can be decrypted with, in seconds since
	// 1970; of keys that are not symmetric it says more (Vault's API documentation,
	// Transit, "Read key").
	Keys map[string]any `json:"keys"`
}

// made is when the latest version was made; zero: not told.
func (k transitKey) made() time.Time {
	if seconds, ok := k.Keys[strconv.Itoa(k.Latest)].(float64); ok && seconds >= 0 && seconds < 1<<40 {
		return time.Unix(int64(seconds), 0)
	}
	return time.Time{}
}

// fault says why the key must not be used, or "". Only a derived key binds the
// context; Transit ignores it for any other, without an error.
func (k transitKey) fault() string {
	switch {
	case k.Type != keyType:
		return "is not of the type " + keyType
	case !k.Derived:
		return "was not made with derived=true, so that it binds nothing"
	case k.Exportable || k.AllowPlaintextBackup:
		return "is exportable, or can be backed up in plaintext"
	case k.Convergent:
		return "has convergent encryption"
	}
	return ""
}

// checkKey reads the Transit key's properties once, and remembers that they were
// right: but for exportable they cannot be loosened, and TransitState looks again.
func (c *Client) checkKey(ctx context.Context) error {
	if c.keyIsFine.Load() {
		return nil
	}
	_, err := c.readKey(ctx)
	return err
}

// TransitState is where the Transit key stands.
type TransitState struct {
	Latest        int // version, which Wrap uses
	MinDecryption int // version below which Unwrap fails with ErrTooOld
	// Made is when the latest version was made, by Vault's clock; zero: not told. The
	// same Latest made at another time, or an earlier Latest, is another key, which
	// was made under the name of one that was deleted: it opens nothing of before.
	Made time.Time
}

// TransitState asks Vault about the Transit key. Errors match ErrNotFound (it was
// deleted, or nothing is mounted there), ErrMalformed (it is not of the right kind
// any more), ErrDenied, ErrUnconfirmed or ErrUnreachable.
func (c *Client) TransitState(ctx context.Context) (TransitState, error) {
	key, err := c.readKey(ctx)
	if err != nil {
		return TransitState{}, err
	}
	return TransitState{Latest: key.Latest, MinDecryption: key.MinDecryption, Made: key.made()}, nil
}

// readKey reads the Transit key's properties and checks them.
func (c *Client) readKey(ctx context.Context) (transitKey, error) {
	path := c.paths.TransitMount + "/keys/" + c.paths.TransitKey
	a, err := c.do(ctx, request{path: path, capability: "read"})
	if err != nil {
		return transitKey{}, err
	}
	c.keyIsFine.Store(false)
	if !a.ok() {
		return transitKey{}, fmt.Errorf("transit key %q: %w", path, a.unexpected())
	}
	var key transitKey
	if err := a.data(&key); err != nil {
		return transitKey{}, fmt.Errorf("transit key %q: %w", path, err)
	}
	why := key.fault()
	if why == "" && (key.Latest < 1 || key.MinDecryption < 0) {
		why = "has no version"
	}
	if why != "" {
		return transitKey{}, fmt.Errorf("%w: the transit key %q %s; that cannot be changed, make another", ErrMalformed, path, why)
	}
	c.keyIsFine.Store(true)
	return key, nil
}

// WrapVersion is the version of the Transit key that a wrapped form names, 0 when
// it is none.
func WrapVersion(wrapped string) int {
	if !wrappedForm.MatchString(wrapped) {
		return 0
	}
	digits, _, _ := strings.Cut(strings.TrimPrefix(wrapped, "vault:v"), ":")
	n, _ := strconv.Atoi(digits) // at most nine digits
	return n
}
