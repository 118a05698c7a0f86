package exchange

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	for body, want := range map[string]string{
		`{"humanId":"h","accessToken":"a","publicToken":"p"}`:                                    "h a p",
		" \n{ \"humanId\" :\t\"h\" , \"accessToken\":\"a\",\r\n\"publicToken\":\"p\" } \n":       "h a p",
		`{"humanId":"\u0068\/","accessToken":"\"\\a","publicToken":"p"}`:                         `h/ "\a p`,
		`{"humanId":"\ud83d\ude00é","accessToken":"a=_-","publicToken":"\u00FC\u20ac","x":null}`: "😀é a=_- ü€",
		`{"HumanId":1,"humanid":2,"x":{"humanId":3},"y":["humanId",4],"\ud800":5,"z":-1.5e-7,"w":true,` +
			`"humanId":"h","accessToken":"a","publicToken":"p"}`: "h a p",
		`{"x":"}","y":"\\","z":"\"","a":[],"b":{},"humanId":"h","accessToken":"a","publicToken":"p","c":0}`: "h a p",
	} {
		v, err := parse([]byte(body), tokensWanted)
		if got := string(v["humanId"]) + " " + string(v["accessToken"]) + " " + string(v["publicToken"]); err != nil || got != want {
			t.Errorf("%s: got %s, %v", body, got, err)
		}
	}
}

func TestParseLimits(t *testing.T) {
	for n, ok := range map[int]bool{1: true, 260: true, maxField: true, maxField + 1: false} {
		body := `{"humanId":"h","accessToken":"` + strings.Repeat("a", n) + `","publicToken":"p"}`
		if _, err := parse([]byte(body), tokensWanted); (err == nil) != ok {
			t.Errorf("%d: %v", n, err)
		}
	}
	deep := `{"x":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + `}`
	if _, err := parse([]byte(deep), tokensWanted); err != errNoObject {
		t.Errorf("got %v", err)
	}
	for _, body := range []string{"", " ", "null", "[]", `"x"`, "1", "{", "{}{}", `{"a":1}x`, "\ufeff{}", "{\"a\":\"\x01\"}"} {
		if _, err := parse([]byte(body), tokensWanted); err == nil || errors.Is(err, errInvalid) {
			t.Errorf("%q: got %v", body, err)
		}
	}
}

// FuzzParse holds the parser to encoding/json: where that and our rules find
// values, parse finds the same; and what parse takes, encoding/json finds too.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{goodBody, "", "{}", `{"humanId":"\ud83d\ude00","accessToken":"\ud83d","publicToken":"p"}`,
		`{"humanId":"h","humanId":"h","accessToken":"a","publicToken":"p"}`, `{"humanId" : "h", "accessToken":"\"\\\/\b\f\n\r\t","publicToken":null}`,
		`{"clientUserId":"","clientId":null,"a":[{"}":"]"}],"b":-1.0E+3,"humanId":"h","accessToken":"a","publicToken":"p"}`, `{"a":1 }`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		values, err := parse(bytes.Clone(body), tokensWanted)
		if err != nil {
			if values != nil {
				t.Fatal("values with an error")
			}
			if errors.Is(err, errInvalid) && !json.Valid(body) {
				t.Fatal("invalid is for JSON only")
			}
			return
		}
		var peer map[string]any
		if json.Unmarshal(body, &peer) != nil {
			t.Fatal("taken, and encoding/json refuses it")
		}
		for _, w := range tokensWanted {
			v, have := values[w.name]
			text, isText := peer[w.name].(string)
			if have != isText || string(v) != text || w.required && v == nil {
				t.Fatalf("%s is not what encoding/json reads", w.name)
			}
			if len(v) > maxField || !utf8.Valid(v) || bytes.ContainsFunc(v, unicode.IsControl) || have && len(v) == 0 && !w.empty {
				t.Fatalf("%s must not be taken", w.name)
			}
		}
	})
}

func TestEncode(t *testing.T) {
	o := origin{host: "user.humanapi.co"}
	got, err := encode(o, tokensPath, []field{{"humanId", []byte("h\"\\\n\x00é😀")}, {"clientSecret", []byte("s")}})
	if err != nil {
		t.Fatal(err)
	}
	body := `{"humanId":"h\"\\\u000a\u0000é😀","clientSecret":"s"}`
	want := "POST /v1/connect/tokens HTTP/1.1\r\nHost: user.humanapi.co\r\nUser-Agent: tokenvault\r\nAccept: application/json\r\n" +
		"Content-Type: application/json\r\nContent-Length: 56\r\n\r\n" + body
	if string(got) != want {
		t.Errorf("got\n%s", got)
	}
	if cap(got) != len(got) {
		t.Errorf("%d bytes in a buffer of %d: it was grown, and a copy left behind", len(got), cap(got))
	}
}

// FuzzEncode: whatever is sent arrives, as one request.
func FuzzEncode(f *testing.F) {
	f.Add("human", "\"\\\u2028\x7f\r\nX: y")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := encode(origin{host: "h"}, publicTokensPath, []field{{"a", []byte(a)}, {"b", []byte(b)}})
		if bad := a == "" || b == "" || !utf8.ValidString(a) || !utf8.ValidString(b); bad != (err != nil) {
			t.Fatal(err)
		} else if bad {
			return
		}
		in := bufio.NewReader(bytes.NewReader(got))
		r, err := http.ReadRequest(in)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		var m map[string]string
		if err != nil || json.Unmarshal(body, &m) != nil || m["a"] != a || m["b"] != b || len(m) != 2 {
			t.Fatal("something else arrived")
		}
		if _, err := in.ReadByte(); err != io.EOF || cap(got) != len(got) {
			t.Fatal("the request does not end where it should")
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, "0120": 2 * time.Minute, "3600": time.Hour, "3601": time.Hour,
		strings.Repeat("9", 400): time.Hour, "-1": 0, "1.5": 0, "1 ": 0, " 1": 0, "+1": 0, "soon": 0, "١": 0,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second, "Fri, 02 Jan 2026 03:04:05 GMT": 0, "Thu, 01 Jan 2026 00:00:00 GMT": 0,
		"Sat, 03 Jan 2026 00:00:00 GMT": time.Hour, "Friday, 02-Jan-26 03:04:35 GMT": 30 * time.Second, "Fri Jan  2 03:04:35 2026": 30 * time.Second,
	} {
		if got := parseRetryAfter(text, now); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestClassesAreClosed(t *testing.T) {
	all := []Class{"", NotSent, Unknown, TryLater, Unauthorized, Refused, Invalid, Unreadable}
	for status := range 1000 {
		if c := classify(status); !slices.Contains(all, c) || (c == "") != (status/100 == 2) {
			t.Errorf("%d is %q", status, c)
		}
	}
}
