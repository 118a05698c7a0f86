package clienttest_test

import (
	"testing"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
)

// TestPrefer: two people under one clientUserId are nobody's to choose between
// but an administrator's, who may choose again.
func TestPrefer(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	app, admin := s.Client(t, s.Public), s.Client(t, s.Admin)
	const shared = user.ClientUserID("user+one@example.com")
	humans := []user.HumanID{"example-first", "example-second"}
	if c, err := admin.AdminCandidates(t.Context(), "", shared); err != nil || c.Users == nil || len(c.Users) != 0 || c.Preferred != "" {
		t.Fatalf("before anybody came: %d, %v", len(c.Users), err)
	}
	for i, human := range humans {
		if _, err := app.Exchange(t.Context(), s.NewSessionOf(clienttest.DefaultApp.ClientID, human, string(shared))); err != nil {
			t.Fatal(err)
		}
		c, err := admin.AdminCandidates(t.Context(), "", shared)
		if err != nil || len(c.Users) != i+1 || (c.Preferred == string(humans[0])) != (i == 0) {
			t.Fatalf("after %d: %d candidates, %v", i+1, len(c.Users), err)
		}
	}
	if _, err := app.UserByClientUserID(t.Context(), "", shared); client.CodeOf(err) != api.AmbiguousUser {
		t.Fatalf("undecided: %v", err)
	}
	for _, human := range []user.HumanID{humans[1], humans[0], humans[0]} {
		u, err := admin.AdminPrefer(t.Context(), clienttest.DefaultApp.ClientID, shared, human)
		if err != nil || u.HumanID != string(human) {
			t.Fatalf("prefer: %v", err)
		}
		u, err = app.UserByClientUserID(t.Context(), "", shared)
		if err != nil || u.HumanID != string(human) {
			t.Fatalf("a lookup afterwards: %v", err)
		}
		if c, err := admin.AdminCandidates(t.Context(), "", shared); err != nil || len(c.Users) != 2 || c.Preferred != string(human) {
			t.Fatalf("candidates afterwards: %v", err)
		}
	}
	if _, err := admin.AdminPrefer(t.Context(), "", shared, "example-third"); client.CodeOf(err) != api.UnknownUser {
		t.Fatalf("somebody else: %v", err)
	}
	if _, err := app.AdminPrefer(t.Context(), "", shared, humans[0]); client.CodeOf(err) != api.NotGranted {
		t.Fatalf("on the public socket: %v", err)
	}
}
