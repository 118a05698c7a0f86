package config

// Config is the whole file. Its comments are the reference manual: `tokenvault
// config describe` prints them with each key's default. A comment's first words
// after the unit say what the key does; "required" means that there is no
// default. A value that weakens something has "unsafe" in its name.
type Config struct {
	// Names the store: its entry in Vault, its logs, its metrics. One per fleet.
	// Lower-case letters, digits, '.', '_' and '-', at most 64.
	Instance string `toml:"instance"`
	// Duration. How long requests in flight may take to finish after SIGTERM,
	// before they are cut off.
	DrainTimeout Duration `toml:"drain_timeout"`
	// Required, one per Human API application. Also in conf.d/*.toml.
	Apps []App `toml:"app"`
	// Required. A Unix socket with a ceiling: no caller gets more through it,
	// whatever the rules say.
	Listeners []Listener `toml:"listener"`
	// Who may do what. No rule, no rights; rules only ever add. Also in conf.d/*.toml.
	Rules []Rule `toml:"rule"`
	// HashiCorp Vault, which holds the clientSecrets and wraps the store's keys.
	Vault Vault `toml:"vault"`
	// Human API. Pinned origins: nothing else is ever dialled.
	HumanAPI HumanAPI `toml:"humanapi"`
	// The life of an exchange.
	Exchange Exchange `toml:"exchange"`
	// The sealed records.
	Store Store `toml:"store"`
	// The audit log.
	Audit Audit `toml:"audit"`
	// Bounds that hold before any expensive work.
	Limits Limits `toml:"limits"`
	// Metrics for scrapers.
	Metrics Metrics `toml:"metrics"`
	// The daemon's own log, on stderr.
	Log Log `toml:"log"`
	// Confinement of the daemon by itself.
	Sandbox Sandbox `toml:"sandbox"`

	where places
}

// App is one Human API application.
type App struct {
	// Required. Used in rules and in the audit log; unique.
	Name string `toml:"name"`
	// Required. The application's clientId at Human API; unique. It is also the
	// name of its entry below vault.apps_path.
	ClientID string `toml:"client_id"`
	// Exchanges must state whose they are, in the header X-Client-User-Id.
	RequireClientUserID bool `toml:"require_client_user_id"`
}

// Listener is one Unix socket. The names public, private and admin have the
// defaults of the reference configuration; another name must say its ceiling.
type Listener struct {
	// Required. Also the FileDescriptorName= of its systemd socket; unique. On
	// the listener named "admin" uid 0, when not contained, has all of the ceiling.
	Name string `toml:"name"`
	// Absolute path, at most 107 bytes, in a directory of its own (a container is
	// given one of them). Default: /run/tokenvault/NAME/api.sock. Under socket
	// activation it must agree with the socket unit.
	Path string `toml:"path"`
	// Group that owns the socket, a name from /etc/group or a number; "" is the
	// daemon's own. Default: tokenvault-NAME for public, private and admin, else "".
	Group Account `toml:"group"`
	// Octal, in quotes. Default: "0660".
	Mode Mode `toml:"mode"`
	// The most that any caller gets here. Client grants: exchange, public-token,
	// lookup, connect-session, connect-id, webhook, proxy, access-token, forget.
	// Admin grants: metrics, admin-read, admin. One listener has grants of one
	// kind. Default for public: all client grants without proxy, access-token and
	// forget; for private: all client grants; for admin: all admin grants.
	Ceiling []string `toml:"ceiling"`

	gid int // resolved Group; -1: the daemon's own
}

// Rule gives rights. A request is allowed when one rule, alone, matches the
// caller and has the app, the grant and (for proxy) the path, and the socket's
// ceiling has the grant.
type Rule struct {
	// Required. Stands in the audit log; unique.
	Name string `toml:"name"`
	// Names from /etc/passwd, or numbers. Any may match. Empty: no condition.
	Users []Account `toml:"users"`
	// Names from /etc/group, or numbers; primary or supplementary. Any may match.
	// Empty: no condition.
	Groups []Account `toml:"groups"`
	// System units, such as "shop.service" or "shop@*.service". Any may match. What a
	// user's own service manager runs is user@UID.service. Before Linux 6.5 a unit is
	// read without proof: then access-token and proxy need users or groups beside
	// it. Empty: no condition.
	Units []string `toml:"units"`
	// Also callers inside a container. They have no admin rights in any case.
	Contained bool `toml:"contained"`
	// Names of [[app]] entries. May be empty when all grants are admin grants.
	Apps []string `toml:"apps"`
	// Required. See listener.ceiling for the names. Grants do not imply one another.
	Grants []string `toml:"grants"`
	// For the grant proxy: data API paths, which begin with "/"; "*" within a
	// segment, "**" across. Required with it, refused without.
	Paths []string `toml:"paths"`
	// A bucket per rule and uid. Left out: no limit beyond [limits].
	Rate Rate `toml:"rate"`

	uids, gids []uint32 // resolved Users and Groups
}

