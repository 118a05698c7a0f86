package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
)

const (
	markerApp      = "marker-client-id"
	markerSecret   = "marker-client-secret"
	markerHuman    = "marker-human-id"
	markerLocal    = "marker-client-user-id"
	markerUpstream = "marker-upstream-words"
)

func startSim(t testing.TB, c humanapitest.Config) *humanapitest.Server {
	t.Helper()
	c.Apps = map[string]string{markerApp: markerSecret}
	return humanapitest.Start(t, c)
}

func newClient(t testing.TB, c Config) *Client {
	t.Helper()
	if strings.HasPrefix(c.UserURL, "http:") {
		c.UnsafePlainHTTP = true
	}
	cl, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func finish(sim *humanapitest.Server) TokensRequest {
	return request(sim.NewSession(markerApp, markerHuman, markerLocal))
}

func request(sessionToken string) TokensRequest {
	return TokensRequest{ClientID: markerApp, HumanID: markerHuman,
		SessionToken: secret.FromString(sessionToken), ClientSecret: secret.FromString(markerSecret)}
}

func publicRequest() PublicTokenRequest {
	return PublicTokenRequest{ClientID: markerApp, HumanID: markerHuman, ClientSecret: secret.FromString(markerSecret)}
}

// wantClass fails unless err is an *Error of that class that quotes nobody.
func wantClass(t testing.TB, err error, class Class, status int) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %T, want an *Error of class %q", err, class)
	}
	noMarkers(t, fmt.Sprintf("%v %+v %#v %v", err, e, e, e.Err))
	if e.Class != class || e.Status != status {
		t.Fatalf("got class %q and status %d, want %q and %d: %v", e.Class, e.Status, class, status, err)
	}
	return e
}

// noMarkers fails when a text has a secret, an id, or words of upstream.
func noMarkers(t testing.TB, text string) {
	t.Helper()
	for _, bad := range []string{markerApp, markerSecret, markerHuman, markerLocal, markerUpstream,
		"sim-access", "sim-public", "sim-session", "sim-secret", "sim-surplus", "simulated page"} {
		if strings.Contains(text, bad) {
			t.Errorf("a text that may be printed holds what only %d bytes of marker may", len(bad))
		}
	}
}

func TestTokens(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL})
	reply, err := c.Tokens(t.Context(), finish(sim))
	if err != nil {
		t.Fatal(err)
	}
	access, public := sim.Current(markerApp, markerHuman)
	if !reply.AccessToken.Equal(secret.FromString(access)) || string(reply.PublicToken) != public ||
		reply.HumanID != markerHuman || reply.ClientID != markerApp || reply.ClientUserID != markerLocal || !reply.HasClientUserID {
		t.Error("the reply is not what Human API has")
	}
	got := sim.Requests()[0]
	if got.Path != "/v1/connect/tokens" || got.Method != "POST" || got.ContentType != "application/json" ||
		"http://"+got.Host != sim.URL || !got.Effect {
		t.Error("the request does not look like one for a token exchange")
	}
	if h := strings.Join(got.Headers, " "); h != "Accept Content-Length Content-Type User-Agent" {
		t.Errorf("headers are %s", h)
	}
	if len(got.Fields) != 4 || got.Fields["clientSecret"] != markerSecret || got.Fields["clientId"] != markerApp || got.Fields["humanId"] != markerHuman {
		t.Error("the body is not the sessionTokenObject with the clientSecret")
	}
}

