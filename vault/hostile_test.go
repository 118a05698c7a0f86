package vault

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// newHostile is a client that is logged in at what answers every other request
// with these bytes, and asks once.
func newHostile(t *testing.T, answers func(path string) string) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { hostileAnswer(c, answers) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, pacedToken)
	c, err := New(Config{Address: "http://" + l.Addr().String(), UnsafePlainHTTP: true, Timeout: 2 * time.Second, Auth: AuthConfig{Method: "token", TokenFile: file}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// hostileAnswer answers one request, and then waits for the client to go: what it
// has not sent by then never comes.
func hostileAnswer(c net.Conn, answers func(path string) string) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, req.Body)
	path := strings.TrimPrefix(req.URL.Path, "/v1/")
	text := ok200(`{"data":{"ttl":0,"expire_time":null}}`)
	if path != lookupPath {
		text = answers(path)
	}
	endless := strings.HasSuffix(text, "ENDLESS")
	text = strings.TrimSuffix(text, "ENDLESS")
	if _, err := io.WriteString(c, text); err != nil {
		return
	}
	for endless {
		if _, err := io.WriteString(c, strings.Repeat(text[len(text)-1:], 64<<10)); err != nil {
			return
		}
	}
	if strings.HasSuffix(text, "}") || strings.HasSuffix(text, ">") {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	_, _ = io.Copy(io.Discard, r)
}

func ok200(body string) string { return answered(200, "", body) }

func answered(status int, header, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s", status, header, len(body), body)
}

func kv(fields, metadata string) string {
	return ok200(`{"data":{"data":` + fields + `,"metadata":` + metadata + `}}`)
}

// TestHostileAnswers: whatever answers, and however, is refused with a typed error
// in time, and nothing of it is told on.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	good := `{"clientSecret":"` + markerSecret + `"}`
	for what, c := range map[string]struct {
		answer string
		want   error
		says   string
	}{
		"redirect to a metadata address": {answered(307, "Location: http://169.254.169.254/latest\r\n", good), ErrUnreachable, "redirect"},
		"redirect with an error body":    {answered(301, "Location: https://marker-upstream.test/\r\n", `{"errors":[]}`), ErrUnreachable, "redirect"},
		"large head":                     {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("marker-upstream", 5000) + "\r\n\r\n{}", ErrUnreachable, "64 KiB"},
		"endless head":                   {"HTTP/1.1 200 OK\r\nX: aENDLESS", ErrUnreachable, ""},
		"large body":                     {ok200(`{"a":"` + strings.Repeat("a", 2<<20) + `"}`), ErrUnreachable, "1 MiB"},
		"endless body":                   {"HTTP/1.1 200 OK\r\n\r\n ENDLESS", ErrUnreachable, "1 MiB"},
		"tiny chunks":                    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;marker-exten\r\n \r\n", 1<<18), ErrUnreachable, "on the wire"},
		"slow head":                      {"HTTP/1.1 200 OK\r\nX", ErrUnreachable, "in time"},
		"slow body":                      {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", ErrUnreachable, "in time"},
		"silence":                        {"", ErrUnreachable, "in time"},
		"a storm of 1xx":                 {strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000) + ok200(good), ErrUnreachable, ""},
		"HTTP/0.9":                       {"<html>marker-upstream</html>", ErrUnreachable, "does not speak HTTP"},
		"another protocol":               {"SSH-2.0-marker-upstream\r\n>", ErrUnreachable, "does not speak HTTP"},
		"two lengths":                    {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}", ErrUnreachable, ""},
		"negative length":                {"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}", ErrUnreachable, ""},
		"huge length":                    {"HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\n{}", ErrUnreachable, "closed"},
		"cut short":                      {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", ErrUnreachable, "closed"},
		"strange coding":                 {"HTTP/1.1 200 OK\r\nTransfer-Encoding: marker-upstream\r\n\r\n{}", ErrUnreachable, ""},
		"gzip that was not asked for":    {answered(200, "Content-Encoding: gzip\r\n", "\x1f\x8b\x08\x00}"), ErrUnreachable, "JSON"},
		"HTML":                           {ok200("<html>marker-upstream</html>"), ErrUnreachable, "JSON"},
		"HTML that says no":              {answered(403, "", "<html>marker-upstream</html>"), ErrUnreachable, "not as Vault"},
		"a list":                         {ok200(`[{"data":{}}]`), ErrUnreachable, "JSON"},
		"two objects":                    {ok200(`{"data":{}}{"data":{}}`), ErrUnreachable, "JSON"},
		"no UTF-8":                       {ok200("{\"data\":\"\xff\"}"), ErrUnreachable, "JSON"},
		"data twice":                     {ok200(`{"data":{"data":` + good + `,"metadata":{"version":1}},"data":{}}`), ErrUnreachable, "JSON"},
		"nothing":                        {answered(200, "", ""), ErrMalformed, ""},
		"no data":                        {ok200(`{}`), ErrMalformed, "no version"},
		"data is a list":                 {ok200(`{"data":[]}`), ErrMalformed, ""},
		"secret twice":                   {kv(`{"clientSecret":"a","clientSecret":"b"}`, `{"version":1}`), ErrMalformed, ""},
		"secret twice, escaped":          {kv(`{"clientSecret":"a","client\u0053ecret":"b"}`, `{"version":1}`), ErrMalformed, ""},
		"secret in another case":         {kv(`{"clientsecret":"`+markerSecret+`"}`, `{"version":1}`), ErrMalformed, "no field"},
		"secret is a number":             {kv(`{"clientSecret":1}`, `{"version":1}`), ErrMalformed, "not a string"},
		"secret is a list":               {kv(`{"clientSecret":["`+markerSecret+`"]}`, `{"version":1}`), ErrMalformed, "not a string"},
		"secret is null":                 {kv(`{"clientSecret":null}`, `{"version":1}`), ErrMalformed, "not a string"},
		"secret is empty":                {kv(`{"clientSecret":""}`, `{"version":1}`), ErrMalformed, "no field"},
		"half a surrogate pair":          {kv(`{"clientSecret":"\ud800"}`, `{"version":1}`), ErrMalformed, "not a string"},
		"app key is a number":            {kv(`{"clientSecret":"`+markerSecret+`","appKey":1}`, `{"version":1}`), ErrMalformed, "appKey"},
		"no version":                     {kv(good, `{}`), ErrMalformed, "no version"},
		"negative version":               {kv(good, `{"version":-1}`), ErrMalformed, ""},
		"version is text":                {kv(good, `{"version":"1"}`), ErrMalformed, ""},
		"version has a fraction":         {kv(good, `{"version":1.5}`), ErrMalformed, ""},
		"version in two cases":           {kv(good, `{"version":1,"Version":2}`), ErrMalformed, ""},
		"deleted":                        {answered(404, "", `{"data":{"data":`+good+`,"metadata":{"version":3}}}`), ErrNotFound, "version 3"},
		"destroyed":                      {kv(good, `{"version":3,"destroyed":true}`), ErrNotFound, "version 3"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			client := newHostile(t, func(string) string { return c.answer })
			began := time.Now()
			got, err := client.ReadApp(t.Context(), app)
			want(t, err, c.want, c.says)
			if !got.ClientSecret.IsZero() || strings.Contains(err.Error(), "169.254") {
				t.Error("something of the answer was taken")
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestLargeEntry: an entry of any size up to the limit arrives whole.
func TestLargeEntry(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, readBuffer - 200, readBuffer, 3 * readBuffer, 100 << 10, maxAnswer - 200} {
		value := strings.Repeat("m", size)
		for what, answer := range map[string]string{
			"told": kv(`{"clientSecret":"`+value+`"}`, `{"version":1}`),
			"not":  "HTTP/1.1 200 OK\r\n\r\n" + `{"data":{"data":{"clientSecret":"` + value + `"},"metadata":{"version":1}}}`,
		} {
			got, err := newHostile(t, func(string) string { return answer }).ReadApp(t.Context(), app)
			if err != nil || !got.ClientSecret.Equal(text(value)) {
				t.Errorf("%d bytes, length %s: %v", size, what, err)
			}
			got.ClientSecret.Wipe()
		}
	}
}

// TestHostileTransit: a key that binds nothing, and plaintexts that are none.
func TestHostileTransit(t *testing.T) {
	t.Parallel()
	fine := `{"data":{"type":"aes256-gcm96","derived":true,"latest_version":1}}`
	for what, c := range map[string]struct{ key, plaintext, ciphertext string }{
		"key of another type":     {key: `{"data":{"type":"ed25519","derived":true,"latest_version":1}}`},
		"key that does not bind":  {key: `{"data":{"type":"aes256-gcm96","latest_version":1}}`},
		"key that can be read":    {key: `{"data":{"type":"aes256-gcm96","derived":true,"exportable":true,"latest_version":1}}`},
		"key in two cases":        {key: `{"data":{"type":"aes256-gcm96","derived":false,"Derived":true,"latest_version":1}}`},
		"no plaintext":            {plaintext: `{}`},
		"empty plaintext":         {plaintext: `{"plaintext":""}`},
		"plaintext is a number":   {plaintext: `{"plaintext":1}`},
		"plaintext is no base64":  {plaintext: `{"plaintext":"marker-upstream!"}`},
		"plaintext has a newline": {plaintext: `{"plaintext":"bWFya\nA=="}`},
		"plaintext twice":         {plaintext: `{"plaintext":"bWFya2Vy","plaintext":"bWFya2Vz"}`},
		"ciphertext of no form":   {ciphertext: `{"ciphertext":"marker-upstream"}`},
		"no ciphertext":           {ciphertext: `{}`},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			client := newHostile(t, func(path string) string {
				switch {
				case strings.Contains(path, "/keys/") && c.key == "":
					return ok200(fine)
				case strings.Contains(path, "/keys/"):
					return ok200(c.key)
				case strings.Contains(path, "/decrypt/"):
					return ok200(`{"data":` + c.plaintext + `}`)
				}
				return ok200(`{"data":` + c.ciphertext + `}`)
			})
			var err error
			if c.plaintext != "" || c.key != "" {
				_, err = client.Unwrap(t.Context(), "vault:v1:bWFya2Vy", []byte("here"))
				want(t, err, ErrMalformed)
			}
			if c.ciphertext != "" || c.key != "" {
				_, err = client.Wrap(t.Context(), text("marker-key"), []byte("here"))
				want(t, err, ErrMalformed)
			}
		})
	}
}

// TestOlderVersion: a Vault that goes back to an older secret is believed, as it is
// about everything: it may have been restored. The newer one can still be tried.
func TestOlderVersion(t *testing.T) {
	t.Parallel()
	version := make(chan int, 1)
	version <- 7
	client := newHostile(t, func(string) string {
		v := <-version
		version <- v
		return kv(fmt.Sprintf(`{"clientSecret":"marker-version-%d"}`, v), fmt.Sprintf(`{"version":%d}`, v))
	})
	s, err := NewSecrets(SecretsConfig{Client: client, Apps: []user.ClientID{app}})
	if err != nil {
		t.Fatal(err)
	}
	s.holds(t, 7, "marker-version-7")
	<-version
	version <- 3
	s.Check(t.Context())
	s.holds(t, 3, "marker-version-3")
	other, ok, err := s.Refused(t.Context(), app, 3)
	if err != nil || !ok || other.Version != 7 {
		t.Errorf("version %d, %v, %v", other.Version, ok, err)
	}
}

// TestTokenThatIsNone: what would make a header of its own is not sent.
func TestTokenThatIsNone(t *testing.T) {
	for _, bad := range []string{"marker\r\nX-Vault-Namespace: a", "marker token", "marker\x00", "markér", "marker\t"} {
		c := newHostile(t, func(string) string { return ok200("{}") })
		sent := c.Requests()
		c.main.setToken(text(bad))
		_, err := c.ReadApp(t.Context(), app)
		want(t, err, ErrUnreachable, "was not sent")
		if c.Requests() != sent {
			t.Error("it was sent")
		}
		var none *noAnswer
		if !errors.As(err, &none) || strings.Contains(err.Error(), "marker") && !strings.Contains(err.Error(), string(app)) {
			t.Error("the token is told")
		}
	}
}
