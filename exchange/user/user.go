// Package user declares what the four boundaries share about the users of an
// app: ids as types, the record of a user, the intent of an exchange, and the
// closed sets of outcomes and failure kinds.
//
// It has no behaviour and trusts nothing: whoever fills these values has
// checked them. It never carries a JSON tag; each wire has types of its own.
package user

import (
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// ClientID names an app at Human API (40 hex digits in the wild, opaque to us).
type ClientID string

// HumanID is Human API's id of a user, valid for one ClientID. It is personal
// data: it stands in no log and in no file in clear.
type HumanID string

// ClientUserID is the app's own id of a user, often an e-mail address. Personal
// data like HumanID. Compared byte by byte, never normalised.
type ClientUserID string

// PublicToken opens Human Connect in edit mode. It reads no health data.
type PublicToken string

// RequestID is ours, made for every request, and stands in the audit log.
type RequestID string

// State says how far the tokens of a user can be relied on.
type State string

const (
	// Active: the tokens are those of the last finish event that we know of.
	Active State = "active"
	// Indeterminate: a later exchange may have replaced the tokens at Human
	// API without an answer reaching us. The next finish event repairs it.
	Indeterminate State = "indeterminate"
)

// Public is the part of a record that less-privileged callers may see.
type Public struct {
	ClientID     ClientID
	HumanID      HumanID
	ClientUserID ClientUserID // "" when Human API never said one
	PublicToken  PublicToken  // "" when unknown: it can be fetched
	State        State
	CreatedAt    time.Time // UTC, whole seconds
	UpdatedAt    time.Time // UTC, whole seconds
	// Arrival is the arrival number of the exchange that these tokens came
	// from; 0 when they came from none (a fetched publicToken).
	Arrival uint64
}

// Private is the part that reads health data.
type Private struct {
	AccessToken secret.Text // empty when there is none
	ExpiresAt   time.Time   // zero: no expiry known
}

// Record is a user's row.
type Record struct {
	Public
	Private
}

// Intent is what is needed to go on with an exchange after a crash.
type Intent struct {
	RequestID    RequestID // of the request that brought it
	Rule         string    // the rule that allowed it
	ClientID     ClientID
	HumanID      HumanID // claimed by the caller, until Human API confirms it
	SessionToken secret.Text
	// Expected is the clientUserId that the app's server demands; ExpectedSet
	// tells an expected "" (which is refused earlier) from none.
	Expected    ClientUserID
	ExpectedSet bool
	// BodyUserID is the clientUserId of the body, which must agree with the answer.
	BodyUserID    ClientUserID
	BodyUserIDSet bool
	ReceivedAt    time.Time
	// Incarnation of the store that took it: one of another is never sent.
	Incarnation uint64
	// Arrival is given by the store, in the transaction that writes the intent.
	// It grows, and orders the exchanges of one user.
	Arrival uint64
}

// Session is what a finished exchange leaves behind for the replay window.
type Session struct {
	Outcome Outcome
	// Failure is why it was refused or rejected, "" otherwise.
	Failure    Failure
	FinishedAt time.Time
	// SameUser reports whether the session belongs to the humanId that was asked
	// with; of another user nothing more is told.
	SameUser bool
	// Pending: there is an intent and no outcome yet. Outcome is "".
	Pending bool
}

// Exchange is one finish event on its way in: a sessionTokenObject and what the
// server has found out about the caller.
type Exchange struct {
	RequestID    RequestID
	Rule         string
	ClientID     ClientID
	HumanID      HumanID
	SessionToken secret.Text
	Expected     ClientUserID // from X-Client-User-Id
	ExpectedSet  bool
	// BodyUserID is a clientUserId found in the body. It comes from the browser
	// and proves nothing, but it must agree with the answer.
	BodyUserID    ClientUserID
	BodyUserIDSet bool
}

// Result is what an exchange is answered with.
type Result struct {
	Public
	Outcome  Outcome
	Replayed bool // answered from the store: Human API was not asked
}

// ClientSecret is one version of an app's secret.
type ClientSecret struct {
	Text    secret.Text
	Version int // of the KV v2 entry in Vault, from 1
}

// Outcome is how an exchange ended. The set is closed.
type Outcome string

const (
	// Stored: answered, checked, committed.
	Stored Outcome = "stored"
	// Refused: a final 4xx, and no earlier attempt can have taken effect.
	Refused Outcome = "refused"
	// Unsent: given up before anything was sent. The session token is unspent.
	Unsent Outcome = "unsent"
	// Rejected: answered, but the answer does not fit. Nothing was stored, and it
	// is never repeated.
	Rejected Outcome = "rejected"
	// Superseded: a later arrival of the same user was committed before.
	Superseded Outcome = "superseded"
	// IndeterminateOutcome: everything else. It may have taken effect at Human
	// API and its tokens are not here.
	IndeterminateOutcome Outcome = "indeterminate"
)

// Outcomes lists the closed set.
var Outcomes = []Outcome{Stored, Refused, Unsent, Rejected, Superseded, IndeterminateOutcome}