// Rate is a token bucket.
type Rate struct {
	// Required in a rate, above 0. Requests a second.
	PerSecond float64 `toml:"per_second"`
	// Requests at once. Default: per_second, rounded up.
	Burst int `toml:"burst"`
}

// Vault is the connection to HashiCorp Vault.
type Vault struct {
	// Required. https://HOST[:PORT]; http only with unsafe_plain_http, and to a
	// loopback address.
	Address string `toml:"address"`
	// Allows http in address, to a loopback address: for tests and try-outs.
	UnsafePlainHTTP bool `toml:"unsafe_plain_http"`
	// Vault Enterprise namespace. "": none.
	Namespace string `toml:"namespace"`
	// PEM file with the authorities that may sign Vault's certificate. "": the system's.
	CAFile string `toml:"ca_file"`
	// Name that Vault's certificate must have. "": the host of address.
	TLSServerName string `toml:"tls_server_name"`
	// "sha256/BASE64" of public keys (RFC 7469 section 2.4): the certificate chain
	// must have one of them. Empty: no pin.
	Pins []string `toml:"pins"`
	// Duration. For one request.
	Timeout Duration `toml:"timeout"`
	// Mount of the KV v2 engine.
	KVMount string `toml:"kv_mount"`
	// The entry apps_path/CLIENT_ID below kv_mount holds clientSecret and, optionally, appKey.
	AppsPath string `toml:"apps_path"`
	// The entry state_path/INSTANCE below kv_mount is the rollback anchor.
	StatePath string `toml:"state_path"`
	// Mount of the Transit engine.
	TransitMount string `toml:"transit_mount"`
	// The Transit key that wraps the store's keys: aes256-gcm96, derived, not exportable.
	TransitKey string `toml:"transit_key"`
	// Duration. How long to go on from memory when Vault cannot be reached.
	MaxStale Duration `toml:"max_stale"`
	// Duration. How long a rotated clientSecret's predecessor may still be tried.
	SecretOverlap Duration `toml:"secret_overlap"`
	// How the daemon logs in.
	Auth VaultAuth `toml:"auth"`
}

// VaultAuth is the daemon's login at Vault. Secrets stand in files: regular, at
// most 64 KiB, owned by root or the daemon's user, not world-readable. A leading
// $CREDENTIALS_DIRECTORY is expanded; outside the service
// /run/credentials/tokenvault.service is tried.
type VaultAuth struct {
	// "approle", "token", "cert", "jwt" or "kubernetes".
	Method string `toml:"method"`
	// Mount of the auth method. Default: the method's name.
	Mount string `toml:"mount"`
	// File with the role id, for approle.
	RoleIDFile string `toml:"role_id_file"`
	// File with the secret id, for approle.
	SecretIDFile string `toml:"secret_id_file"`
	// secret_id_file holds a response-wrapping token: where it was made is checked,
	// then it is unwrapped, once. What it gave is kept in memory only; see
	// sandbox.restart_memory for what a restart needs.
	Wrapped bool `toml:"wrapped"`
	// File with a Vault token, for token.
	TokenFile string `toml:"token_file"`
	// Role. Required for jwt and kubernetes; for cert "" tries all that match.
	Role string `toml:"role"`
	// File with a JWT, read anew at each login: required for jwt. Default for
	// kubernetes: where the service account's is mounted.
	JWTFile string `toml:"jwt_file"`
	// PEM file with the client certificate, for cert.
	CertFile string `toml:"cert_file"`
	// PEM file with its key, for cert.
	KeyFile string `toml:"key_file"`
}

// HumanAPI is the connection to Human API. The environment's proxy settings are
// ignored.
type HumanAPI struct {
	// Origin of the token endpoints.
	UserURL string `toml:"user_url"`
	// Origin of the newer flow. BUG: nothing uses it in this version.
	AuthURL string `toml:"auth_url"`
	// Origin of the data API. BUG: nothing uses it in this version.
	DataURL string `toml:"data_url"`
	// Allows http in the origins, to a loopback address: for tests and try-outs.
	UnsafePlainHTTP bool `toml:"unsafe_plain_http"`
	// Duration. One attempt.
	Timeout Duration `toml:"timeout"`
	// PEM file with the authorities that may sign. "": the system's.
	CAFile string `toml:"ca_file"`
	// "sha256/BASE64" of public keys (RFC 7469 section 2.4): the certificate chain
	// must have one of them. Empty: no pin.
	Pins []string `toml:"pins"`
	// Allows names in the origins that resolve to loopback, private or link-local
	// addresses: for a relay of your own. Without it such an answer of the name
	// service is refused. Addresses in the origins are taken as they are.
	UnsafePrivateAddresses bool `toml:"unsafe_private_addresses"`
	// http:// or https:// URL of a proxy, which then resolves the names. "": none.
	ProxyURL string `toml:"proxy_url"`
}

