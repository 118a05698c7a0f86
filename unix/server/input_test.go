package server_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
)

const formType = "Content-Type: application/x-www-form-urlencoded"

// TestBodies: every shape that clients are known to send is taken.
func TestBodies(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	for name, c := range map[string]struct {
		format string // humanId, clientId, sessionToken
		header []string
	}{
		"iOS":          {`{"humanId":"%s","clientId":"%s","sessionToken":"%s"}`, []string{"Content-Type: application/json"}},
		"Android":      {`{"humanId":"%s","clientId":"%s","sessionToken":"%s"}`, []string{"Content-Type: application/json; charset=UTF-8"}},
		"no type":      {` {"humanId":"%s","clientId":"%s","sessionToken":"%s","userId":{"a":[1,null,true]}} `, nil},
		"jQuery":       {"humanId=%s&clientId=%s&sessionToken=%s&userId=7&a[]=1&a[]=2", []string{formType + "; charset=UTF-8"}},
		"Rails":        {"sessionTokenObject[humanId]=%s&sessionTokenObject%%5BclientId%%5D=%s&sessionTokenObject[sessionToken]=%s&user_id=1", []string{formType}},
		"nested JSON":  {`{"user_id":1,"sessionTokenObject":{"humanId":"%s","clientId":"%s","sessionToken":"%s"}}`, nil},
		"JSON field":   {`sessionTokenObject={"humanId":"%s","clientId":"%s","sessionToken":"%s"}`, []string{formType}},
		"JSON in JSON": {`{"x":"{\"a\":[1]}","y":"{no JSON","humanId":"%s","clientId":"%s","sessionToken":"%s"}`, nil},
		"spaced field": {`sessionTokenObject=%%20{"humanId":"%s","clientId":"%s","sessionToken":"%s"}`, []string{formType}},
		"null":         {`{"humanId":"%s","clientId":"%s","sessionToken":"%s","clientUserId":null}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := s.NewSession("")
			body := fmt.Sprintf(c.format, o.HumanID, o.ClientID, o.SessionToken.Reveal())
			a := raw(t, s.Public, request("POST", "/v1/connect/tokens", body, c.header...))
			if a.wantManners(t); a.status != http.StatusOK {
				t.Fatalf("got %d %s", a.status, a.err.Code)
			}
			got := outcomeOf(t, s, a.header.Get(api.HeaderRequestID))
			if got.Outcome != "stored" || got.Rule != "everything" || got.Grant != "exchange" || got.App != "shop" || got.Subject == "" || got.Status != 200 {
				t.Fatal("the outcome is not on record as it should be")
			}
		})
	}
}

func TestBadBodies(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	const rest = `"clientId":"x","sessionToken":"x"`
	for body, code := range map[string]api.Code{
		"":                                    api.BadRequest,
		"null":                                api.BadRequest,
		"[]":                                  api.BadRequest,
		"{":                                   api.BadRequest,
		`{"humanId":"x",` + rest + `}{}`:      api.BadRequest,
		`{"humanId":"x",` + rest + `} x`:      api.BadRequest,
		`{"humanid":"x",` + rest + `}`:        api.BadRequest,
		`{"humanId":7,` + rest + `}`:          api.BadRequest,
		`{"humanId":{},` + rest + `}`:         api.BadRequest,
		`{"humanId":"",` + rest + `}`:         api.BadRequest,
		`{"humanId":"a\u0000",` + rest + `}`:  api.BadRequest,
		`{"humanId":"\ud800",` + rest + `}`:   api.BadRequest,
		"{\"humanId\":\"\xff\"," + rest + `}`: api.BadRequest,
		`{"humanId":"x","humanId":"x",` + rest + `}`:                             api.BadRequest,
		`{"humanId":"x","HumanID":"x",` + rest + `}`:                             api.BadRequest,
		`{"humanId":"x","a":{"b":1,"B":2},` + rest + `}`:                         api.BadRequest,
		`{"humanId":"x","a":[[[[1]]]],` + rest + `}`:                             api.BadRequest,
		`{"humanId":"x","sessionTokenObject":{"humanId":"x"},` + rest + `}`:      api.BadRequest,
		`{"humanId":"x","clientSecret":"x",` + rest + `}`:                        api.SecretNotAccepted,
		`{"humanId":"x","CLIENT_SECRET":null,` + rest + `}`:                      api.SecretNotAccepted,
		`{"humanId":"x","a":[{"b":{"accesstoken":1}}],` + rest + `}`:             api.SecretNotAccepted,
		`{"sessionTokenObject":{"humanId":"x","refresh_token":""},` + rest + `}`: api.SecretNotAccepted,
		`{"humanId":"x","clientId":"other","sessionToken":"x"}`:                  api.NotGranted,
	} {
		raw(t, s.Public, request("POST", "/v1/connect/tokens", body)).wantCode(t, code)
	}
	for _, body := range []string{ // nothing is taken that is not an object
		`{"humanId":"x","sessionTokenObject":"{\"humanId\":\"y\"}",` + rest + `}`, `{"humanId":"x","sessionTokenObject":[],` + rest + `}`,
		`{"humanId":"x","sessionTokenObject":7,` + rest + `}`,
	} {
		raw(t, s.Public, request("POST", "/v1/connect/tokens", body)).wantCode(t, api.BadRequest)
	}
	for body, code := range map[string]api.Code{
		"humanId=x&clientId=x":                                   api.BadRequest,
		"humanId=%ff&clientId=x&sessionToken=x":                  api.BadRequest,
		"humanId=%zz&clientId=x&sessionToken=x":                  api.BadRequest,
		"humanId=x&humanId=x&sessionToken=x":                     api.BadRequest,
		"humanId=x&HUMANID=x&sessionToken=x":                     api.BadRequest,
		"humanId=x&sessionTokenObject[humanId]=x&sessionToken=x": api.BadRequest,
		"a[b][c][d][e]=1":                                        api.BadRequest,
		"a[b][Client_Secret]=1":                                  api.SecretNotAccepted,
		`sessionTokenObject={"accessToken":1}`:                   api.SecretNotAccepted,
		`{"humanId":"x"}`:                                        api.UnsupportedMediaType,
	} {
		raw(t, s.Public, request("POST", "/v1/connect/tokens", body, formType)).wantCode(t, code)
	}
	for _, h := range []string{"Content-Type: text/plain", "Content-Type: application/json; charset=latin1", "Content-Encoding: gzip", "Content-Type: multipart/form-data; boundary=x", "Content-Type: ;"} {
		raw(t, s.Public, request("POST", "/v1/connect/tokens", "{}", h)).wantCode(t, api.UnsupportedMediaType)
	}
	if n := s.HumanAPI.Count("/v1/connect/tokens"); n != 0 {
		t.Fatalf("Human API was asked %d times", n)
	}
}

// TestHiddenSecrets: a secret's name is found wherever clients have been seen to
// put one, or could.
func TestHiddenSecrets(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	const rest = `"humanId":"x","clientId":"x","sessionToken":"x"`
	for _, body := range []string{
		`{" clientSecret":1,` + rest + `}`, `{"accessToken\t":1,` + rest + `}`, `{"user.accessToken":1,` + rest + `}`, `{"user[access_token]":1,` + rest + `}`,
		`{"x":"{\"accessToken\":1}",` + rest + `}`, `{"x":[" [{\"clientSecret\":1}]"],` + rest + `}`, `{"sessionTokenObject":{"x":"{\"refresh_token\":1}"}}`,
	} {
		raw(t, s.Public, request("POST", "/v1/connect/tokens", body)).wantCode(t, api.SecretNotAccepted)
	}
	const form = "humanId=x&clientId=x&sessionToken=x&"
	for _, body := range []string{
		"user.accessToken=1", "+accessToken+=1", "a.b[c.client_secret]=1", "a%5B%20clientSecret%5D=1", "a[]accessToken=1",
		`sessionTokenObject=%20{"clientSecret":1}`, `x={"a":{"clientSecret":1}}`, `x=%0a[{"clientSecret":1}]`, `a[b]={"clientSecret":1}`,
		`sessionTokenObject[x]={"clientSecret":1}`,
	} {
		raw(t, s.Public, request("POST", "/v1/connect/tokens", form+body, formType)).wantCode(t, api.SecretNotAccepted)
	}
	raw(t, s.Public, request("GET", "/v1/users/x?user.accessToken=1", "")).wantCode(t, api.SecretNotAccepted)
	raw(t, s.Public, request("POST", "/v1/connect/tokens", form+"sessionTokenObject=x", formType)).wantCode(t, api.BadRequest)
	if n := s.HumanAPI.Count("/v1/connect/tokens"); n != 0 {
		t.Fatalf("Human API was asked %d times", n)
	}
}

// TestNothingIsIgnoredThatWasMeant: what looks like a known field, a body or a
// header that chooses is refused where it would be ignored.
func TestNothingIsIgnoredThatWasMeant(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	o := s.NewSession("")
	post := func(format string, headers ...string) answer {
		t.Helper()
		return raw(t, s.Public, request("POST", "/v1/connect/tokens", fmt.Sprintf(format, o.HumanID, o.SessionToken.Reveal()), headers...))
	}
	for _, body := range []string{
		`{"clientid":"x","humanId":"%s","sessionToken":"%s"}`, `{"ClientUserId":"x","humanId":"%s","sessionToken":"%s"}`, `{"clientId ":"x","humanId":"%s","sessionToken":"%s"}`,
		`{"sessionTokenObject":{"CLIENTID":"x","humanId":"%s","sessionToken":"%s"}}`, `{"sessiontokenobject":{},"humanId":"%s","sessionToken":"%s"}`,
	} {
		post(body).wantCode(t, api.BadRequest)
	}
	for _, body := range []string{
		"clientid=x&humanId=%s&sessionToken=%s", "ClientUserID=x&humanId=%s&sessionToken=%s", "sessionTokenObject[clientID]=x&humanId=%s&sessionToken=%s",
		"Sessiontokenobject[clientId]=x&humanId=%s&sessionToken=%s",
	} {
		post(body, formType).wantCode(t, api.BadRequest)
	}
	const good = `{"State":1,"x":{"clientid":"y"},"humanId":"%s","sessionToken":"%s"}`
	post(good, api.HeaderClientID+": x").wantCode(t, api.BadRequest)
	if a := post(good); a.status != 200 { // no fields of ours
		t.Fatalf("got %d %s", a.status, a.err.Code)
	}
	get := "/v1/users/" + string(o.HumanID)
	raw(t, s.Public, request("GET", get+"?ClientID=x", "")).wantCode(t, api.BadRequest)
	raw(t, s.Public, request("GET", get, "", api.HeaderClientID+": x")).wantCode(t, api.BadRequest)
	raw(t, s.Public, request("GET", get, "", api.HeaderHumanID+": x")).wantCode(t, api.BadRequest)
	raw(t, s.Public, request("GET", get, "{}")).wantCode(t, api.BadRequest)
	raw(t, s.Public, request("GET", "/v1/whoami", "{}")).wantCode(t, api.BadRequest)
	raw(t, s.Public, request("GET", get, "", "Transfer-Encoding: chunked")+"2\r\n{}\r\n0\r\n\r\n").wantCode(t, api.BadRequest)
	if a := raw(t, s.Public, request("HEAD", get, "{}")); a.status != 400 {
		t.Fatalf("a body on HEAD: got %d", a.status)
	}
	if a := raw(t, s.Public, request("GET", get, "", "Content-Length: 0")); a.status != 200 {
		t.Fatalf("got %d %s", a.status, a.err.Code)
	}
}

func TestQueries(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	for query, code := range map[string]api.Code{
		"/v1/users/x?access_token=x":                   api.SecretNotAccepted,
		"/v1/users/x?a[ClientSecret]=x":                api.SecretNotAccepted,
		"/v1/whoami?Access%5fToken=":                   api.SecretNotAccepted,
		"/v1/users/x?clientId=a&clientId=a":            api.BadRequest,
		"/v1/users/x?clientId=":                        api.BadRequest,
		"/v1/users/x?clientId=%zz":                     api.BadRequest,
		"/v1/users/x?clientId=none":                    api.NotGranted,
		"/v1/users/-":                                  api.BadRequest,
		"/v1/users":                                    api.BadRequest,
		"/v1/users?state=active":                       api.BadRequest,
		"/v1/users?state=indeterminate&clientUserId=a": api.BadRequest,
		"/v1/users?humanId=a":                          api.BadRequest,
	} {
		raw(t, s.Public, request("GET", query, "")).wantCode(t, code)
	}
	if a := raw(t, s.Public, request("GET", "/v1/users?state=indeterminate", "")); string(a.body) != `{"users":[]}` {
		t.Fatalf("got %d %d bytes", a.status, len(a.body))
	}
	body := fmt.Sprintf(`{"humanId":"x","clientId":%q,"sessionToken":"x"}`, clienttest.DefaultApp.ClientID)
	raw(t, s.Public, request("POST", "/v1/connect/tokens?clientId=x", body)).wantCode(t, api.BadRequest)
}

func TestClientUserHeader(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{RequireClientUserID: map[user.ClientID]bool{clienttest.DefaultApp.ClientID: true}})
	id := "jürgen+1%@example.com"
	o := s.NewSession(id)
	body := fmt.Sprintf(`{"humanId":%q,"sessionToken":%q,"clientUserId":%q}`, o.HumanID, o.SessionToken.Reveal(), id)
	post := func(headers ...string) answer {
		return raw(t, s.Public, request("POST", "/v1/connect/tokens", body, headers...))
	}
	a := post()
	if a.wantCode(t, api.BadRequest); !strings.Contains(a.err.Message, api.HeaderClientUserID) {
		t.Fatal("the refusal does not name the header")
	}
	const h = api.HeaderClientUserID + ": "
	for _, bad := range [][]string{{h}, {h + "a", h + "a"}, {h + "%zz"}, {h + "%ff"}, {h + "a%0a"}, {h + "jürgen"}, {h + "%"}} {
		post(bad...).wantCode(t, api.BadRequest)
	}
	post(h+"somebody-else").wantCode(t, api.UserMismatch)
	o = s.NewSession(id)
	body = fmt.Sprintf(`{"humanId":%q,"sessionToken":%q}`, o.HumanID, o.SessionToken.Reveal())
	if a := post(h + url.QueryEscape(strings.ReplaceAll(id, "+", "")) + ""); a.status == http.StatusOK {
		t.Fatal("another user's id is accepted")
	}
	o = s.NewSession(id)
	body = fmt.Sprintf(`{"humanId":%q,"sessionToken":%q}`, o.HumanID, o.SessionToken.Reveal())
	if a := post(h + url.PathEscape(id)); a.status != http.StatusOK {
		t.Fatalf("got %d %s", a.status, a.err.Code)
	}
	get := raw(t, s.Public, request("GET", "/v1/users/-", "", h+url.PathEscape(id)))
	if got := outcomeOf(t, s, get.header.Get(api.HeaderRequestID)); get.status != 200 || got.Subject == "" {
		t.Fatalf("got %d, or no subject", get.status)
	}
	raw(t, s.Public, request("GET", "/v1/users/"+string(o.HumanID), "", h+"a")).wantCode(t, api.BadRequest)
}

// TestBodyAgainstHeader: who is logged in says one user and the browser another: the
// session is not used up.
func TestBodyAgainstHeader(t *testing.T) {
	s := clienttest.Start(t, clienttest.Config{})
	const id, h = "alice@example.com", api.HeaderClientUserID + ": "
	o := s.NewSession(id)
	post := func(claim, header string) answer {
		body := fmt.Sprintf(`{"humanId":%q,"sessionToken":%q,"clientUserId":%q}`, o.HumanID, o.SessionToken.Reveal(), claim)
		return raw(t, s.Public, request("POST", "/v1/connect/tokens", body, header))
	}
	for claim, header := range map[string]string{"mallory": id, id: "mallory", "": id, "ALICE@example.com": id, id + " ": id} {
		a := post(claim, h+header)
		if a.wantCode(t, api.UserMismatch); !strings.Contains(a.err.Message, "was not used") {
			t.Errorf("the refusal does not say that nothing is lost: %s", a.err.Message)
		}
	}
	form := url.Values{"humanId": {string(o.HumanID)}, "sessionToken": {string(o.SessionToken.Reveal())}, "clientUserId": {"mallory"}}.Encode()
	raw(t, s.Public, request("POST", "/v1/connect/tokens", form, h+id, formType)).wantCode(t, api.UserMismatch)
	if n := s.HumanAPI.Uses(string(o.SessionToken.Reveal())); n != 0 {
		t.Errorf("Human API was asked %d times", n)
	}
	if a := post(id, h+id); a.status != 200 {
		t.Errorf("the same session by who may use it: %d %s", a.status, a.err.Code)
	}
}

// TestDenialsNameWhom: an audit line tells who was asked for, as soon as that is
// known, and however the request ended.
func TestDenialsNameWhom(t *testing.T) {
	bank := policy.App{Name: "bank", ClientID: "example-client-id-of-the-bank"}
	rule := policy.Rule{Name: "one", Users: []uint32{me()}, Contained: true, Apps: []policy.App{clienttest.DefaultApp}, Grants: []api.Grant{api.GrantLookup, api.GrantAccessToken}, PerSecond: 0.001, Burst: 1}
	s := clienttest.Start(t, clienttest.Config{Apps: []policy.App{clienttest.DefaultApp, bank}, Rules: []policy.Rule{rule}})
	body := fmt.Sprintf(`{"humanId":"x","clientId":%q,"sessionToken":"x"}`, bank.ClientID)
	for _, c := range []struct {
		request, app string
		code         api.Code
		client       user.ClientID
	}{
		{request("GET", "/v1/users/x", ""), "shop", api.UnknownUser, clienttest.DefaultApp.ClientID},
		{request("GET", "/v1/users/x", ""), "shop", api.RateLimited, clienttest.DefaultApp.ClientID},
		{request("GET", "/v1/users/x?clientId="+string(bank.ClientID), ""), "bank", api.NotGranted, bank.ClientID},
		{request("GET", "/v1/users/x?clientId="+string(bank.ClientID), "", "X-Client-User-Id: y"), "bank", api.BadRequest, bank.ClientID},
		{request("GET", "/v1/users/x/access-token?clientId="+string(clienttest.DefaultApp.ClientID), ""), "shop", api.NotGranted, clienttest.DefaultApp.ClientID},
		{request("GET", "/v1/users/x?clientId=none", ""), "", api.NotGranted, ""},
		{request("POST", "/v1/connect/tokens", body), "", api.NotGranted, ""}, // not read
	} {
		a := raw(t, s.Public, c.request)
		a.wantCode(t, c.code)
		want := ""
		if c.client != "" {
			want = s.Audit.Subject(c.client, "x")
		}
		if got := outcomeOf(t, s, a.err.RequestID); got.Subject != want || got.App != c.app {
			t.Errorf("%s for app %q: on record is app %q, subject right: %v", c.code, c.app, got.App, got.Subject == want)
		}
	}
}

func TestWhichApp(t *testing.T) {
	gym := policy.App{Name: "gym", ClientID: "example-client-id-of-the-gym"}
	bank := policy.App{Name: "bank", ClientID: "example-client-id-of-the-bank"}
	rule := policy.Rule{Name: "two", Users: []uint32{me()}, Contained: true, Apps: []policy.App{clienttest.DefaultApp, gym}, Grants: []api.Grant{api.GrantLookup}}
	one := policy.Rule{Name: "one", Users: []uint32{me()}, Contained: true, Apps: []policy.App{gym}, Grants: []api.Grant{api.GrantPublicToken}}
	s := clienttest.Start(t, clienttest.Config{Apps: []policy.App{clienttest.DefaultApp, gym, bank}, Rules: []policy.Rule{rule, one}})
	raw(t, s.Public, request("GET", "/v1/users/x", "")).wantCode(t, api.ClientIDRequired)
	raw(t, s.Public, request("GET", "/v1/users/x?clientId="+string(gym.ClientID), "")).wantCode(t, api.UnknownUser)
	raw(t, s.Public, request("POST", "/v1/connect/tokens", `{"humanId":"x"}`)).wantCode(t, api.NotGranted)
	theirs := raw(t, s.Public, request("GET", "/v1/users/x?clientId="+string(bank.ClientID), ""))
	theirs.wantCode(t, api.NotGranted)
	none := raw(t, s.Public, request("GET", "/v1/users/x?clientId=none", ""))
	if strings.ReplaceAll(string(theirs.body), theirs.err.RequestID, "") != strings.ReplaceAll(string(none.body), none.err.RequestID, "") || len(theirs.header) != len(none.header) {
		t.Fatal("an app that is not yours and one that does not exist look different")
	}
	o := s.NewSessionOf(gym.ClientID, "a-human", "")
	if a := raw(t, s.Public, request("POST", "/v1/connect/publictokens", fmt.Sprintf(`{"humanId":%q}`, o.HumanID))); a.err.Code == api.ClientIDRequired || a.err.Code == api.NotGranted {
		t.Fatalf("the one app is not taken: %d %s", a.status, a.err.Code)
	}
}
