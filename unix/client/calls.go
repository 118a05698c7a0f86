package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// SessionTokenObject is what the browser got from the popup's finish event.
type SessionTokenObject struct {
	HumanID      user.HumanID  // required
	ClientID     user.ClientID // may be "" where the caller has exactly one app
	SessionToken secret.Text   // required
	// Expected is the clientUserId of the user who is logged in, as the app's own
	// server knows it: Human API's answer must then agree. **"" EXPECTS NOTHING**:
	// whoever the session belongs to is stored. A server whose login is empty by
	// mistake must not call Exchange; the daemon refuses such a call only for apps
	// with require_client_user_id.
	Expected user.ClientUserID
}

// AccessToken reads a user's health data.
type AccessToken struct {
	HumanID   user.HumanID
	Token     secret.Text
	ExpiresAt time.Time // zero: no expiry known
}

// Exchange hands a sessionTokenObject over. A repeat of it is answered again.
func (c *Client) Exchange(ctx context.Context, o SessionTokenObject) (api.Tokens, error) {
	body := map[string]string{"humanId": string(o.HumanID), "sessionToken": string(o.SessionToken.Reveal())}
	if o.ClientID != "" {
		body["clientId"] = string(o.ClientID)
	}
	return do[api.Tokens](ctx, c, call{method: http.MethodPost, path: "/v1/connect/tokens", body: body, header: clientUser(o.Expected)})
}

// Forward hands over the browser's request body as it came, with its
// Content-Type ("" is JSON; a form will do): the daemon reads it strictly, and
// refuses one that holds a secret. expected is as in SessionTokenObject, and
// "" EXPECTS NOTHING there too.
func (c *Client) Forward(ctx context.Context, body []byte, contentType string, expected user.ClientUserID) (api.Tokens, error) {
	header := clientUser(expected)
	if contentType != "" {
		if header == nil {
			header = http.Header{}
		}
		header.Set("Content-Type", contentType)
	}
	return do[api.Tokens](ctx, c, call{method: http.MethodPost, path: "/v1/connect/tokens", raw: body, header: header})
}

// PublicToken returns a user's publicToken, which is fetched from Human API
// when the store has none. clientID may be "" where the caller has exactly one
// app; so it may in every method that takes one.
func (c *Client) PublicToken(ctx context.Context, clientID user.ClientID, humanID user.HumanID) (api.PublicToken, error) {
	body := map[string]string{"humanId": string(humanID)}
	if clientID != "" {
		body["clientId"] = string(clientID)
	}
	return do[api.PublicToken](ctx, c, call{method: http.MethodPost, path: "/v1/connect/publictokens", body: body})
}

// User returns the public part of a user.
func (c *Client) User(ctx context.Context, clientID user.ClientID, humanID user.HumanID) (api.User, error) {
	return do[api.User](ctx, c, call{method: http.MethodGet, path: "/v1/users/" + url.PathEscape(string(humanID)), query: app(clientID)})
}

// UserByClientUserID returns the public part of a user by the app's own id,
// which travels in a header. An unknown one is api.UnknownUser.
func (c *Client) UserByClientUserID(ctx context.Context, clientID user.ClientID, id user.ClientUserID) (api.User, error) {
	return do[api.User](ctx, c, call{method: http.MethodGet, path: "/v1/users/-", query: app(clientID), header: clientUser(id)})
}

// UsersInState lists users whose tokens are in that state; only
// user.Indeterminate can be asked for.
func (c *Client) UsersInState(ctx context.Context, clientID user.ClientID, state user.State) ([]api.User, error) {
	q := app(clientID)
	q.Set("state", string(state))
	users, err := do[api.Users](ctx, c, call{method: http.MethodGet, path: "/v1/users", query: q})
	return users.Users, err
}

// AccessToken returns the token that reads the user's health data.
func (c *Client) AccessToken(ctx context.Context, clientID user.ClientID, humanID user.HumanID) (AccessToken, error) {
	wire, err := do[api.AccessToken](ctx, c, call{method: http.MethodGet, path: "/v1/users/" + url.PathEscape(string(humanID)) + "/access-token", query: app(clientID)})
	if err != nil {
		return AccessToken{}, err
	}
	out := AccessToken{HumanID: user.HumanID(wire.HumanID), Token: secret.FromString(wire.AccessToken)}
	if wire.ExpiresAt != nil {
		out.ExpiresAt = *wire.ExpiresAt
	}
	return out, nil
}