func TestPublicToken(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL})
	_, err := c.PublicToken(t.Context(), publicRequest())
	wantClass(t, err, Refused, 404)
	sim.NewSession(markerApp, markerHuman, markerLocal)
	token, err := c.PublicToken(t.Context(), publicRequest())
	if err != nil {
		t.Fatal(err)
	}
	if _, public := sim.Current(markerApp, markerHuman); string(token) != public || token == "" {
		t.Error("not the user's publicToken")
	}
	for _, f := range []humanapitest.Fault{{Kind: humanapitest.WrongUser}, {Kind: humanapitest.WrongClient},
		{Kind: humanapitest.MissingField, Field: "humanId"}, {Kind: humanapitest.MissingField, Field: "publicToken"}} {
		sim.Misbehave(f)
		_, err := c.PublicToken(t.Context(), publicRequest())
		wantClass(t, err, Invalid, 200)
	}
	sim.Misbehave(humanapitest.Fault{Kind: humanapitest.SetField, Field: "clientUserId", Value: json.RawMessage("5")})
	if _, err := c.PublicToken(t.Context(), publicRequest()); err != nil {
		t.Errorf("a field that is not needed: %v", err)
	}
}

func TestOldReplies(t *testing.T) {
	sim := startSim(t, humanapitest.Config{OmitClientID: true, NullClientUserID: true})
	c := newClient(t, Config{UserURL: sim.URL})
	reply, err := c.Tokens(t.Context(), request(sim.NewSession(markerApp, markerHuman, "")))
	if err != nil {
		t.Fatal(err)
	}
	if reply.ClientID != "" || reply.HasClientUserID || reply.ClientUserID != "" {
		t.Error("what is absent must read as absent")
	}
	sim.Misbehave(humanapitest.Fault{Kind: humanapitest.SetField, Field: "clientUserId", Value: json.RawMessage(`""`)})
	reply, err = c.Tokens(t.Context(), finish(sim))
	if err != nil || !reply.HasClientUserID || reply.ClientUserID != "" {
		t.Errorf("an empty clientUserId is one: %v", err)
	}
}

func raw(text string) json.RawMessage { return json.RawMessage(text) }

