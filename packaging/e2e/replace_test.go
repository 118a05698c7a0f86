package e2e

import (
	"encoding/json"
	"net/url"
	"testing"
)

const cuidHeader = "X-Client-User-Id: "

func (w *world) lookup(cuid string) answer {
	w.t.Helper()
	return w.root("public").do("GET", "/v1/users?clientId="+shop, "", cuidHeader+url.PathEscape(cuid))
}

// publicTokens lists the publicTokens of a GET /v1/users answer.
func (a answer) publicTokens(t testing.TB) []string {
	t.Helper()
	var users struct {
		Users []struct {
			PublicToken string `json:"publicToken"`
		} `json:"users"`
	}
	must(t, json.Unmarshal([]byte(a.body), &users))
	out := []string{}
	for _, u := range users.Users {
		out = append(out, u.PublicToken)
	}
	return out
}

// A new finish event of the same user replaces both tokens at once.
func TestNewExchangeReplacesBothTokens(t *testing.T) {
	w := newWorld(t, options{})
	root, human, cuid := w.root("private"), w.sim.NewHumanID(), "jörg+1@example.test"
	for range 3 {
		root.do("POST", tokens, w.finishEvent(human, cuid).json()).want(t, 200, "")
		access, public := w.sim.Current(shop, human)
		if got := root.do("GET", "/v1/users/"+human+"?clientId="+shop, "").want(t, 200, "").field(t, "publicToken"); got != public {
			t.Error("the lookup by humanId shows an old publicToken")
		}
		if got := w.lookup(cuid).publicTokens(t); len(got) != 1 || got[0] != public {
			t.Error("the lookup by clientUserId does not show the one new publicToken")
		}
		if got := root.do("GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").want(t, 200, "").field(t, "accessToken"); got != access {
			t.Error("the access token is an old one")
		}
	}
}

// A publicToken that was never stored here is fetched once, and kept.
func TestForgottenPublicTokenIsFetchedOnce(t *testing.T) {
	w := newWorld(t, options{})
	human := w.sim.NewHumanID()
	// The user connected before tokenvault came: Human API knows, we do not.
	w.sim.NewSession(shop, human, "early@example.test")
	elsewhere := w.sim.NewSession(shop, human, "early@example.test")
	w.exchangeElsewhere(human, elsewhere)
	_, public := w.sim.Current(shop, human)
	root, before := w.root("public"), w.sim.Count("/v1/connect/publictokens")
	body := `{"humanId":"` + human + `","clientId":"` + shop + `"}`
	for range 3 {
		a := root.do("POST", "/v1/connect/publictokens", body).want(t, 200, "")
		if a.field(t, "publicToken") != public || a.field(t, "humanId") != human {
			t.Fatal("another publicToken than Human API's")
		}
	}
	if n := w.sim.Count("/v1/connect/publictokens") - before; n != 1 {
		t.Errorf("Human API was asked %d times", n)
	}
	root.do("GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").want(t, 403, "not_granted")
	w.root("private").do("GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").want(t, 409, "no_access_token")
	root.do("POST", "/v1/connect/publictokens", `{"humanId":"nobody-at-all","clientId":"`+shop+`"}`).want(t, 404, "unknown_user")
}

// exchangeElsewhere is an exchange that the app did itself, long ago.
func (w *world) exchangeElsewhere(human, session string) {
	w.t.Helper()
	body, err := json.Marshal(map[string]string{"humanId": human, "clientId": shop, "sessionToken": session, "clientSecret": shopSecret})
	must(w.t, err)
	post(w.t, w.sim.URL+tokens, string(body))
}

