package server

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
)

const markerSession = "marker-session-token"

// What is withheld is the token that the decoders would have found, and they find
// everything else as before.
func FuzzWithhold(f *testing.F) {
	for _, body := range []string{
		`{"humanId":"h","clientId":"c","sessionToken":"marker-session-token"}`, `{"sessionTokenObject":{"sessionToken" : "marker-session-token","humanId":"h"}}`,
		`{"x":{"sessionToken":"marker"},"sessionToken":"marker-session-token","humanId":"h"}`, `{"humanId":"sessionToken","sessionToken":"a\\/b"}`,
		`{"session\u0054oken":"marker","x":{"sessionToken":"other!"},"humanId":"h"}`, `{"x\"sessionToken":"marker","sessionToken":"\"sessionToken\":"}`,
		`{"sessionToken":"[[[[[[1]]]]]]"}`, `{"sessionToken":""}`, `{"sessionToken":7}`, `{"sessionToken":{"a":"sessionToken"}}`, `{"sessionToken":"` + "\ufffd" + `"}`,
		"humanId=h&clientId=c&sessionToken=marker-session-token", "sessionTokenObject%5BsessionToken%5D=marker&humanId=h", "sessionToken=a&session%54oken=b",
		"sessionToken=a%20b", "sessionToken={}&humanId=h", "sessionToken=", "sessionToken=a&sessionToken=b", `sessionToken=a&sessionTokenObject={"sessionToken":"b"}`,
	} {
		f.Add([]byte(body), false)
		f.Add([]byte(body), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, form bool) {
		h := http.Header{}
		if form {
			h.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		want, refused := parseBody(h, bytes.Clone(body), fieldHuman|fieldToken)
		held := withhold(body)
		got, refusedNow := parseBody(h, body, fieldHuman|fieldToken)
		if (refused == nil) != (refusedNow == nil) {
			t.Fatalf("refused %v, and then %v", refused, refusedNow)
		}
		if got.sessionToken.set && !held.IsZero() {
			got.sessionToken.text = string(held.Reveal())
		}
		if refused == nil && got != want {
			t.Fatalf("%+v is read as %+v", want, got)
		}
	})
}

// The ways in which a token mostly comes are all withheld.
func TestWithheld(t *testing.T) {
	for _, body := range []string{
		`{"humanId":"h","sessionToken":"marker-session-token"}`, `{ "sessionTokenObject" : { "sessionToken" :` + "\n" + `"marker-session-token" } }`,
		`{"clientUserId":"a\/b","sessionToken":"marker-session-token"}`, "humanId=h&sessionToken=marker-session-token&clientId=a%40b",
	} {
		b := []byte(body)
		if held := withhold(b); string(held.Reveal()) != markerSession || strings.Contains(string(b), markerSession) || len(b) != len(body) {
			t.Errorf("the token of %q is not withheld", strings.ReplaceAll(body, markerSession, "…"))
		}
	}
}

func TestReadAll(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 513, 5000} {
		for _, size := range []int64{-1, 0, int64(n), 10} {
			text := strings.Repeat("x", n)
			if b, err := readAll(strings.NewReader(text), size); err != nil || string(b) != text {
				t.Errorf("of %d bytes, %d announced: %d, %v", n, size, len(b), err)
			}
		}
	}
}
