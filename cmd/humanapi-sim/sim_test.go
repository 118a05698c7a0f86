package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/cmd/internal/run"
)

// start runs the program in this process, and returns its URL and how to stop it.
func start(t testing.TB, args ...string) (url string, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	status := make(chan int, 1)
	go func() {
		std := run.IO{Stdin: strings.NewReader(""), Stdout: in, Stderr: io.Discard}
		status <- simulate(ctx, std, append([]string{"humanapi-sim"}, args...))
		_ = in.Close()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("no URL: %v", err)
	}
	return strings.TrimSpace(line), func() int { cancel(); return <-status }
}

func post(t testing.TB, url, body string, into any) int {
	t.Helper()
	res, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if into != nil {
		if err := json.NewDecoder(res.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	return res.StatusCode
}

func secretFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret, with a comma")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgram(t *testing.T) {
	url, stop := start(t, "--app", "marker-app="+secretFile(t, "marker-client-secret\n"), "--mode", "repeatable")
	var session map[string]string
	if n := post(t, url+"/sim/sessions", `{"clientId":"marker-app"}`, &session); n != 200 {
		t.Fatalf("a session: %d", n)
	}
	body, err := json.Marshal(map[string]string{"clientSecret": "marker-client-secret", "humanId": session["humanId"],
		"clientId": session["clientId"], "sessionToken": session["sessionToken"]})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var reply map[string]string
		if n := post(t, url+"/v1/connect/tokens", string(body), &reply); n != 200 || reply["accessToken"] == "" {
			t.Errorf("an exchange: %d", n)
		}
	}
	if status := stop(); status != 0 {
		t.Errorf("status %d", status)
	}
	if _, err := http.Get(url); err == nil {
		t.Error("it still listens")
	}
}

func TestMistakes(t *testing.T) {
	for name, m := range map[string]struct {
		args   []string
		status int
	}{
		"flag":          {[]string{"--bogus"}, 2},
		"argument":      {[]string{"x"}, 2},
		"flag value":    {[]string{"--keep", "x"}, 2},
		"mode":          {[]string{"--mode", "x"}, 2},
		"keep":          {[]string{"--keep", "0"}, 2},
		"all addresses": {[]string{"--listen", ":8080"}, 2},
		"not loopback":  {[]string{"--listen", "192.0.2.1:8080"}, 2},
		"no port":       {[]string{"--listen", "127.0.0.1"}, 2},
		"no file":       {[]string{"--app", "x"}, 2},
		"missing file":  {[]string{"--app", "x=/nonexistent"}, 1},
		"empty file":    {[]string{"--app", "x=" + secretFile(t, "\n")}, 1},
		"port in use":   {[]string{"--listen", "127.0.0.1:99999"}, 1},
	} {
		var out, errs bytes.Buffer
		std := run.IO{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
		if got := simulate(t.Context(), std, append([]string{"humanapi-sim"}, m.args...)); got != m.status {
			t.Errorf("%s: status %d, want %d", name, got, m.status)
		}
		if out.Len() > 0 || !strings.HasPrefix(errs.String(), "humanapi-sim: ") {
			t.Errorf("%s: stdout %q, stderr %q", name, out.String(), errs.String())
		}
	}
}