// Exchange is about the finish events.
type Exchange struct {
	// Duration. How long a caller waits for an answer.
	Deadline Duration `toml:"deadline"`
	// Duration. How long the daemon itself keeps trying; not shorter than deadline.
	GiveUp Duration `toml:"give_up"`
	// Duration. How long a repeated session token is recognised.
	ReplayWindow Duration `toml:"replay_window"`
}

// Store is where the sealed records are.
type Store struct {
	// "bolt": a file. BUG: "postgres" is refused by this version.
	Backend string `toml:"backend"`
	// Absolute path of the file, for bolt.
	Path string `toml:"path"`
	// File with the connection string, for postgres.
	DSNFile string `toml:"dsn_file"`
	// Size. Disk that stays allocated to the store, for exchanges that were begun:
	// new ones are refused once it can no longer be kept. 0: none.
	Reserve Size `toml:"reserve"`
}

// Audit is the hash-chained, signed log.
type Audit struct {
	// Absolute path of the current segment; rotated ones stand beside it.
	Path string `toml:"path"`
	// Grants whose outcome is on disk (fsync) before the answer; the rest is
	// written before it.
	Durable []string `toml:"durable"`
	// When the disk, and the reserve, are used up. "refuse": what cannot be
	// recorded is not done. "unsafe-unrecorded-lookups": lookups of public parts
	// go on, and how many is recorded once there is room again.
	WhenFull string `toml:"when_full"`
	// Size. Disk that stays allocated to the log, for lines on a full disk. 0: none.
	Reserve Size `toml:"reserve"`
	// Size. A segment is closed when it is this large; at least 1MiB.
	RotateSize Size `toml:"rotate_size"`
	// Also send the lines to journald. The file stays what counts: what journald does
	// not take in time is counted and left out there.
	Journald bool `toml:"journald"`
}

// Limits bound what callers can take.
type Limits struct {
	// Connections at once, over all sockets.
	Connections int `toml:"connections"`
	// Connections at once of one uid.
	ConnectionsPerUID int `toml:"connections_per_uid"`
	// Requests at once of one uid.
	InFlightPerUID int `toml:"in_flight_per_uid"`
	// Size. Of the audit log, a second and uid, for granted requests, and 64 times as
	// much at once; from 64KiB to 1GiB. A lookup's line takes some 470 bytes, an
	// exchange's two 1000: the default is 2,200 lookups a second, behind 142,000 at
	// any speed. Beyond it requests are refused (429, Retry-After) before anything is
	// done. It is what one uid alone can fill the disk with: 3.6 GiB an hour.
	AuditPerUID Size `toml:"audit_per_uid"`
	// Size. Of a request's body.
	Body Size `toml:"body"`
	// Size. Of a request's head.
	Header Size `toml:"header"`
	// Duration. For a request's head to arrive.
	HeaderTimeout Duration `toml:"header_timeout"`
	// Duration. For a request's body to arrive.
	BodyTimeout Duration `toml:"body_timeout"`
}

// Metrics is for scrapers that cannot use the admin socket.
type Metrics struct {
	// A loopback address. "": none. BUG: refused by this version.
	UnsafeListen string `toml:"unsafe_listen"`
}

// Log is the daemon's own log.
type Log struct {
	// "debug", "info", "warn" or "error". Debug shows no more secrets than info.
	Level string `toml:"level"`
	// "auto" (text on a terminal, else JSON), "text" or "json".
	Format string `toml:"format"`
}

// Sandbox is what the daemon takes from itself after start.
type Sandbox struct {
	// Landlock(7) and seccomp(2), derived from this file: which files, TCP ports and
	// system calls the daemon may use from then on. "auto": what the kernel has.
	// "require": the daemon does not start when a part is missing, and names it.
	// "off": none. The service unit's hardening is apart from this.
	Mode string `toml:"mode"`
	// Survive a restart during an outage of Vault, or after a wrapped secret id was
	// used: keys, clientSecrets and Vault's token stay in memory that systemd keeps
	// (FileDescriptorStoreMax=), and only until the next reboot. "auto": in a
	// memfd_secret(2), which not even root reads from outside, else not at all.
	// "unsafe-memfd": where the kernel has none, in plain memory, which root can
	// read. "off": not at all.
	RestartMemory string `toml:"restart_memory"`
}