// One session token cannot be turned to another user.
func TestSessionConflict(t *testing.T) {
	w := newWorld(t, options{})
	root := w.root("private")
	victim, thief := w.sim.NewHumanID(), w.sim.NewHumanID()
	s := w.finishEvent(victim, "victim@example.test")
	root.do("POST", tokens, s.json()).want(t, 200, "")
	asked := w.sim.Count(tokens)
	stolen := s
	stolen.humanID = thief
	a := root.do("POST", tokens, stolen.json()).want(t, 409, "session_conflict")
	_, public := w.sim.Current(shop, victim)
	for _, told := range []string{public, victim, "victim@example.test"} {
		if contains(a.body, told) {
			t.Error("the refusal tells something of the victim")
		}
	}
	if w.sim.Count(tokens) != asked {
		t.Error("Human API was asked")
	}
	root.do("GET", "/v1/users/"+thief+"?clientId="+shop, "").want(t, 404, "unknown_user")
}

// The clientUserId that the app's server expects decides.
func TestExpectedClientUserID(t *testing.T) {
	w := newWorld(t, options{})
	root := w.root("private")
	for name, c := range map[string]struct{ upstream, expected string }{
		"another":   {"anna@example.test", "berta@example.test"},
		"none said": {"", "berta@example.test"},
		"case":      {"Berta@example.test", "berta@example.test"},
	} {
		t.Run(name, func(t *testing.T) {
			human := w.sim.NewHumanID()
			s := w.finishEvent(human, c.upstream)
			for range 2 { // the repeat is refused too, without asking again
				root.do("POST", tokens, s.json(), cuidHeader+url.PathEscape(c.expected)).want(t, 409, "user_mismatch")
			}
			root.do("POST", tokens, s.json()).want(t, 409, "user_mismatch")
			root.do("GET", "/v1/users/"+human+"?clientId="+shop, "").want(t, 404, "unknown_user")
			if got := w.lookup(c.expected).publicTokens(t); len(got) != 0 {
				t.Error("something was stored")
			}
			if n := w.sim.Uses(s.sessionToken); n != 1 {
				t.Errorf("the session token was sent %d times", n)
			}
		})
	}
	human := w.sim.NewHumanID()
	s := w.finishEvent(human, "ü@example.test")
	root.do("POST", tokens, s.json(), cuidHeader+url.PathEscape("ü@example.test")).want(t, 200, "")
	root.do("POST", tokens, s.json(), cuidHeader+url.PathEscape("u@example.test")).want(t, 409, "user_mismatch")

	// A known user does not come back as another user of the app.
	root.do("POST", tokens, w.finishEvent(human, "other@example.test").json()).want(t, 409, "user_mismatch")
	if got := w.lookup("ü@example.test").publicTokens(t); len(got) != 1 {
		t.Error("the known user is gone")
	}
}

// A second humanId under a taken clientUserId never answers the first's lookups.
func TestSecondHumanIDIsAmbiguous(t *testing.T) {
	w := newWorld(t, options{})
	root, cuid := w.root("private"), "shared@example.test"
	first, second := w.sim.NewHumanID(), w.sim.NewHumanID()
	root.do("POST", tokens, w.finishEvent(first, cuid).json()).want(t, 200, "")
	root.do("POST", tokens, w.finishEvent(second, cuid).json()).want(t, 200, "")
	w.lookup(cuid).want(t, 409, "ambiguous_user")
	root.do("GET", "/v1/users/-?clientId="+shop, "", cuidHeader+url.PathEscape(cuid)).want(t, 409, "ambiguous_user")
	root.do("GET", "/v1/users/-/access-token?clientId="+shop, "", cuidHeader+url.PathEscape(cuid)).want(t, 409, "ambiguous_user")
	for _, human := range []string{first, second} {
		access, public := w.sim.Current(shop, human)
		if root.do("GET", "/v1/users/"+human+"?clientId="+shop, "").want(t, 200, "").field(t, "publicToken") != public {
			t.Error("by humanId each user must still be there")
		}
		if root.do("GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").want(t, 200, "").field(t, "accessToken") != access {
			t.Error("the access token is the other user's")
		}
	}
}
