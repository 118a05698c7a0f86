package api

import "time"

// Status answers GET /v1/admin/status. No admin answer contains a token or a
// secret. Whoever administers some apps only sees the secrets of those, and the
// health without details; counts are always of the whole daemon.
type Status struct {
	Version   string         `json:"version"`
	Instance  string         `json:"instance"`
	StartedAt time.Time      `json:"startedAt"`
	Health    Health         `json:"health"`
	Vault     VaultStatus    `json:"vault"`
	Secrets   []SecretStatus `json:"secrets"`
	Store     StoreStatus    `json:"store"`
	Exchanges ExchangeStatus `json:"exchanges"`
	Audit     AuditStatus    `json:"audit"`
	Listeners []Listener     `json:"listeners"`
	Rollback  *Rollback      `json:"rollback,omitempty"` // there while the store waits to be accepted
	Disk      []string       `json:"disk,omitempty"`     // why disk space is low; empty: it is not
	Memory    string         `json:"memory,omitempty"`   // what outlives a restart: "kept", or why nothing does
	Breaker   string         `json:"breaker,omitempty"`  // towards Human API: "closed", "open" or "half-open"
	Sandbox   []SandboxPart  `json:"sandbox,omitempty"`  // what the process has taken from itself
	Keys      KeyMemory      `json:"keyMemory"`
}

// SandboxPart is one thing that the process takes from itself at its start.
type SandboxPart struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
	Why  string `json:"why,omitempty"` // when it is not
}

// KeyMemory is the memory that keys and long-lived secrets are kept in, outside the
// garbage-collected heap.
type KeyMemory struct {
	Locked  bool   `json:"locked"`           // never swapped, not in core dumps, guarded
	Hidden  bool   `json:"hidden"`           // not even root reads it from outside (memfd_secret)
	Bytes   int    `json:"bytes"`            // its size
	Used    int    `json:"used"`             // of it
	Spilled int    `json:"spilled"`          // secrets on the heap for want of room
	Reason  string `json:"reason,omitempty"` // why it is not all of that
}

// Rollback is why a store, log or keyring that is older than what Vault remembers
// is not served: POST /v1/admin/store/accept with Seen takes it as it is.
type Rollback struct {
	Reasons []string          `json:"reasons"`
	Seen    string            `json:"seen"`   // stands for all of this: another one when anything differs
	Anchor  map[string]string `json:"anchor"` // what Vault remembers, by name
	Store   map[string]string `json:"store"`  // what is here, under the same names
}

// VaultStatus is the daemon's relation to Vault.
type VaultStatus struct {
	Address     string     `json:"address"`
	Reachable   bool       `json:"reachable"`
	LastWord    *time.Time `json:"lastWord,omitempty"`    // when Vault last answered
	TokenExpiry *time.Time `json:"tokenExpiry,omitempty"` // of the daemon's own token
	Reason      string     `json:"reason,omitempty"`      // why it is not reachable, in our words
}

// SecretStatus is the clientSecret of one app, without the secret.
type SecretStatus struct {
	App       string     `json:"app"`
	ClientID  string     `json:"clientId"`
	Version   int        `json:"version"` // of the KV v2 entry; 0: none held
	HeldSince *time.Time `json:"heldSince,omitempty"`
	Confirmed *time.Time `json:"confirmed,omitempty"` // when Vault last said that it is current
	Refused   bool       `json:"refused,omitempty"`   // by Human API, and there is no other
	Reason    string     `json:"reason,omitempty"`
}

// StoreStatus is the store at a glance.
type StoreStatus struct {
	ID          string `json:"id"` // hex of the store id; "" before it is open
	Backend     string `json:"backend"`
	Incarnation uint64 `json:"incarnation"`
	Bytes       int64  `json:"bytes"` // size of the file
}

// ExchangeStatus counts exchanges by outcome since the daemon started.
type ExchangeStatus struct {
	InFlight      int               `json:"inFlight"`
	Waiting       int               `json:"waiting"`   // of those: for their turn, or until Human API may be asked
	Uncertain     int               `json:"uncertain"` // of those: sent, and not known to have had no effect
	Resuming      int               `json:"resuming"`  // of those: taken up after a start
	Damaged       uint64            `json:"damaged"`   // left in the store since the start: a row of their user does not open
	Outcomes      map[string]uint64 `json:"outcomes"`
	Indeterminate int               `json:"indeterminate"` // users in that state now
}

// AuditStatus is the audit log at a glance.
type AuditStatus struct {
	Path      string `json:"path"`
	Sequence  uint64 `json:"sequence"`
	PublicKey string `json:"publicKey"` // hex of the Ed25519 key for audit verify --key
}

// Listener is one socket.
type Listener struct {
	Name    string  `json:"name"`
	Path    string  `json:"path"`
	Ceiling []Grant `json:"ceiling"`
}

// SecretCheck answers POST /v1/admin/secrets/check: Vault was asked just now.
type SecretCheck struct {
	Secrets []SecretStatus `json:"secrets"`
	OK      bool           `json:"ok"` // each app has one
}

// StoreCheck answers POST /v1/admin/store/check.
type StoreCheck struct {
	OK        bool           `json:"ok"`
	Counts    map[string]int `json:"counts"`    // rows by table
	States    map[string]int `json:"states"`    // users by state; every state there is has a number
	Ambiguous int            `json:"ambiguous"` // clientUserIds of two or more users, none of them preferred
	Problems  []string       `json:"problems"`  // at most 100, without ids in clear; empty, never null
	Omitted   int            `json:"omitted"`   // problems beyond those
}

// Verdict answers POST /v1/admin/reload and /v1/admin/store/accept.
type Verdict struct {
	OK      bool     `json:"ok"`
	Refused []string `json:"refused"` // why nothing was changed; empty, never null
}

// Candidates answers GET /v1/admin/users/candidates: all users under one
// clientUserId.
type Candidates struct {
	Users     []User `json:"users"`     // empty, never null
	Preferred string `json:"preferred"` // the humanId of the one that the clientUserId names; "": many, and nobody has decided
}