// misbehaviours gives each way to be wrong the class that it must have.
var misbehaviours = map[string]struct {
	fault  humanapitest.Fault
	class  Class
	status int
}{
	"bad request":        {humanapitest.Fault{Status: 400}, Refused, 400},
	"unauthorized":       {humanapitest.Fault{Status: 401}, Unauthorized, 401},
	"forbidden":          {humanapitest.Fault{Status: 403}, Unauthorized, 403},
	"gone":               {humanapitest.Fault{Status: 410}, Refused, 410},
	"unprocessable":      {humanapitest.Fault{Status: 422}, Refused, 422},
	"too many":           {humanapitest.Fault{Status: 429, RetryAfter: "7"}, TryLater, 429},
	"server error":       {humanapitest.Fault{Status: 500}, Unknown, 500},
	"after the fact":     {humanapitest.Fault{Status: 502, TakesEffect: true}, Unknown, 502},
	"maintenance":        {humanapitest.Fault{Status: 503, RetryAfter: "7"}, Unknown, 503},
	"no status at all":   {humanapitest.Fault{Status: 799}, Unknown, 799},
	"redirect":           {humanapitest.Fault{Kind: humanapitest.Redirect}, Unknown, 307},
	"redirect away":      {humanapitest.Fault{Kind: humanapitest.Redirect, Status: 302, Location: "http://" + markerUpstream}, Unknown, 302},
	"not modified":       {humanapitest.Fault{Status: 304}, Unknown, 304},
	"too slow":           {humanapitest.Fault{Status: 408}, Unknown, 408},
	"misdirected":        {humanapitest.Fault{Status: 421}, Unknown, 421},
	"too early":          {humanapitest.Fault{Status: 425, RetryAfter: "7"}, Unknown, 425},
	"dropped before":     {humanapitest.Fault{Kind: humanapitest.DropBefore}, Unknown, 0},
	"dropped after":      {humanapitest.Fault{Kind: humanapitest.DropAfter}, Unknown, 0},
	"head cut":           {humanapitest.Fault{Kind: humanapitest.CutHead}, Unknown, 0},
	"no HTTP":            {humanapitest.Fault{Kind: humanapitest.NoHTTP}, Unknown, 0},
	"head too large":     {humanapitest.Fault{Kind: humanapitest.BigHeader}, Unknown, 0},
	"truncated":          {humanapitest.Fault{Kind: humanapitest.Truncated}, Unknown, 200},
	"truncated refusal":  {humanapitest.Fault{Kind: humanapitest.Truncated, Status: 400}, Refused, 400},
	"empty":              {humanapitest.Fault{Kind: humanapitest.Empty}, Unreadable, 200},
	"no content":         {humanapitest.Fault{Kind: humanapitest.Empty, Status: 204}, Unreadable, 204},
	"page":               {humanapitest.Fault{Kind: humanapitest.HTML}, Unreadable, 200},
	"comma too many":     {humanapitest.Fault{Kind: humanapitest.NotJSON}, Unreadable, 200},
	"huge":               {humanapitest.Fault{Kind: humanapitest.Huge}, Unreadable, 200},
	"endless":            {humanapitest.Fault{Kind: humanapitest.Endless}, Unreadable, 200},
	"endless refusal":    {humanapitest.Fault{Kind: humanapitest.Endless, Status: 404}, Refused, 404},
	"no UTF-8":           {set("accessToken", "\"sim-access-\xff\""), Unreadable, 200},
	"no access token":    {missing("accessToken"), Invalid, 200},
	"no public token":    {missing("publicToken"), Invalid, 200},
	"no human id":        {missing("humanId"), Invalid, 200},
	"number":             {humanapitest.Fault{Kind: humanapitest.WrongType, Field: "accessToken"}, Invalid, 200},
	"number as user":     {humanapitest.Fault{Kind: humanapitest.WrongType, Field: "clientUserId"}, Invalid, 200},
	"object":             {set("publicToken", `{"a":"b"}`), Invalid, 200},
	"null":               {set("accessToken", "null"), Invalid, 200},
	"empty token":        {set("accessToken", `""`), Invalid, 200},
	"empty client id":    {set("clientId", `""`), Invalid, 200},
	"line break":         {set("accessToken", `"sim-access\r\nX: y"`), Invalid, 200},
	"NUL":                {set("publicToken", `"sim-public\u0000"`), Invalid, 200},
	"C1 control":         {set("humanId", `"marker\u0085"`), Invalid, 200},
	"half a surrogate":   {set("accessToken", `"sim-access-\ud83d"`), Invalid, 200},
	"too long":           {set("accessToken", `"`+strings.Repeat("x", maxField+1)+`"`), Invalid, 200},
	"twice":              {humanapitest.Fault{Kind: humanapitest.DoubleField, Field: "accessToken"}, Invalid, 200},
	"twice, another one": {humanapitest.Fault{Kind: humanapitest.DoubleField, Field: "humanId", Value: raw(`"other"`)}, Invalid, 200},
	"twice, in disguise": {set("hum\\u0061nId", `"other"`), Invalid, 200},
}

func missing(field string) humanapitest.Fault {
	return humanapitest.Fault{Kind: humanapitest.MissingField, Field: field}
}

func set(field, value string) humanapitest.Fault {
	return humanapitest.Fault{Kind: humanapitest.SetField, Field: field, Value: raw(value)}
}

func TestMisbehaviour(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	var log syncBuffer
	c := newClient(t, Config{UserURL: sim.URL, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for name, m := range misbehaviours {
		t.Run(name, func(t *testing.T) {
			before := sim.Count(tokensPath)
			m.fault.Message = markerUpstream
			sim.Misbehave(m.fault)
			_, err := c.Tokens(t.Context(), finish(sim))
			e := wantClass(t, err, m.class, m.status)
			if want := map[bool]time.Duration{true: 7 * time.Second}[m.fault.RetryAfter != ""]; e.RetryAfter != want {
				t.Errorf("advice is %v, want %v", e.RetryAfter, want)
			}
			if n := sim.Count(tokensPath) - before; n != 1 {
				t.Errorf("%d requests arrived, want 1", n)
			}
			if _, err := c.Tokens(t.Context(), finish(sim)); err != nil {
				t.Errorf("the next attempt: %v", err)
			}
		})
	}
	for path, n := range sim.Counts() {
		if path != tokensPath {
			t.Errorf("%d requests went elsewhere", n)
		}
	}
	noMarkers(t, log.String())
}

// A 2xx is a success whichever it is: the documentation's own 201 is one.
func TestCreated(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL})
	sim.Misbehave(humanapitest.Fault{Status: 201})
	if _, err := c.Tokens(t.Context(), finish(sim)); err != nil {
		t.Error(err)
	}
}

