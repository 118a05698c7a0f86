// Package api declares what crosses the daemon's Unix sockets: grant names,
// error codes, wire types and header names. openapi.yaml beside it says the
// same for other languages; a test holds the server to both.
//
// It has no behaviour beyond parsing names, trusts nothing, and never holds a
// secret: the one type that carries an access token holds it as plain text on
// its way out, and prints as "[secret]" nowhere, so it is built at the last
// moment and never logged.
package api

import "time"

// Grant is a right. Grants do not imply one another.
type Grant string

const (
	GrantExchange       Grant = "exchange"        // POST /v1/connect/tokens
	GrantPublicToken    Grant = "public-token"    // POST /v1/connect/publictokens
	GrantLookup         Grant = "lookup"          // GET /v1/users…
	GrantConnectSession Grant = "connect-session" // POST /v1/connect/token, type session
	GrantConnectID      Grant = "connect-id"      // POST /v1/connect/token, type id
	GrantWebhook        Grant = "webhook"         // POST /v1/webhooks/verify
	GrantProxy          Grant = "proxy"           // GET /v1/human/…
	GrantAccessToken    Grant = "access-token"    // GET /v1/users/{humanId}/access-token
	GrantForget         Grant = "forget"          // DELETE /v1/users/{humanId}
	GrantMetrics        Grant = "metrics"         // GET /metrics
	GrantAdminRead      Grant = "admin-read"      // GET /v1/admin/…
	GrantAdmin          Grant = "admin"           // POST /v1/admin/…
)

// Grants lists the closed set, client grants first.
var Grants = []Grant{GrantExchange, GrantPublicToken, GrantLookup, GrantConnectSession, GrantConnectID,
	GrantWebhook, GrantProxy, GrantAccessToken, GrantForget, GrantMetrics, GrantAdminRead, GrantAdmin}

// IsAdmin reports whether g is a right of the admin socket.
func (g Grant) IsAdmin() bool { return g == GrantMetrics || g == GrantAdminRead || g == GrantAdmin }

// Header names of our own.
const (
	HeaderClientUserID = "X-Client-User-Id" // percent-encoded UTF-8; set by the app's server from its own login
	HeaderHumanID      = "X-Human-Id"
	HeaderClientID     = "X-Client-Id"
	HeaderRequestID    = "X-Request-Id" // on every answer, ours; one that comes in is ignored
)

// Error is the body of every answer that is not a success.
type Error struct {
	StatusCode int    `json:"statusCode"` // the HTTP status again, as Human API's own errors have it
	Code       Code   `json:"error"`
	Message    string `json:"message"` // for people: what happened and what to do
	RequestID  string `json:"requestId"`
}

// Tokens answers POST /v1/connect/tokens. It never has an accessToken.
type Tokens struct {
	HumanID      string `json:"humanId"`
	PublicToken  string `json:"publicToken"`
	ClientID     string `json:"clientId"`
	ClientUserID string `json:"clientUserId"` // "" when Human API never said one
}

// PublicToken answers POST /v1/connect/publictokens.
type PublicToken struct {
	HumanID     string `json:"humanId"`
	PublicToken string `json:"publicToken"`
}

// User answers GET /v1/users/{humanId}.
type User struct {
	HumanID      string    `json:"humanId"`
	PublicToken  string    `json:"publicToken"` // "" when unknown: POST publictokens fetches it
	ClientID     string    `json:"clientId"`
	ClientUserID string    `json:"clientUserId"`
	State        string    `json:"state"` // active, indeterminate
	CreatedAt    time.Time `json:"createdAt"`
	UpdatedAt    time.Time `json:"updatedAt"`
}

// Users answers GET /v1/users.
type Users struct {
	Users []User `json:"users"` // empty, never null
}

// AccessToken answers GET /v1/users/{humanId}/access-token, and nothing else does.
type AccessToken struct {
	HumanID     string     `json:"humanId"`
	AccessToken string     `json:"accessToken"`
	ExpiresAt   *time.Time `json:"expiresAt,omitempty"`
}

// WhoAmI answers GET /v1/whoami: who the kernel says the caller is.
type WhoAmI struct {
	UID       uint32   `json:"uid"`
	User      string   `json:"user,omitempty"` // from /etc/passwd, when it is there
	GID       uint32   `json:"gid"`
	Groups    []uint32 `json:"groups"` // supplementary
	PID       int32    `json:"pid"`    // as the daemon sees it; 0: outside its pid namespace
	Unit      string   `json:"unit,omitempty"`
	Contained bool     `json:"contained"`
	Proven    bool     `json:"proven"` // unit and contained are beyond doubt: the kernel can prove them from Linux 6.5
	Listener  string   `json:"listener"`
	Rights    []Right  `json:"rights"` // empty, never null
	Version   string   `json:"version"`
}

// Right is one rule that matches the caller on this socket.
type Right struct {
	Rule   string   `json:"rule"`
	Apps   []string `json:"apps"`   // names
	Grants []Grant  `json:"grants"` // those that the socket's ceiling leaves
	Paths  []string `json:"paths,omitempty"`
}

// Health answers GET /v1/health: 200 when ready, else 503.
type Health struct {
	Ready    bool     `json:"ready"`    // it can do its job
	Degraded bool     `json:"degraded"` // it can, but somebody should look
	Reasons  []string `json:"reasons"`  // empty, never null
}
