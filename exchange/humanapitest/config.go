// Package humanapitest is a simulator of Human API's two token endpoints, for
// tests, for trying things out and for measuring.
//
// It is written from what is known of the real service, not from our client,
// and shares no type with it. It records every request, and it is wrong on
// purpose on demand ([Server.Misbehave]). What is not known of the real
// service is a setting: whether a session token can be used twice ([Mode]),
// what status refuses one, whether replies carry clientId and clientUserId.
//
// It trusts everybody, keeps the secrets that it is given in clear in memory,
// and makes tokens that have the length and alphabet of real ones but are
// counted, not random: it never belongs near real data.
package humanapitest

import (
	"time"
)

// Mode is what becomes of a session token that is used again.
type Mode string

const (
	// OneTime: the second use is refused. The default.
	OneTime Mode = "one-time"
	// Repeatable: each use is answered with the tokens of the first.
	Repeatable Mode = "repeatable"
	// Rotating: each use makes new tokens, which replace the user's old ones.
	Rotating Mode = "rotating"
)

// Modes lists the closed set.
var Modes = []Mode{OneTime, Repeatable, Rotating}

// Config is what a Server is made from. The zero Config has no apps.
type Config struct {
	Apps map[string]string // clientId → clientSecret
	Mode Mode              // default OneTime
	// RefusedStatus answers a session token that is unknown, used or of another
	// user. Default 400.
	RefusedStatus int
	// OmitClientID and OmitClientUserID make replies like those of older years.
	OmitClientID, OmitClientUserID bool
	// NullClientUserID says null where there is none; the default is to leave the field out.
	NullClientUserID bool
	// Keep is how many of the last requests are remembered. Default 10,000;
	// counts are kept for all.
	Keep int
	// Now stamps the records. Default time.Now.
	Now func() time.Time
}

// TB is the part of testing.TB that Start needs: importing testing itself
// would put it into programs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// The endpoints.
const (
	TokensPath       = "/v1/connect/tokens"
	PublicTokensPath = "/v1/connect/publictokens"
)
