package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// A secret id that comes response-wrapped can be fetched once. Who finds its
// wrapping token used up knows that somebody has read it; and who checks, before,
// where the token was made, knows that nobody has read it and wrapped something
// else instead ("Response wrapping token validation" in Vault's documentation).

// secretIDOf returns the secret id that an AppRole login takes, for the caller to
// wipe: what the file holds or, with Wrapped, what its wrapping token stands for.
func (c *Client) secretIDOf(ctx context.Context, inFile secret.Text) (secret.Text, error) {
	if !c.config.Auth.Wrapped {
		return ownCopy(inFile), nil
	}
	if id, ok := c.secretIDFrom(inFile, false); ok {
		return id, nil
	}
	err := c.lookUpWrapping(ctx, inFile)
	if errors.Is(err, errUsedUp) {
		if id, ok := c.secretIDFrom(inFile, true); ok {
			return id, nil // it was remembered, and the file is as it was
		}
		return secret.Text{}, c.usedUp(inFile)
	}
	if err != nil {
		return secret.Text{}, err
	}
	return c.unwrap(ctx, inFile)
}

// secretIDFrom returns a copy of the secret id that came from this wrapping token;
// a zero one is that of a file that is gone. With orUnknown it is enough that
// nobody knows where it came from, as after a restart.
func (c *Client) secretIDFrom(wrapping secret.Text, orUnknown bool) (secret.Text, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := !c.unwrappedFrom.IsZero()
	fits := wrapping.IsZero() || known && c.unwrappedFrom.Equal(wrapping) || !known && orUnknown
	if c.unwrapped.IsZero() || !fits {
		return secret.Text{}, false
	}
	return ownCopy(c.unwrapped), true
}

func (c *Client) holdsSecretID() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.unwrapped.IsZero()
}

// hold keeps a secret id that came from this wrapping token.
func (c *Client) hold(secretID, wrapping secret.Text) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unwrapped.Wipe()
	c.unwrappedFrom.Wipe()
	c.unwrapped, c.unwrappedFrom = kept(secretID), kept(wrapping)
}

// origin notes that the secret id that is held, and has just logged in, is the one
// of this wrapping token.
func (c *Client) origin(wrapping secret.Text) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unwrappedFrom.IsZero() && !wrapping.IsZero() {
		c.unwrappedFrom = kept(wrapping)
	}
}

// errUsedUp is returned when Vault does not know a wrapping token, or not any more.
var errUsedUp = errors.New("there is no such wrapping token")

// lookUpWrapping asks where the token was made, which uses nothing up, and returns
// nil when that is where the mount makes secret ids.
func (c *Client) lookUpWrapping(ctx context.Context, wrapping secret.Text) error {
	body, err := tokenBody(wrapping)
	if err != nil {
		return errors.New("look up the wrapping token: it cannot be sent")
	}
	defer clear(body)
	a, err := c.entry.put(ctx, "sys/wrapping/lookup", body)
	if err != nil {
		return fmt.Errorf("look up the wrapping token: %w", err)
	}
	defer a.forget()
	if !a.ok() {
		return errUsedUp
	}
	var made struct {
		Path string `json:"creation_path"`
	}
	if err := a.data(&made); err != nil || !makesSecretIDs(c.config.Auth.Mount, made.Path) {
		return c.refusedWrapping("what the wrapping token in secret_id_file holds was not made by " + secretIDPath(c.config.Auth.Mount, "ROLE") +
			": somebody may have read the secret id and put this there instead. It was not unwrapped. Find out who wrote the file, destroy the secret id, and put the wrapping token of a new one there")
	}
	return nil
}

func secretIDPath(mount, role string) string { return "auth/" + mount + "/role/" + role + "/secret-id" }

// makesSecretIDs reports whether path makes secret ids of a role of the mount.
func makesSecretIDs(mount, path string) bool {
	before, after, _ := strings.Cut(secretIDPath(mount, "*"), "*")
	role, ok := strings.CutPrefix(path, before)
	if !ok {
		return false
	}
	role, ok = strings.CutSuffix(role, after)
	return ok && role != "" && !strings.Contains(role, "/")
}

// unwrap uses the token up, and keeps what it stood for.
func (c *Client) unwrap(ctx context.Context, wrapping secret.Text) (secret.Text, error) {
	c.asked.Wipe()
	c.asked = kept(wrapping)
	c.entry.setToken(wrapping)
	a, err := c.entry.put(ctx, "sys/wrapping/unwrap", []byte("{}"))
	c.entry.setToken(secret.Text{})
	if err != nil {
		return secret.Text{}, fmt.Errorf("unwrap the secret id: %w", err)
	}
	defer a.forget()
	c.asked.Wipe()
	c.asked = secret.Text{}
	if !a.ok() {
		return secret.Text{}, c.usedUp(wrapping) // since it was looked up
	}
	held, _ := a.secrets("data")
	secretID, ok := textOf(held["secret_id"])
	if !ok || secretID.IsZero() {
		return secret.Text{}, c.refusedWrapping("what the wrapping token in secret_id_file held is no secret id: put the wrapping token of a new one there")
	}
	c.hold(secretID, wrapping)
	c.config.Logger.Info("secret id unwrapped")
	return secretID, nil
}

// usedUp is the error for a wrapping token that Vault does not know any more.
func (c *Client) usedUp(wrapping secret.Text) error {
	const whatToDo = " Destroy that secret id, and put the wrapping token of a new one there"
	if !wrapping.IsZero() && c.asked.Equal(wrapping) {
		return c.refusedWrapping("the wrapping token in secret_id_file was used already. This daemon sent it once and had no answer, so it may have been this daemon: else the secret id is in someone else's hands." + whatToDo)
	}
	return c.refusedWrapping("the wrapping token in secret_id_file was used already, or has expired, or is none. Used: if not by this daemon before it was restarted, the secret id is in someone else's hands." + whatToDo)
}

func (c *Client) refusedWrapping(why string) error {
	return &refusedLogin{how: fmt.Sprintf("with a wrapped secret id at %q", "auth/"+c.config.Auth.Mount), why: why}
}
