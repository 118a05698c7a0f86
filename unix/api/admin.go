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
	OK       bool           `json:"ok"`
	Counts   map[string]int `json:"counts"`   // rows by table
	Problems []string       `json:"problems"` // at most 100, without ids in clear; empty, never null
	Omitted  int            `json:"omitted"`  // problems beyond those
}
