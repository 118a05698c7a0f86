package humanapitest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

const (
	app    = "marker-app"
	key    = "marker-client-secret"
	person = "marker-human"
)

func start(t testing.TB, c humanapitest.Config) *humanapitest.Server {
	t.Helper()
	c.Apps = map[string]string{app: key}
	return humanapitest.Start(t, c)
}

type reply struct {
	status int
	header http.Header
	body   string
	fields map[string]any
	err    error
}

func ask(t testing.TB, url, kind, body string) reply {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Post(url, kind, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	r := reply{status: res.StatusCode, header: res.Header, body: string(text), err: err}
	_ = json.Unmarshal(text, &r.fields)
	return r
}

func exchange(t testing.TB, s *humanapitest.Server, token string) reply {
	t.Helper()
	return ask(t, s.URL+humanapitest.TokensPath, "application/json", fmt.Sprintf(
		`{"humanId":%q,"clientId":%q,"sessionToken":%q,"clientSecret":%q,"userId":7,"unknown":"x"}`, person, app, token, key))
}

// The facts on the wire.
func TestExchange(t *testing.T) {
	s := start(t, humanapitest.Config{})
	r := exchange(t, s, s.NewSession(app, person, "user@example"))
	access, public := s.Current(app, person)
	want := fmt.Sprintf(`{"humanId":%q,"accessToken":%q,"publicToken":%q,"clientId":%q,"clientUserId":"user@example"}`, person, access, public, app)
	if r.status != 200 || r.body != want || r.header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("got %d %s", r.status, r.body)
	}
	if !regexp.MustCompile(`^sim-access-[A-Za-z0-9_=-]*$`).MatchString(access) || len(access) != 260 || len(public) != 32 {
		t.Errorf("tokens of %d and %d characters", len(access), len(public))
	}
	if h := s.NewHumanID(); len(h) != 32 || h == s.NewHumanID() {
		t.Error("ids of users are 32 characters, each another")
	}
}

// A new finish event replaces both tokens, when it is exchanged.
func TestFinishEventReplaces(t *testing.T) {
	s := start(t, humanapitest.Config{})
	exchange(t, s, s.NewSession(app, person, ""))
	a1, p1 := s.Current(app, person)
	token := s.NewSession(app, person, "")
	if a, p := s.Current(app, person); a != a1 || p != p1 {
		t.Error("a session that is not exchanged changes nothing")
	}
	exchange(t, s, token)
	if a, p := s.Current(app, person); a == a1 || p == p1 {
		t.Error("an exchange makes new tokens")
	}
}

func TestModes(t *testing.T) {
	for mode, want := range map[humanapitest.Mode]struct {
		status int
		same   bool
	}{humanapitest.OneTime: {410, false}, humanapitest.Repeatable: {200, true}, humanapitest.Rotating: {200, false}} {
		s := start(t, humanapitest.Config{Mode: mode, RefusedStatus: 410})
		token := s.NewSession(app, person, "")
		first, second := exchange(t, s, token), exchange(t, s, token)
		if first.status != 200 || second.status != want.status || (first.body == second.body) != want.same {
			t.Errorf("%s: %d, then %d", mode, first.status, second.status)
		}
		if mode != humanapitest.OneTime {
			if a, _ := s.Current(app, person); second.fields["accessToken"] != a {
				t.Errorf("%s: the answer is not what is valid", mode)
			}
		}
		if n := s.Uses(token); n != map[bool]int{true: 2, false: 1}[want.status == 200] {
			t.Errorf("%s: %d uses", mode, n)
		}
	}
}

func TestRefusals(t *testing.T) {
	s := start(t, humanapitest.Config{})
	good := fmt.Sprintf(`{"humanId":%q,"clientId":%q,"sessionToken":%q,"clientSecret":%q}`, person, app, s.NewSession(app, person, ""), key)
	for name, m := range map[string]struct {
		kind, body string
		status     int
	}{
		"secret":    {"application/json", strings.Replace(good, key, "marker-other", 1), 401},
		"app":       {"application/json", strings.Replace(good, app, "marker-other", 1), 401},
		"user":      {"application/json", strings.Replace(good, person, "marker-other", 1), 400},
		"session":   {"application/json", strings.Replace(good, "sim-session", "sim-other", 1), 400},
		"no secret": {"application/json", strings.Replace(good, "clientSecret", "x", 1), 400},
		"number":    {"application/json", strings.Replace(good, `"`+key+`"`, "5", 1), 400},
		"not JSON":  {"application/json", good[1:], 400},
		"form":      {"application/x-www-form-urlencoded", "humanId=" + person, 400},
		"text":      {"text/plain", good, 400},
	} {
		r := ask(t, s.URL+humanapitest.TokensPath, m.kind, m.body)
		if r.status != m.status || r.fields["statusCode"] != float64(m.status) || r.fields["message"] == "" || len(r.fields) != 2 {
			t.Errorf("%s: got %d %s", name, r.status, r.body)
		}
	}
	if r := ask(t, s.URL+humanapitest.TokensPath, "application/json; charset=utf-8", good); r.status != 200 {
		t.Errorf("a refused request must spend nothing: %d", r.status)
	}
	if r := ask(t, s.URL+"/v1/else", "application/json", good); r.status != 404 {
		t.Errorf("another path: %d", r.status)
	}
	s.RotateSecret(app, "marker-client-secret-2")
	if r := exchange(t, s, s.NewSession(app, person, "")); r.status != 401 {
		t.Errorf("the old secret: %d", r.status)
	}
}

