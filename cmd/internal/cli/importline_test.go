package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

const goodImportLine = `{"humanId":"h","clientUserId":"u","publicToken":"p","accessToken":"marker-access","expiresAt":"2030-01-31T12:00:00+01:00"}`

func TestImportLine(t *testing.T) {
	r, why := parseImportLine([]byte(goodImportLine))
	if why != "" || r.HumanID != "h" || r.ClientUserID != "u" || r.PublicToken != "p" ||
		!r.ExpiresAt.Equal(time.Date(2030, 1, 31, 11, 0, 0, 0, time.UTC)) || string(r.AccessToken.Reveal()) != "marker-access" {
		t.Errorf("%q", why)
	}
	r, why = parseImportLine([]byte(" {\t\"accessToken\" : \"\\u006darker\\ud83d\\ude00\\/\\\"\\\\\" , \"human\\u0049d\":\"h\",\"clientUserId\":null}\r\n"))
	if why != "" || string(r.AccessToken.Reveal()) != "marker\U0001F600/\"\\" || r.HumanID != "h" || r.ClientUserID != "" {
		t.Errorf("escapes: %q", why)
	}
	long := strings.Repeat("x", maxImportToken)
	for in, want := range map[string]string{
		`{"humanId":"h","accessToken":"` + long + `"}`:  "",
		`{"humanId":"h","accessToken":"x` + long + `"}`: "accessToken is longer than 8192 bytes",
		`{"humanId":"` + long + `","accessToken":"t"}`:  "humanId is longer than 1024 bytes",
		`{"humanId":"h"}`:     "accessToken is missing",
		`{"accessToken":"t"}`: "humanId is missing",
		`{"humanId":"h","accessToken":"t","accessToken":"t"}`:       "accessToken stands there twice",
		`{"humanId":"h","accessToken":"t","access\u0054oken":"t"}`:  "accessToken stands there twice",
		`{"humanId":"h","accessToken":"t","AccessToken":"t"}`:       "a field differs from accessToken in case or spaces only: names are exact",
		`{"humanId":"h","accessToken":"t","refreshToken":"marker"}`: "it has a field that is none of an import",
		`{"humanId":"h","accessToken":"t","more":{"a":[1,"}"]}}`:    "it has a field that is none of an import",
		`{"humanId":"h","accessToken":null}`:                        "accessToken is no string",
		`{"humanId":5,"accessToken":"t"}`:                           "humanId is no string",
		`{"humanId":{"a":"b"},"accessToken":"t"}`:                   "humanId is no string",
		`{"humanId":["h"],"accessToken":"t"}`:                       "humanId is no string",
		`{"humanId":true,"accessToken":"t"}`:                        "humanId is no string",
		`{"humanId":"","accessToken":"t"}`:                          "humanId is empty",
		`{"humanId":"h\u0000","accessToken":"t"}`:                   "humanId has a control character, or U+FFFD",
		`{"humanId":"h\ufffd","accessToken":"t"}`:                   "humanId has a control character, or U+FFFD",
		`{"humanId":"h\ud800","accessToken":"t"}`:                   "humanId has half a surrogate pair",
		`{"humanId":"h\ud800\u0041","accessToken":"t"}`:             "humanId has half a surrogate pair",
		`{"humanId":"h","accessToken":"t","expiresAt":"tomorrow"}`:  "expiresAt is no time as in RFC 3339, such as 2030-01-31T12:00:00Z",
		`{"humanId":"h","accessToken":"t","expiresAt":1893456000}`:  "expiresAt is no string",
		`{"humanId":"h","accessToken":"t"} {}`:                      "it is not valid JSON",
		`{"humanId":"h","accessToken":"t"`:                          "it is not valid JSON",
		`["h"]`:                                                     "it is no JSON object",
		`"h"`:                                                       "it is no JSON object",
		"{\"humanId\":\"\xff\",\"accessToken\":\"t\"}":              "it is not valid UTF-8",
		`{}`: "humanId is missing",
	} {
		if r, why := parseImportLine([]byte(in)); why != want || (why != "" && !r.AccessToken.IsZero()) {
			t.Errorf("%.60s: %q, want %q", in, why, want)
		}
	}
}

// TestImporter: lots, numbers of lines, and how lines end.
func TestImporter(t *testing.T) {
	var in strings.Builder
	for n := range importLot + 10 {
		fmt.Fprintf(&in, "{\"humanId\":\"h%d\",\"accessToken\":\"t\"}\n\r\n", n)
	}
	i := newImporter(strings.NewReader(strings.TrimSuffix(in.String(), "\n\r\n")), "app")
	first, err := i.next()
	if err != nil || len(first) != importLot || i.lines[0] != 1 || i.lines[importLot-1] != 2*importLot-1 || first[0].ClientID != "app" {
		t.Fatalf("%d records, %v", len(first), err)
	}
	rest, err := i.next()
	if !errors.Is(err, io.EOF) || len(rest) != 10 || rest[9].HumanID != "h1033" || i.lines[9] != 2*importLot+19 {
		t.Fatalf("%d records, %v", len(rest), err)
	}
	i.wipe()
	if b, _ := i.in.Peek(i.in.Size()); len(b) != maxImportLine || len(bytes.Trim(b, "\x00")) > 0 {
		t.Error("the buffer is not wiped")
	}
	i = newImporter(strings.NewReader(goodImportLine+"\n"+strings.Repeat(" ", maxImportLine)+goodImportLine+"\n"), "app")
	records, err := i.next()
	wrong, ok := errors.AsType[*lineError](err)
	if len(records) != 1 || !ok || wrong.Error() != "line 2: it is longer than 65536 bytes" {
		t.Errorf("%d records, %v", len(records), err)
	}
}

// FuzzImportLine holds what is taken against encoding/json.
func FuzzImportLine(f *testing.F) {
	for _, seed := range []string{goodImportLine, `{}`, `{"humanId":"\ud83d\ude00\b\f\n\r\t\/\\\"","accessToken":"t"}`, `{"humanId":null}`, `{"a":[{"b":"]"}]}`, ` {"humanId" : "h" , "accessToken" : "\u0041" } `, `[`, ``, `"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, why := parseImportLine(bytes.Clone(line))
		if why != "" {
			if !r.AccessToken.IsZero() || r.HumanID != "" || strings.Contains(why, "marker") {
				t.Error("a refused line left something")
			}
			return
		}
		var want map[string]*string
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatalf("it was taken, and is none: %v", err)
		}
		for name, got := range map[string]string{"humanId": string(r.HumanID), "clientUserId": string(r.ClientUserID), "publicToken": string(r.PublicToken), "accessToken": string(r.AccessToken.Reveal())} {
			if v := want[name]; v != nil && *v != got || v == nil && got != "" {
				t.Errorf("%s is not what encoding/json reads", name)
			}
			delete(want, name)
		}
		if delete(want, "expiresAt"); len(want) > 0 {
			t.Error("a field was ignored")
		}
	})
}
