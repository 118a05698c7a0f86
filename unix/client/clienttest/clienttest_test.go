package clienttest_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
)

func TestLifeOfAUser(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	app, worker := s.Client(t, s.Public), s.Client(t, s.Private)
	o := s.NewSession("user+one@example.com")
	o.Expected = "user+one@example.com"
	tokens, err := app.Exchange(t.Context(), o)
	if err != nil {
		t.Fatalf("exchange: %v", err)
	}
	access, public := s.HumanAPI.Current(string(o.ClientID), string(o.HumanID))
	want := api.Tokens{HumanID: string(o.HumanID), PublicToken: public, ClientID: string(o.ClientID), ClientUserID: "user+one@example.com"}
	if tokens != want {
		t.Fatal("the exchange is not answered with the user's public part")
	}
	if again, err := app.Exchange(t.Context(), o); err != nil || again != want {
		t.Fatalf("a repeat is not answered alike: %v", err)
	}
	if n := s.HumanAPI.Count("/v1/connect/tokens"); n != 1 {
		t.Fatalf("Human API was asked %d times, want 1", n)
	}
	byID, err := app.User(t.Context(), "", o.HumanID)
	if err != nil {
		t.Fatalf("lookup: %v", err)
	}
	byClientUser, err := app.UserByClientUserID(t.Context(), o.ClientID, o.Expected)
	if err != nil || byClientUser != byID || byID.State != "active" || byID.CreatedAt.IsZero() {
		t.Fatalf("lookups disagree: %v", err)
	}
	if p, err := app.PublicToken(t.Context(), "", o.HumanID); err != nil || p.PublicToken != public {
		t.Fatalf("publictokens: %v", err)
	}
	got, err := worker.AccessToken(t.Context(), "", o.HumanID)
	if err != nil || string(got.Token.Reveal()) != access || got.HumanID != o.HumanID {
		t.Fatalf("access token: %v", err)
	}
	if _, err := app.AccessToken(t.Context(), "", o.HumanID); client.CodeOf(err) != api.NotGranted {
		t.Fatalf("access token on the public socket: got %v, want not_granted", err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	r, err := audit.Verify(t.Context(), audit.VerifyConfig{Path: s.AuditPath})
	if err != nil || !r.Consistent {
		t.Fatalf("the audit log does not verify: %v %s", err, r.Problem)
	}
}

// What the browser sent is handed over as it came.
func TestForward(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	c := s.Client(t, s.Public)
	o := s.NewSession("user@example.com")
	form := url.Values{"humanId": {string(o.HumanID)}, "clientId": {string(o.ClientID)}, "sessionToken": {string(o.SessionToken.Reveal())}}.Encode()
	got, err := c.Forward(t.Context(), []byte(form), "application/x-www-form-urlencoded", "user@example.com")
	if err != nil || got.HumanID != string(o.HumanID) || got.PublicToken == "" {
		t.Fatalf("a form: %v", err)
	}
	body, err := json.Marshal(map[string]string{"humanId": string(o.HumanID), "clientId": string(o.ClientID), "sessionToken": string(o.SessionToken.Reveal()), "userId": "7"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Forward(t.Context(), body, "", ""); err != nil || again != got {
		t.Fatalf("JSON: %v", err)
	}
	if _, err := c.Forward(t.Context(), body, "", "somebody-else"); client.CodeOf(err) != api.UserMismatch {
		t.Fatalf("expecting somebody else: %v", err)
	}
	if _, err := c.Forward(t.Context(), []byte(`{"clientSecret":"x"}`), "", ""); client.CodeOf(err) != api.SecretNotAccepted {
		t.Fatalf("a secret: %v", err)
	}
}

func TestAdmin(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	o := s.NewSession("user@example.com")
	if _, err := s.Client(t, s.Public).Exchange(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	c := s.Client(t, s.Admin)
	if st, err := c.AdminStatus(t.Context()); err != nil || st.Exchanges.Outcomes["stored"] != 1 {
		t.Fatalf("status: %v", err)
	}
	if ch, err := c.AdminSecretsCheck(t.Context()); err != nil || !ch.OK {
		t.Fatalf("secrets check: %v", err)
	}
	if ch, err := c.AdminStoreCheck(t.Context()); err != nil || !ch.OK || ch.Problems == nil {
		t.Fatalf("store check: %v %v", err, ch.Problems)
	}
	for name, q := range map[string]client.UserQuery{
		"humanId": {ClientID: o.ClientID, HumanID: o.HumanID}, "clientUserId": {ClientUserID: "user@example.com"},
	} {
		if users, err := c.AdminUser(t.Context(), q); err != nil || len(users) != 1 {
			t.Fatalf("users by %s: %d, %v", name, len(users), err)
		}
	}
	for name, q := range map[string]client.UserQuery{
		"humanId": {HumanID: "nobody"}, "state": {State: user.Indeterminate},
	} {
		if users, err := c.AdminUser(t.Context(), q); err != nil || users == nil || len(users) != 0 {
			t.Fatalf("users by %s: %d, %v", name, len(users), err)
		}
	}
	if _, err := s.Client(t, s.Public).AdminStatus(t.Context()); client.CodeOf(err) != api.NotGranted {
		t.Fatalf("status on the public socket: got %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	c, err := client.New(client.Config{Socket: filepath.Join(t.TempDir(), "none.sock")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WhoAmI(t.Context()); !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, syscall.ENOENT) {
		t.Fatalf("got %v", err)
	}
}