// WhoAmI returns what the daemon knows of this process, and its rights.
func (c *Client) WhoAmI(ctx context.Context) (api.WhoAmI, error) {
	return do[api.WhoAmI](ctx, c, call{method: http.MethodGet, path: "/v1/whoami"})
}

// Health returns the daemon's health; a daemon that is not ready is no error.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	return do[api.Health](ctx, c, call{method: http.MethodGet, path: "/v1/health", accept: http.StatusServiceUnavailable})
}

// AdminStatus returns the daemon's state; it needs the admin socket, like all
// methods with Admin in their names.
func (c *Client) AdminStatus(ctx context.Context) (api.Status, error) {
	return do[api.Status](ctx, c, call{method: http.MethodGet, path: "/v1/admin/status"})
}

// AdminSecretsCheck asks Vault for every app's clientSecret now.
func (c *Client) AdminSecretsCheck(ctx context.Context) (api.SecretCheck, error) {
	return do[api.SecretCheck](ctx, c, call{method: http.MethodPost, path: "/v1/admin/secrets/check"})
}

// AdminStoreCheck walks the whole store: give the Client a Timeout to match.
func (c *Client) AdminStoreCheck(ctx context.Context) (api.StoreCheck, error) {
	return do[api.StoreCheck](ctx, c, call{method: http.MethodPost, path: "/v1/admin/store/check"})
}

// AdminReload makes the daemon read its configuration again. A refusal is no
// error: the verdict says why.
func (c *Client) AdminReload(ctx context.Context) (api.Verdict, error) {
	return do[api.Verdict](ctx, c, call{method: http.MethodPost, path: "/v1/admin/reload"})
}

// AdminAccept makes the daemon take a store that it found to be rolled back. seen
// is the Rollback.Seen that was looked at. A refusal is no error.
func (c *Client) AdminAccept(ctx context.Context, seen string) (api.Verdict, error) {
	return do[api.Verdict](ctx, c, call{method: http.MethodPost, path: "/v1/admin/store/accept", body: map[string]string{"seen": seen}})
}

// AdminCandidates lists all users under a clientUserId; none is no error.
func (c *Client) AdminCandidates(ctx context.Context, clientID user.ClientID, id user.ClientUserID) (api.Candidates, error) {
	return do[api.Candidates](ctx, c, call{method: http.MethodGet, path: "/v1/admin/users/candidates", query: app(clientID), header: clientUser(id)})
}

// AdminPrefer makes humanID the user that the clientUserId names.
func (c *Client) AdminPrefer(ctx context.Context, clientID user.ClientID, id user.ClientUserID, humanID user.HumanID) (api.User, error) {
	body := map[string]string{"clientUserId": string(id), "humanId": string(humanID)}
	if clientID != "" {
		body["clientId"] = string(clientID)
	}
	return do[api.User](ctx, c, call{method: http.MethodPost, path: "/v1/admin/users/prefer", body: body})
}

// UserQuery names users by exactly one of HumanID, ClientUserID and State.
type UserQuery struct {
	ClientID     user.ClientID // may be "" with State, for all apps, and where there is one app
	HumanID      user.HumanID
	ClientUserID user.ClientUserID
	State        user.State
}

// AdminUser returns the public parts of the users that q names; none is no error.
func (c *Client) AdminUser(ctx context.Context, q UserQuery) ([]api.User, error) {
	query := app(q.ClientID)
	if q.HumanID != "" {
		query.Set("humanId", string(q.HumanID))
	}
	if q.State != "" {
		query.Set("state", string(q.State))
	}
	users, err := do[api.Users](ctx, c, call{method: http.MethodGet, path: "/v1/admin/users", query: query, header: clientUser(q.ClientUserID)})
	return users.Users, err
}

func app(id user.ClientID) url.Values {
	q := url.Values{}
	if id != "" {
		q.Set("clientId", string(id))
	}
	return q
}

// clientUser percent-encodes everything that a header value may not hold.
func clientUser(id user.ClientUserID) http.Header {
	if id == "" {
		return nil
	}
	return http.Header{api.HeaderClientUserID: {url.PathEscape(string(id))}}
}