func TestBadSecret(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL})
	r := finish(sim)
	sim.RotateSecret(markerApp, "marker-client-secret-2")
	_, err := c.Tokens(t.Context(), r)
	wantClass(t, err, Unauthorized, 401)
	_, err = c.PublicToken(t.Context(), publicRequest())
	wantClass(t, err, Unauthorized, 401)
}

func TestNothingToSend(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL})
	for _, r := range []TokensRequest{{}, request(""), request("marker\xff"), func() TokensRequest { r := request("x"); r.HumanID = ""; return r }()} {
		_, err := c.Tokens(t.Context(), r)
		wantClass(t, err, NotSent, 0)
	}
	if n := sim.Count(tokensPath); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

func TestTimeout(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL, Timeout: 50 * time.Millisecond})
	sim.Misbehave(humanapitest.Fault{Hold: make(chan struct{})})
	_, err := c.Tokens(t.Context(), finish(sim))
	if wantClass(t, err, Unknown, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	sim.Misbehave(humanapitest.Fault{Kind: humanapitest.Endless, Status: 299})
	_, err = c.Tokens(t.Context(), finish(sim))
	wantClass(t, err, Unreadable, 299)
}

func TestCancel(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL})
	ctx, cancel := context.WithCancel(t.Context())
	sim.Misbehave(humanapitest.Fault{Hold: make(chan struct{})})
	go func() {
		_ = sim.Await(ctx, tokensPath, 1)
		cancel()
	}()
	_, err := c.Tokens(ctx, finish(sim))
	if wantClass(t, err, Unknown, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	_, err = c.Tokens(ctx, finish(sim))
	if wantClass(t, err, NotSent, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// More callers than connections: everyone is served, and gets their own answer.
func TestConcurrent(t *testing.T) {
	sim := startSim(t, humanapitest.Config{})
	c := newClient(t, Config{UserURL: sim.URL, Timeout: time.Minute})
	var wg sync.WaitGroup
	for i := range 2 * maxConns {
		wg.Go(func() {
			human := fmt.Sprintf("%s-%d", markerHuman, i)
			r := request(sim.NewSession(markerApp, human, ""))
			r.HumanID = user.HumanID(human)
			reply, err := c.Tokens(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			access, public := sim.Current(markerApp, human)
			if string(reply.HumanID) != human || string(reply.PublicToken) != public || !reply.AccessToken.Equal(secret.FromString(access)) {
				t.Error("an answer went to another caller")
			}
		})
	}
	wg.Wait()
	addresses := map[string]bool{}
	for _, r := range sim.Requests() {
		addresses[r.RemoteAddr] = true
	}
	if len(addresses) > maxConns {
		t.Errorf("%d connections, want at most %d", len(addresses), maxConns)
	}
}

// syncBuffer is a bytes.Buffer for several writers.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// runClient in the environment makes this program the client of TestCopiesInMemory.
const runClient = "TOKENVAULT_TEST_EXCHANGE_CLIENT"

func TestMain(m *testing.M) {
	if os.Getenv(runClient) != "" {
		if err := runAsClient(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return
	}
	// Nothing here may listen to these.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"} {
		_ = os.Setenv(name, "http://127.0.0.1:1")
	}
	_ = os.Unsetenv("NO_PROXY")
	m.Run()
}
