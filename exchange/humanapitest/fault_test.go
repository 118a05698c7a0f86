package humanapitest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// faults says of each way to be wrong what a client sees, and whether it takes effect.
var faults = map[string]struct {
	fault  humanapitest.Fault
	status int // 0: no answer, or one cut short
	has    string
	effect bool
}{
	"none":          {humanapitest.Fault{}, 200, "accessToken", true},
	"created":       {humanapitest.Fault{Status: 201}, 201, "accessToken", true},
	"500":           {humanapitest.Fault{Status: 500, Message: "marker-words"}, 500, "marker-words", false},
	"500, done":     {humanapitest.Fault{Status: 500, TakesEffect: true}, 500, "statusCode", true},
	"429":           {humanapitest.Fault{Status: 429, RetryAfter: "soon"}, 429, "statusCode", false},
	"200, not done": {humanapitest.Fault{NoEffect: true}, 200, "never-issued", false},
	"drop before":   {humanapitest.Fault{Kind: humanapitest.DropBefore}, 0, "", false},
	"drop after":    {humanapitest.Fault{Kind: humanapitest.DropAfter}, 0, "", true},
	"empty":         {humanapitest.Fault{Kind: humanapitest.Empty}, 200, "", true},
	"truncated":     {humanapitest.Fault{Kind: humanapitest.Truncated}, 0, "", true},
	"cut head":      {humanapitest.Fault{Kind: humanapitest.CutHead}, 0, "", true},
	"no HTTP":       {humanapitest.Fault{Kind: humanapitest.NoHTTP}, 0, "", true},
	"huge":          {humanapitest.Fault{Kind: humanapitest.Huge}, 200, "accessToken", true},
	"html":          {humanapitest.Fault{Kind: humanapitest.HTML}, 200, "<html>", true},
	"not json":      {humanapitest.Fault{Kind: humanapitest.NotJSON}, 200, ",}", true},
	"big header":    {humanapitest.Fault{Kind: humanapitest.BigHeader}, 200, "accessToken", true},
	"redirect":      {humanapitest.Fault{Kind: humanapitest.Redirect, Location: "/x"}, 307, "statusCode", false},
	"wrong user":    {humanapitest.Fault{Kind: humanapitest.WrongUser}, 200, `"humanId":"sim-other-human`, true},
	"wrong client":  {humanapitest.Fault{Kind: humanapitest.WrongClient}, 200, `"clientId":"sim-other-client`, true},
	"wrong type":    {humanapitest.Fault{Kind: humanapitest.WrongType, Field: "accessToken"}, 200, `"accessToken":12345,`, true},
	"set":           {humanapitest.Fault{Kind: humanapitest.SetField, Field: "new", Value: json.RawMessage("[]")}, 200, `"new":[]}`, true},
	"double":        {humanapitest.Fault{Kind: humanapitest.DoubleField, Field: "humanId", Value: json.RawMessage("1")}, 200, `"marker-human","humanId":1,`, true},
	"missing":       {humanapitest.Fault{Kind: humanapitest.MissingField, Field: "humanId"}, 200, `{"accessToken"`, true},
}

func TestFaults(t *testing.T) {
	for name, m := range faults {
		t.Run(name, func(t *testing.T) {
			s := start(t, humanapitest.Config{})
			token := s.NewSession(app, person, "")
			s.Misbehave(m.fault)
			r := exchange(t, s, token)
			status := r.status
			if r.err != nil {
				status = 0
			}
			if status != m.status || !strings.Contains(r.body, m.has) || m.has == "" && m.status != 0 && r.body != "" {
				t.Errorf("got %d %.300s", status, r.body)
			}
			if r.status != 0 && r.header.Get("Retry-After") != m.fault.RetryAfter || m.fault.Location != r.header.Get("Location") {
				t.Error("headers are not as wanted")
			}
			if got := s.Uses(token) == 1; got != m.effect || s.Requests()[0].Effect != m.effect {
				t.Errorf("took effect: %v, recorded %v, want %v", got, s.Requests()[0].Effect, m.effect)
			}
			if s.EndSession(token); exchange(t, s, token).status != 400 {
				t.Error("a fault is for one request")
			}
		})
	}
}

func TestEndless(t *testing.T) {
	s := start(t, humanapitest.Config{})
	s.Misbehave(humanapitest.Fault{Kind: humanapitest.Endless})
	res, err := http.Post(s.URL+humanapitest.TokensPath, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, 8<<20); err != nil {
		t.Error(err)
	}
}