func TestPublicTokens(t *testing.T) {
	s := start(t, humanapitest.Config{})
	in := url.Values{"humanId": {person}, "clientId": {app}, "clientSecret": {key}}
	post := func() reply {
		return ask(t, s.URL+humanapitest.PublicTokensPath, "application/x-www-form-urlencoded", in.Encode())
	}
	if r := post(); r.status != 404 {
		t.Errorf("an unknown user: %d", r.status)
	}
	s.NewSession(app, person, "")
	_, public := s.Current(app, person)
	if r := post(); r.body != fmt.Sprintf(`{"humanId":%q,"publicToken":%q}`, person, public) {
		t.Errorf("got %d %s", r.status, r.body)
	}
	in.Set("clientSecret", "marker-other")
	if r := post(); r.status != 401 {
		t.Errorf("a bad secret: %d", r.status)
	}
}

// Old and odd replies.
func TestAbsentFields(t *testing.T) {
	for _, m := range []struct {
		config humanapitest.Config
		user   string
		want   string
	}{
		{humanapitest.Config{}, "", `"clientId":"marker-app"}`},
		{humanapitest.Config{NullClientUserID: true}, "", `"clientUserId":null}`},
		{humanapitest.Config{OmitClientUserID: true}, "u", `"clientId":"marker-app"}`},
		{humanapitest.Config{OmitClientUserID: true, OmitClientID: true}, "u", `x"}`},
	} {
		s := start(t, m.config)
		if r := exchange(t, s, s.NewSession(app, person, m.user)); !strings.HasSuffix(r.body, m.want) {
			t.Errorf("got %s", r.body)
		}
	}
}

func TestRecords(t *testing.T) {
	s := start(t, humanapitest.Config{Keep: 3})
	for range 4 {
		exchange(t, s, "marker-unknown")
	}
	exchange(t, s, s.NewSession(app, person, ""))
	rs := s.Requests()
	if len(rs) != 3 || s.Count(humanapitest.TokensPath) != 5 {
		t.Fatalf("%d kept of %d", len(rs), s.Count(humanapitest.TokensPath))
	}
	last := rs[2]
	if last.Status != 200 || !last.Effect || last.Reason != "" || last.Fields["clientSecret"] != key || last.Fields["unknown"] != "x" ||
		last.Method != "POST" || strings.Join(last.Headers, " ") != "Accept-Encoding Content-Length Content-Type User-Agent" {
		t.Error("the last record is not that of the request")
	}
	if rs[1].Status != 400 || rs[1].Effect || rs[1].Reason == "" {
		t.Error("a refusal is not recorded as one")
	}
}

func TestAwait(t *testing.T) {
	s := start(t, humanapitest.Config{})
	hold := make(chan struct{})
	s.Misbehave(humanapitest.Fault{Hold: hold})
	token := s.NewSession(app, person, "")
	done := make(chan reply)
	go func() { done <- exchange(t, s, token) }()
	if err := s.Await(t.Context(), humanapitest.TokensPath, 1); err != nil {
		t.Fatal(err)
	}
	if s.Uses(token) != 0 || len(s.Requests()) != 0 {
		t.Error("held requests do not take effect")
	}
	close(hold)
	if r := <-done; r.status != 200 {
		t.Errorf("got %d", r.status)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Await(ctx, humanapitest.TokensPath, 2); err != context.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	server := humanapitest.New(humanapitest.Config{Apps: map[string]string{app: key}})
	front := httptest.NewServer(server.Handler())
	defer front.Close()
	server.URL = front.URL
	var wg sync.WaitGroup
	token := server.NewSession(app, person, "")
	good := make(chan reply, 50)
	for range cap(good) {
		wg.Go(func() {
			server.NewSession(app, server.NewHumanID(), "")
			if r := exchange(t, server, token); r.status == 200 {
				good <- r
			}
		})
	}
	wg.Wait()
	if len(good) != 1 {
		t.Errorf("a one-time token was taken %d times", len(good))
	}
}

func BenchmarkExchange(b *testing.B) {
	s := humanapitest.New(humanapitest.Config{Apps: map[string]string{app: key}, Mode: humanapitest.Rotating, Keep: 1000})
	h := s.Handler()
	body := fmt.Sprintf(`{"humanId":%q,"clientId":%q,"sessionToken":%q,"clientSecret":%q}`, person, app, s.NewSession(app, person, ""), key)
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", humanapitest.TokensPath, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != 200 {
			b.Fatal(w.Code)
		}
	}
}
