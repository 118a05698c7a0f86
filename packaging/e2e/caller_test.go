package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// answer is what a caller got.
type answer struct {
	status int
	body   string
	header http.Header // only of rootCaller
}

// field is a top-level string of a JSON answer.
func (a answer) field(t testing.TB, name string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("status %d: the answer is no JSON object", a.status)
	}
	s, _ := m[name].(string)
	return s
}

// want checks status and error code ("" for a success).
func (a answer) want(t testing.TB, status int, code string) answer {
	t.Helper()
	if got := a.field(t, "error"); a.status != status || got != code {
		t.Errorf("got %d %q, want %d %q", a.status, got, status, code)
	}
	return a
}

// rootCaller calls from the test's own process, which is root.
type rootCaller struct {
	t    testing.TB
	http *http.Client
}

// root is a caller on that listener.
func (w *world) root(listener string) rootCaller {
	path := w.socket(listener)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return rootCaller{w.t, &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 128}}}
}

// try sends one request; headers are "Name: value".
func (c rootCaller) try(method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequest(method, "http://tokenvault"+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(b), resp.Header}, err
}

func (c rootCaller) do(method, path, body string, headers ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, headers...)
	must(c.t, err)
	return a
}

// curl is a real caller under another uid: curl --unix-socket.
type curl struct {
	w      *world
	uid    uint32
	groups []uint32
	socket string
}

func (w *world) web(listener string) curl {
	return curl{w, webUID, []uint32{publicGID, privateGID}, w.socket(listener)}
}

func (w *world) worker(listener string) curl {
	return curl{w, workerUID, []uint32{publicGID, privateGID}, w.socket(listener)}
}

func (w *world) stranger(listener string) curl {
	return curl{w, strangerUID, []uint32{publicGID, privateGID, adminGID}, w.socket(listener)}
}

// do runs curl with these arguments and the path; body "" sends none.
func (c curl) do(method, path, body string, args ...string) answer {
	c.w.t.Helper()
	all := []string{"-sS", "--max-time", "40", "--unix-socket", c.socket, "-X", method, "-w", "\n%{http_code}"}
	if body != "" {
		all = append(all, "--data-binary", "@-")
	}
	all = append(append(all, args...), "http://localhost"+path)
	cmd := exec.Command("curl", all...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	cmd.SysProcAttr = asUser(c.uid, c.groups...)
	out := runCommand(c.w.t, cmd, body)
	i := strings.LastIndexByte(out.stdout, '\n')
	status, err := strconv.Atoi(out.stdout[i+1:])
	if err != nil || out.code != 0 {
		c.w.t.Fatalf("curl as uid %d: exit %d: %s", c.uid, out.code, out.stderr)
	}
	return answer{status: status, body: out.stdout[:i]}
}

// ---- what is sent ----

// sto is a sessionTokenObject of a new finish event.
type sto struct{ clientID, humanID, sessionToken string }

func (w *world) finishEvent(humanID, clientUserID string) sto {
	return sto{shop, humanID, w.sim.NewSession(shop, humanID, clientUserID)}
}

func (s sto) json() string {
	return fmt.Sprintf(`{"humanId":%q,"clientId":%q,"sessionToken":%q}`, s.humanID, s.clientID, s.sessionToken)
}

func (s sto) form() string {
	return url.Values{"humanId": {s.humanID}, "clientId": {s.clientID}, "sessionToken": {s.sessionToken}}.Encode()
}

const (
	jsonType = "Content-Type: application/json"
	formType = "Content-Type: application/x-www-form-urlencoded"
	tokens   = "/v1/connect/tokens"
)

// connects reports whether this user may connect to the socket at all.
func (c curl) connects() bool {
	cmd := exec.Command("curl", "-s", "--max-time", "10", "--unix-socket", c.socket, "http://localhost/v1/health")
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, "/"
	cmd.SysProcAttr = asUser(c.uid, c.groups...)
	return runCommand(c.w.t, cmd, "").code == 0
}

// post is a plain POST over TCP.
func post(t testing.TB, url, body string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: status %d", url, resp.StatusCode)
	}
}