func TestSurplus(t *testing.T) {
	s := start(t, humanapitest.Config{})
	s.Misbehave(humanapitest.Fault{Kind: humanapitest.Surplus})
	if r := exchange(t, s, s.NewSession(app, person, "")); r.status != 200 || r.fields["accessToken"] == nil {
		t.Errorf("got %d", r.status)
	}
}

// Faults wait for the request that they are for, and go in order.
func TestFaultQueue(t *testing.T) {
	s := start(t, humanapitest.Config{})
	s.Misbehave(humanapitest.Fault{Path: humanapitest.PublicTokensPath, Status: 599})
	s.Misbehave(humanapitest.Fault{ClientID: "marker-other", Status: 598})
	s.Misbehave(humanapitest.Fault{HumanID: "marker-other", Status: 597})
	s.Misbehave(humanapitest.Fault{HumanID: person, ClientID: app, Path: humanapitest.TokensPath, Status: 501, Times: 2})
	s.Misbehave(humanapitest.Fault{Status: 502, Permanent: true})
	for i, want := range []int{501, 501, 502, 502, 502} {
		if r := exchange(t, s, "x"); r.status != want {
			t.Errorf("%d: got %d, want %d", i, r.status, want)
		}
	}
	s.ClearFaults()
	if r := exchange(t, s, s.NewSession(app, person, "")); r.status != 200 {
		t.Errorf("got %d", r.status)
	}
}

// A delay ends when the client leaves, and the request takes effect then.
func TestClientLeaves(t *testing.T) {
	s := start(t, humanapitest.Config{})
	s.Misbehave(humanapitest.Fault{Delay: time.Hour})
	token := s.NewSession(app, person, "")
	client := &http.Client{Timeout: 50 * time.Millisecond}
	_, err := client.Post(s.URL+humanapitest.TokensPath, "application/json", strings.NewReader(
		`{"humanId":"`+person+`","clientId":"`+app+`","sessionToken":"`+token+`","clientSecret":"`+key+`"}`))
	if err == nil {
		t.Fatal("it was answered")
	}
	for end := time.Now().Add(5 * time.Second); s.Uses(token) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never took effect")
		}
	}
}

func TestCloseEndsDelays(t *testing.T) {
	s := humanapitest.New(humanapitest.Config{Apps: map[string]string{app: key}})
	if err := s.Open("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.Misbehave(humanapitest.Fault{DelayAnswer: time.Hour})
	token := s.NewSession(app, person, "")
	done := make(chan reply)
	go func() { done <- exchange(t, s, token) }()
	if err := s.Await(t.Context(), humanapitest.TokensPath, 1); err != nil {
		t.Fatal(err)
	}
	s.Close()
	<-done
}

func TestControl(t *testing.T) {
	s := start(t, humanapitest.Config{})
	post := func(path, body string) reply { return ask(t, s.URL+path, "application/json", body) }
	r := post("/sim/sessions", `{"clientId":"marker-app","humanId":"marker-human","clientUserId":"u"}`)
	token, _ := r.fields["sessionToken"].(string)
	if r.status != 200 || r.fields["humanId"] != person || r.fields["clientId"] != app || len(r.fields) != 3 {
		t.Fatalf("a session: %d %s", r.status, r.body)
	}
	if r := post("/sim/faults", `{"path":"/v1/connect/tokens","status":503,"retryAfter":"9","delay":"1ms","times":2}`); r.status != 204 {
		t.Errorf("a fault: %d %s", r.status, r.body)
	}
	if r := exchange(t, s, token); r.status != 503 || r.header.Get("Retry-After") != "9" {
		t.Errorf("the fault: %d", r.status)
	}
	for _, bad := range []string{`{"delay":"long"}`, `{"kind":"slow"}`, `{"statsu":1}`, `[]`} {
		if r := post("/sim/faults", bad); r.status != 400 {
			t.Errorf("%s: %d", bad, r.status)
		}
	}
	clear, err := http.NewRequest(http.MethodDelete, s.URL+"/sim/faults", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(clear)
	if err != nil || res.StatusCode != 204 {
		t.Errorf("clearing: %v", err)
	}
	if r := exchange(t, s, token); r.status != 200 {
		t.Errorf("after clearing: %d", r.status)
	}
	if r := post("/sim/secrets", `{"clientId":"marker-app","clientSecret":""}`); r.status != 204 || exchange(t, s, token).status != 401 {
		t.Errorf("removing the app: %d", r.status)
	}
	stats, err := http.Get(s.URL + "/sim/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Body.Close()
	text, _ := io.ReadAll(stats.Body)
	if string(text) != `{"counts":{"/v1/connect/tokens":3}}`+"\n" {
		t.Errorf("stats: %s", text)
	}
}
