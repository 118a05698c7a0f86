package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
)

var twoApps = []policy.App{{Name: "shop", ClientID: "id-of-shop"}, {Name: "gym", ClientID: "id-of-gym"}}

// startBoth is a real server with two apps, and a runner of command lines that
// ask its admin socket.
func startBoth(t *testing.T) (*clienttest.Server, func(status int, stdin string, args ...string) result) {
	t.Helper()
	uid := uint32(os.Getuid())
	s := clienttest.Start(t, clienttest.Config{Apps: twoApps, Rules: []policy.Rule{
		{Name: "app", Users: []uint32{uid}, Contained: true, Apps: twoApps, Grants: []api.Grant{api.GrantExchange, api.GrantLookup}},
		{Name: "ops", Users: []uint32{uid}, Grants: clienttest.Ceilings()[policy.AdminListener]},
	}})
	return s, func(status int, stdin string, args ...string) result {
		t.Helper()
		r := invoke(t, nil, stdin, append([]string{args[0], args[1], "--socket", s.Admin}, args[2:]...)...)
		if r.status != status {
			t.Errorf("%q: exit %d, want %d; stdout %q, stderr %q", args, r.status, status, r.stdout, r.stderr)
		}
		return r
	}
}

func usersOf(t *testing.T, r result) []api.User {
	t.Helper()
	var u api.Users
	if err := json.Unmarshal([]byte(r.stdout), &u); err != nil || u.Users == nil {
		t.Errorf("%q: %v", r.stdout, err)
	}
	return u.Users
}

func TestUsersList(t *testing.T) {
	s, run := startBoth(t)
	for _, app := range twoApps {
		o := s.NewSessionOf(app.ClientID, user.HumanID("human-of-"+app.Name), "u@example.com")
		in, err := s.Store.Begin(t.Context(), user.Intent{
			RequestID: "r", Rule: "app", ClientID: app.ClientID, HumanID: o.HumanID, SessionToken: o.SessionToken, ReceivedAt: time.Now(), Incarnation: 1,
		})
		if err == nil {
			err = s.Store.Finish(t.Context(), in, user.IndeterminateOutcome, user.ExchangeUnknown)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, 2}, {[]string{"--app", "shop"}, 1}, {[]string{"--client-id", "id-of-gym"}, 1},
	} {
		list := usersOf(t, run(exitOK, "", append([]string{"users", "list", "--state", "indeterminate", "--json"}, c.args...)...))
		if len(list) != c.want || list[0].State != "indeterminate" {
			t.Errorf("%q: %d users", c.args, len(list))
		}
	}
	r := run(exitOK, "", "users", "list", "--state", "indeterminate")
	if lines := strings.Split(r.stdout, "\n"); len(lines) != 4 || !strings.HasPrefix(lines[0], "HUMAN ID") || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{
		{"users", "list"}, {"users", "list", "--state", "active"}, {"users", "list", "--state", "ambiguous"},
		{"users", "list", "--state", "indeterminate", "--app", "spa"},
		{"users", "list", "--state", "indeterminate", "--app", "shop", "--client-id", "id-of-gym"},
	} {
		run(exitUsage, "", args...)
	}
	run(exitDenied, "", "users", "list", "--state", "indeterminate", "--client-id", "id-of-spa")
	if list := usersOf(t, run(exitOK, "", "users", "show", "--app", "gym", "--json", "human-of-gym")); len(list) != 1 {
		t.Errorf("%d users", len(list))
	}
}

// TestUsersPrefer: both are shown before anybody is asked.
func TestUsersPrefer(t *testing.T) {
	s, run := startBoth(t)
	app := s.Client(t, s.Public)
	for _, human := range []user.HumanID{"human-one", "human-two"} {
		if _, err := app.Exchange(t.Context(), s.NewSessionOf("id-of-shop", human, "shared@example.com")); err != nil {
			t.Fatal(err)
		}
	}
	prefer := func(more ...string) []string {
		return append([]string{"users", "prefer", "--client-user-id", "shared@example.com"}, more...)
	}
	r := run(exitFailed, "no\n", prefer("--app", "shop", "human-two")...)
	if r.stdout != "" || !strings.Contains(r.stderr, "human-one") || !strings.Contains(r.stderr, "not confirmed") {
		t.Errorf("%+v", r)
	}
	for line := range strings.Lines(r.stderr) {
		if strings.HasPrefix(line, "human-") && strings.Contains(line, "to be preferred") != strings.HasPrefix(line, "human-two") {
			t.Errorf("%q", line)
		}
	}
	r = run(exitFailed, "", "users", "show", "--app", "shop", "--client-user-id", "shared@example.com")
	if !strings.Contains(r.stderr, "hint: tokenvault users prefer") {
		t.Errorf("undecided: %+v", r)
	}
	if list := usersOf(t, run(exitOK, "yes\n", prefer("--app", "shop", "--json", "human-two")...)); len(list) != 1 || list[0].HumanID != "human-two" {
		t.Errorf("%d users", len(list))
	}
	r = run(exitOK, "human-one", prefer("--client-id", "id-of-shop", "--yes", "-")...)
	if !strings.Contains(r.stderr, "preferred now") || strings.Contains(r.stderr, "[yes/no]") {
		t.Errorf("%+v", r)
	}
	if list := usersOf(t, run(exitOK, "", "users", "show", "--app", "shop", "--json", "--client-user-id", "shared@example.com")); len(list) != 1 || list[0].HumanID != "human-one" {
		t.Errorf("%d users", len(list))
	}
	for _, c := range []struct {
		status int
		args   []string
	}{
		{exitFailed, prefer("--app", "shop", "--yes", "human-three")}, {exitFailed, prefer("--app", "gym", "--yes", "human-one")},
		{exitFailed, prefer("--yes", "human-one")}, // which app?
		{exitUsage, prefer()}, {exitUsage, []string{"users", "prefer", "human-one"}}, {exitUsage, prefer("-")},
		{exitUsage, []string{"users", "prefer", "--yes", "--client-user-id", "-", "-"}}, {exitUsage, prefer("--yes", "-")},
	} {
		if r := run(c.status, "", c.args...); strings.Contains(strings.ReplaceAll(r.stderr, "shared@example.com ", ""), "human-three") {
			t.Errorf("%q: an error names a user", c.args)
		}
	}
}
