package config

import (
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
)

// DefaultPath is read when neither --config nor $TOKENVAULT_CONFIG names a file.
const DefaultPath = "/etc/tokenvault/tokenvault.toml"

// credentialsFallback is where systemd puts the service's credentials; used
// outside the service (systemd.exec(5), LoadCredential=).
const credentialsFallback = "/run/credentials/tokenvault.service"

// defaults returns the configuration of an empty file.
func defaults() *Config {
	return &Config{
		Instance:     "main",
		DrainTimeout: Duration(20 * time.Second),
		Vault:        defaultVault(),
		HumanAPI: HumanAPI{
			UserURL: "https://user.humanapi.co",
			AuthURL: "https://auth.humanapi.co",
			DataURL: "https://api.humanapi.co",
			Timeout: Duration(10 * time.Second),
			Pins:    []string{},
		},
		Exchange: Exchange{
			Deadline:     Duration(30 * time.Second),
			GiveUp:       Duration(time.Hour),
			ReplayWindow: Duration(168 * time.Hour),
		},
		Store: Store{Backend: "bolt", Path: "/var/lib/tokenvault/store.db", Reserve: 64 * MiB},
		Audit: Audit{
			Path:       "/var/log/tokenvault/audit.log",
			Durable:    names(api.GrantExchange, api.GrantAccessToken, api.GrantProxy, api.GrantForget, api.GrantAdmin),
			WhenFull:   "refuse",
			Reserve:    64 * MiB,
			RotateSize: 256 * MiB,
		},
		Limits: Limits{
			Connections: 2048, ConnectionsPerUID: 512, InFlightPerUID: 256,
			AuditPerUID: MiB, Body: 64 * KiB, Header: 16 * KiB,
			HeaderTimeout: Duration(5 * time.Second), BodyTimeout: Duration(10 * time.Second),
		},
		Log:     Log{Level: "info", Format: "auto"},
		Sandbox: Sandbox{Mode: "auto", RestartMemory: "auto"},
	}
}

func defaultVault() Vault {
	return Vault{
		Timeout:       Duration(5 * time.Second),
		Pins:          []string{},
		KVMount:       "secret",
		AppsPath:      "tokenvault/apps",
		StatePath:     "tokenvault/state",
		TransitMount:  "transit",
		TransitKey:    "tokenvault",
		MaxStale:      Duration(24 * time.Hour),
		SecretOverlap: Duration(time.Hour),
		Auth: VaultAuth{
			Method:       "approle",
			Mount:        "approle",
			RoleIDFile:   "/etc/tokenvault/role-id",
			SecretIDFile: credentialsVariable + "/vault-secret-id",
		},
	}
}

// wellKnown holds the ceilings of the listeners of the reference configuration.
var wellKnown = map[string][]string{
	"public": names(api.GrantExchange, api.GrantPublicToken, api.GrantLookup,
		api.GrantConnectSession, api.GrantConnectID, api.GrantWebhook),
	"private": names(api.GrantExchange, api.GrantPublicToken, api.GrantLookup,
		api.GrantConnectSession, api.GrantConnectID, api.GrantWebhook,
		api.GrantProxy, api.GrantAccessToken, api.GrantForget),
	"admin": names(api.GrantMetrics, api.GrantAdminRead, api.GrantAdmin),
}

// listenerDefaults fills what the file leaves out of a listener. said tells
// which of its keys stand in the file.
func listenerDefaults(l *Listener, said func(key string) bool) {
	ceiling, known := wellKnown[l.Name]
	if !said("path") {
		l.Path = "/run/tokenvault/" + l.Name + "/api.sock"
	}
	if !said("group") && known {
		l.Group = Account{text: "tokenvault-" + l.Name}
	}
	if !said("mode") {
		l.Mode = 0o660
	}
	if !said("ceiling") {
		l.Ceiling = ceiling
	}
}

func names(grants ...api.Grant) []string {
	out := make([]string, len(grants))
	for i, g := range grants {
		out[i] = string(g)
	}
	return out
}
