package api

import (
	"encoding/json"
	"time"
)

// Explanation answers GET /v1/admin/policy/explain: what the rules say to one
// request. Nothing is drawn from a rule's rate, so one that is allowed here may
// be answered with 429.
type Explanation struct {
	Allowed    bool          `json:"allowed"`
	Rule       string        `json:"rule"` // that decides; "" when none does
	Listener   string        `json:"listener"`
	Grant      string        `json:"grant"`
	App        string        `json:"app"` // name; "": none, or one that does not exist
	Path       string        `json:"path,omitempty"`
	InCeiling  bool          `json:"inCeiling"` // the listener's ceiling has the grant
	Caller     CallerText    `json:"caller"`
	Rules      []RuleVerdict `json:"rules"`                // each, in the order of the file; empty, never null
	Reason     string        `json:"reason"`               // one sentence
	Suggestion string        `json:"suggestion,omitempty"` // TOML of the narrowest rule that would allow it, to review and paste
}

// CallerText is a caller as the rules see it.
type CallerText struct {
	UID       uint32   `json:"uid"`
	User      string   `json:"user,omitempty"` // from /etc/passwd, when it is there
	GID       uint32   `json:"gid"`
	Groups    []uint32 `json:"groups"` // supplementary; empty, never null
	Unit      string   `json:"unit,omitempty"`
	Contained bool     `json:"contained"`
	Proven    bool     `json:"proven"` // unit and containment are beyond doubt
}

// RuleVerdict is what one rule says.
type RuleVerdict struct {
	Rule    string   `json:"rule"`
	Matches bool     `json:"matches"`
	Failed  []string `json:"failed"` // conditions that do not hold, of Conditions; empty, never null
}

// Words for the conditions of a rule. The set is closed.
const (
	FailedUsers     = "users"
	FailedGroups    = "groups"
	FailedUnits     = "units"
	FailedContained = "contained" // the caller is in a container, and the rule or the grant is not for those
	FailedApps      = "apps"
	FailedGrants    = "grants"
	FailedPaths     = "paths"
	FailedProof     = "proof" // the rule knows its callers by their units alone, and the unit is not proven
)

// Conditions lists the words in the order in which they are reported.
var Conditions = []string{FailedUsers, FailedGroups, FailedUnits, FailedContained, FailedApps, FailedGrants, FailedPaths, FailedProof}

// WhoCan answers GET /v1/admin/policy/who-can: whoever can be allowed the grant.
type WhoCan struct {
	Grant   string   `json:"grant"`
	Holders []Holder `json:"holders"` // in the order of the file, uid 0 of the admin socket first; empty, never null
}

// Holder is one rule that gives the grant. A caller holds it who meets every
// list that is not empty, in any of its items, on any of the listeners.
type Holder struct {
	Rule      string   `json:"rule"`
	Users     []string `json:"users"`  // numbers; empty: no condition
	Groups    []string `json:"groups"` // likewise
	Units     []string `json:"units"`  // likewise, globs
	Contained bool     `json:"contained"`
	Proven    bool     `json:"proven"` // only callers whose unit is proven
	Apps      []string `json:"apps"`   // names
	Paths     []string `json:"paths"`  // for proxy; empty: it is not about paths
	Listeners []string `json:"listeners"`
}

// AuditQuery selects lines of the audit log: those of one request, those about
// one user (ClientID with HumanID or ClientUserID), or all, within times.
type AuditQuery struct {
	RequestID    string
	ClientID     string
	HumanID      string
	ClientUserID string
	Since, Until time.Time // zero: no bound; since is included, until is not
	Limit        int       // lines, 1 to MaxAuditLines
}

// Lines that GET /v1/admin/audit/find answers with: by default, and at most.
const (
	DefaultAuditLines = 1000
	MaxAuditLines     = 10000
)

// AuditLines answers GET /v1/admin/audit/find.
type AuditLines struct {
	Lines     []json.RawMessage `json:"lines"`     // as they stand in the log, oldest first; empty, never null
	Truncated bool              `json:"truncated"` // there are more than the limit
	Verified  bool              `json:"verified"`  // their chain was checked, too
}
