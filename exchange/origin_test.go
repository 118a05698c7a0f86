package exchange

import (
	"io"
	stdlog "log"
	"strings"
	"testing"
)

var discard = stdlog.New(io.Discard, "", 0)

func TestOrigins(t *testing.T) {
	for text, want := range map[string]origin{
		"https://user.humanapi.co":      {true, "user.humanapi.co", "user.humanapi.co", "user.humanapi.co:443"},
		"https://user.humanapi.co/":     {true, "user.humanapi.co", "user.humanapi.co", "user.humanapi.co:443"},
		"https://User.HumanAPI.co:443":  {true, "user.humanapi.co", "User.HumanAPI.co", "User.HumanAPI.co:443"},
		"https://user.humanapi.co:8443": {true, "user.humanapi.co:8443", "user.humanapi.co", "user.humanapi.co:8443"},
		"https://[2001:db8::1]:8443":    {true, "[2001:db8::1]:8443", "2001:db8::1", "[2001:db8::1]:8443"},
		"http://127.0.0.1:80":           {false, "127.0.0.1", "127.0.0.1", "127.0.0.1:80"},
		"http://[::1]:8080":             {false, "[::1]:8080", "::1", "[::1]:8080"},
		"http://localhost:":             {false, "localhost", "localhost", "localhost:80"},
	} {
		got, err := parseOrigin(Config{UserURL: text, UnsafePlainHTTP: true})
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
}

func TestRefusedConfigs(t *testing.T) {
	for name, c := range map[string]Config{
		"nothing":              {},
		"no scheme":            {UserURL: "user.humanapi.co"},
		"other scheme":         {UserURL: "ftp://user.humanapi.co"},
		"path":                 {UserURL: "https://user.humanapi.co/v1"},
		"query":                {UserURL: "https://user.humanapi.co?marker-client-secret"},
		"empty query":          {UserURL: "https://user.humanapi.co?"},
		"fragment":             {UserURL: "https://user.humanapi.co#x"},
		"empty fragment":       {UserURL: "https://user.humanapi.co#"},
		"password":             {UserURL: "https://user:marker-client-secret@user.humanapi.co"},
		"other script":         {UserURL: "https://üser.humanapi.co"},
		"no host":              {UserURL: "https://:443"},
		"no port":              {UserURL: "https://user.humanapi.co:http"},
		"line break":           {UserURL: "https://user.humanapi.co\r\nX: y"},
		"escaped line break":   {UserURL: "https://user.humanapi.co%0d%0aX"},
		"plain":                {UserURL: "http://127.0.0.1:1"},
		"plain to elsewhere":   {UserURL: "http://user.humanapi.co", UnsafePlainHTTP: true},
		"plain to a lookalike": {UserURL: "http://127.0.0.1.humanapi.co", UnsafePlainHTTP: true},
		"plain through proxy":  {UserURL: "http://127.0.0.1:1", ProxyURL: "http://127.0.0.1:2", UnsafePlainHTTP: true},
		"proxy scheme":         {UserURL: "https://user.humanapi.co", ProxyURL: "socks5://127.0.0.1:2"},
		"proxy password":       {UserURL: "https://user.humanapi.co", ProxyURL: "http://user:marker-client-secret@127.0.0.1:2"},
		"no CA file":           {UserURL: "https://user.humanapi.co", CAFile: "/nonexistent/ca.pem"},
		"CA file without one":  {UserURL: "https://user.humanapi.co", CAFile: writeFile(t, "ca.pem", []byte("marker"))},
		"CA file too large":    {UserURL: "https://user.humanapi.co", CAFile: writeFile(t, "ca.pem", make([]byte, 1<<20+1))},
	} {
		_, err := New(c)
		if err == nil {
			t.Errorf("%s: it must be refused", name)
			continue
		}
		if strings.Contains(err.Error(), markerSecret) {
			t.Errorf("%s: the error quotes it", name)
		}
	}
}

// What "localhost" or a name of ours resolves to is looked at when it is dialled.
func TestLoopbackOnly(t *testing.T) {
	for address, ok := range map[string]bool{"127.0.0.1:80": true, "127.8.8.8:80": true, "[::1]:80": true,
		"10.0.0.1:80": false, "[2001:db8::1]:80": false, "localhost:80": false, "": false} {
		if err := loopbackOnly("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	d, err := newDialer(Config{}, origin{hostname: "x", host: "x", address: "192.0.2.1:80"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.dial(t.Context()); err != errNotLoopback {
		t.Errorf("got %v", err)
	}
}
