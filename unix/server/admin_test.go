package server_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

var adminApps = []policy.App{{Name: "shop", ClientID: "id-of-shop"}, {Name: "gym", ClientID: "id-of-gym"}}

// twoApps is an admin with a secret that is there and one that is not.
type twoApps struct{ worker }

func (twoApps) secrets() []api.SecretStatus {
	return []api.SecretStatus{{App: "shop", ClientID: "id-of-shop", Version: 3}, {App: "gym", ClientID: "id-of-gym", Reason: "gym has none"}}
}

func (a twoApps) Status(context.Context) api.Status {
	return api.Status{Secrets: a.secrets(), Health: api.Health{Ready: true, Degraded: true, Reasons: []string{"app gym: gym has none"}}}
}

func (a twoApps) CheckSecrets(context.Context) api.SecretCheck {
	return api.SecretCheck{Secrets: a.secrets()}
}

func (twoApps) CheckStore(context.Context) (api.StoreCheck, error) {
	return api.StoreCheck{OK: true}, nil
}

// TestAdminOfSomeApps: a rule for some apps shows those alone, in the status and
// in the check of secrets.
func TestAdminOfSomeApps(t *testing.T) {
	for _, c := range []struct {
		name   string
		apps   []policy.App // of the rule
		shown  int
		ok     bool
		reason string
	}{
		{"one app", adminApps[:1], 1, true, "a secret is missing"},
		{"the other", adminApps[1:], 1, false, "a secret is missing"},
		{"all by name", adminApps, 2, false, "app gym: gym has none"},
		{"all", nil, 2, false, "app gym: gym has none"},
	} {
		b := startBare(t, func(s *server.Config) {
			s.Admin, s.Apps = twoApps{}, adminApps
			s.Health = func() api.Health {
				return api.Health{Ready: true, Degraded: true, Reasons: []string{"a secret is missing"}}
			}
			rule := policy.Rule{Name: "ops", Users: []uint32{me()}, Contained: true, Apps: c.apps, Grants: []api.Grant{api.GrantAdminRead, api.GrantAdmin}}
			p, err := policy.New(policy.Config{Rules: []policy.Rule{rule}, Apps: adminApps, Ceilings: map[string][]api.Grant{"private": clienttest.Ceilings()[policy.AdminListener]}})
			if err != nil {
				t.Fatal(err)
			}
			s.Policy = p
		})
		b.open()
		status, check := b.get(t, "/v1/admin/status"), raw(t, b.socket, request("POST", "/v1/admin/secrets/check", ""))
		var st api.Status
		var ch api.SecretCheck
		if json.Unmarshal(status.body, &st) != nil || json.Unmarshal(check.body, &ch) != nil {
			t.Fatalf("%s: got %d and %d", c.name, status.status, check.status)
		}
		if len(st.Secrets) != c.shown || len(ch.Secrets) != c.shown || ch.OK != c.ok || !slices.Equal(st.Health.Reasons, []string{c.reason}) {
			t.Errorf("%s: %d and %d apps are shown, ok is %v, the reason is %q", c.name, len(st.Secrets), len(ch.Secrets), ch.OK, st.Health.Reasons)
		}
		if text := string(status.body) + string(check.body); c.name == "one app" && strings.Contains(text, "gym") {
			t.Errorf("%s: another app is named", c.name)
		}
	}
}
