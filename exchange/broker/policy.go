package broker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// stage is how far an exchange has come; what an attempt met means something
// else in each.
type stage uint8

const (
	first     stage = iota // nothing was sent before
	later                  // attempts were made, and none of them can have taken effect
	uncertain              // an earlier attempt may have taken effect
	resumed                // found in the store after a start, which is uncertain too
	fetching               // not an exchange: a publicToken is asked for, which changes nothing at Human API
	stages
)

var stageNames = [stages]string{"first attempt", "later, nothing in doubt", "after an attempt in doubt", "resumed", "publicToken"}

// Beside the classes of exchange.Error, an attempt can meet these two before
// anything is sent.
const (
	noSecret exchange.Class = "no clientSecret" // Vault says no, or nothing is held
	notReady exchange.Class = "keys wiped"      // the tokens could not be sealed
)

// origin is what an attempt says of Human API as a whole; the breaker counts it.
type origin uint8

const (
	silent origin = iota // nothing
	up
	down
)

// rule of the retry policy: what follows when an attempt in one of the stages
// met something. It is the only place that decides this.
type rule struct {
	met    exchange.Class
	stages []stage
	origin origin

	retry    bool // else it is final
	doubt    bool // it may have taken effect: the stage is uncertain from here on
	advice   bool // the pause is at least Human API's Retry-After
	versions bool // up to versionsTried versions of the clientSecret are tried at once, before this

	// What is final ends so. A failure of "" is the kind of what was met.
	outcome user.Outcome
	failure user.Failure
	unspent bool // nothing is kept of the session token: it is good for another try
}

var (
	sure       = []stage{first, later}
	doubted    = []stage{uncertain, resumed}
	exchanging = []stage{first, later, uncertain, resumed}
	asking     = []stage{fetching}
)

var policy = []rule{
	{met: exchange.NotSent, stages: exchanging, origin: down, retry: true},
	{met: exchange.NotSent, stages: asking, origin: down, failure: user.UpstreamUnavailable},
	{met: exchange.Unknown, stages: exchanging, origin: down, retry: true, doubt: true, advice: true},
	{met: exchange.Unknown, stages: asking, origin: down, failure: user.UpstreamUnavailable},
	{met: exchange.TryLater, stages: exchanging, origin: up, retry: true, advice: true},
	{met: exchange.TryLater, stages: asking, origin: up, failure: user.UpstreamUnavailable},
	{met: exchange.Unauthorized, stages: sure, origin: up, versions: true, outcome: user.Refused, failure: user.SecretUnavailable, unspent: true},
	{met: exchange.Unauthorized, stages: doubted, origin: up, versions: true, outcome: user.IndeterminateOutcome, failure: user.ExchangeUnknown},
	{met: exchange.Unauthorized, stages: asking, origin: up, versions: true, failure: user.SecretUnavailable},
	{met: exchange.Refused, stages: sure, origin: up, outcome: user.Refused, failure: user.SessionRefused},
	{met: exchange.Refused, stages: doubted, origin: up, outcome: user.IndeterminateOutcome, failure: user.ExchangeUnknown},
	{met: exchange.Refused, stages: asking, origin: up, failure: user.UnknownUser},
	{met: exchange.Invalid, stages: sure, origin: up, outcome: user.Rejected, failure: user.UpstreamInvalid},
	{met: exchange.Invalid, stages: doubted, origin: up, outcome: user.IndeterminateOutcome, failure: user.ExchangeUnknown},
	{met: exchange.Invalid, stages: asking, origin: up, failure: user.UpstreamInvalid},
	{met: exchange.Unreadable, stages: exchanging, origin: up, outcome: user.IndeterminateOutcome, failure: user.ExchangeUnknown},
	{met: exchange.Unreadable, stages: asking, origin: up, failure: user.UpstreamInvalid},
	{met: noSecret, stages: sure, outcome: user.Unsent, unspent: true},
	{met: noSecret, stages: doubted, retry: true},
	{met: noSecret, stages: asking},
	{met: notReady, stages: []stage{first}, outcome: user.Unsent, unspent: true},
	{met: notReady, stages: []stage{later, uncertain, resumed}, retry: true},
}

// limit of the trying in a stage, and the end when it passes.
type limit struct {
	long    bool   // give_up instead of deadline
	key     string // of the configuration
	outcome user.Outcome
	failure user.Failure
}

var limits = [stages]limit{
	first:     {false, "[exchange] deadline", user.Unsent, user.UpstreamUnavailable},
	later:     {false, "[exchange] deadline", user.Unsent, user.UpstreamUnavailable},
	uncertain: {true, "[exchange] give_up", user.IndeterminateOutcome, user.ExchangeUnknown},
	resumed:   {true, "[exchange] give_up", user.IndeterminateOutcome, user.ExchangeUnknown},
}

// ruleFor finds the one rule for what was met in a stage. A class that is not
// in the table is taken as "may have taken effect".
func ruleFor(met exchange.Class, s stage) rule {
	for _, r := range policy {
		if r.met == met && slices.Contains(r.stages, s) {
			return r
		}
	}
	return ruleFor(exchange.Unknown, s)
}

// PolicyRow is one row of the retry table, in words, for the documentation. A
// pause and a limit stand only where something is tried again; "" is none.
type PolicyRow struct {
	Met     string // an exchange.Class, or what was missing before anything was sent
	Stage   string // how far the exchange had come
	Then    string // "again", or "final"
	Until   string // the key of the configuration whose time bounds the trying
	Pause   string // between attempts
	Outcome string // of the exchange: at once where final, else when the time is up
	Failure string // the kind of error that callers get then
	Origin  string // what it says to the breaker: "up", "down" (with its exception), or ""
}

// Policy returns the whole retry policy, which is the table that the broker is
// driven by, in a fixed order. The numbers in it are the defaults. A publicToken
// that somebody waits for is asked for once; for a user in doubt, whom nobody
// waits for, what is unavailable is asked for again as after "not sent", for
// [exchange] give_up.
func Policy() (rows []PolicyRow) {
	for _, r := range policy {
		rows = append(rows, r.row())
	}
	return rows
}

func (r rule) row() PolicyRow {
	var names []string
	for _, s := range r.stages {
		names = append(names, stageNames[s])
	}
	end := limits[r.stages[0]]
	if r.doubt {
		end = limits[uncertain]
	}
	row := PolicyRow{
		Met: string(r.met), Stage: strings.Join(names, "; "), Then: "final",
		Outcome: string(r.outcome), Failure: string(r.failure), Origin: [...]string{"", "up", "down"}[r.origin],
	}
	if r.retry {
		row.Then, row.Until, row.Pause = "again", end.key, r.pause()
		row.Outcome, row.Failure = string(end.outcome), string(end.failure)
		if !r.doubt && slices.Contains(r.stages, uncertain) && slices.Contains(r.stages, later) {
			row.Until += "; in doubt " + limits[uncertain].key
			row.Outcome += "; in doubt " + string(limits[uncertain].outcome)
			row.Failure += "; in doubt " + string(limits[uncertain].failure)
		}
	}
	if r.versions {
		row.Then = fmt.Sprintf("at once with another version of the clientSecret, %d in all; then final", versionsTried)
	}
	if r.met == exchange.Unknown {
		row.Origin += "; up with a 3xx or 4xx" // originOf
	}
	if row.Failure == "" {
		row.Failure = "as Vault's state is"
	}
	return row
}

func (r rule) pause() string {
	text := fmt.Sprintf("%s doubling to %s, half of it random", defaultBackoff.First, defaultBackoff.Max)
	if r.advice {
		text += ", and at least Retry-After"
	}
	return text
}
