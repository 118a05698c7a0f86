package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
)

// FuzzBody: whatever is taken from a body stands in it as encoding/json reads
// it, and none with a secret's name is taken.
func FuzzBody(f *testing.F) {
	for _, s := range []string{
		`{"humanId":"a","clientId":"b","sessionToken":"c"}`, `{"sessionTokenObject":{"humanId":"a"},"x":[{"y":1}]}`,
		`{"clientSecret":1}`, `{"humanId":"\ud83d\ude00"}`, `{"a":1,"A":2}`, `[[[[[]]]]]`, `{"humanId":"a"}{}`,
	} {
		f.Add([]byte(s), false)
	}
	f.Add([]byte("humanId=a&sessionTokenObject[clientId]=b"), true)
	f.Add([]byte(`sessionTokenObject={"humanId":"a"}&x[]=1&x[]=2`), true)
	f.Fuzz(func(t *testing.T, body []byte, form bool) {
		h := http.Header{}
		if form {
			h.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		got, fault := parseBody(h, body, 0)
		if fault != nil {
			if fault.code.Status() >= 500 || fault.code.Status() < 400 || strings.ContainsFunc(fault.message, func(r rune) bool { return r > '~' }) {
				t.Fatalf("refused with %s", fault.code)
			}
			return
		}
		if form {
			return
		}
		var flat map[string]any
		if err := json.Unmarshal(body, &flat); err != nil {
			t.Fatal("no JSON object, and accepted")
		}
		checkNoSecret(t, flat)
		inner, _ := flat[nest].(map[string]any)
		for name, v := range map[string]value{"humanId": got.humanID, "clientId": got.clientID, "sessionToken": got.sessionToken, "clientUserId": got.clientUserID} {
			top, nested := flat[name], inner[name]
			if v.set && v.text != top && v.text != nested || !v.set && (top != nil || nested != nil) || top != nil && nested != nil {
				t.Fatalf("%s is read otherwise than encoding/json does", name)
			}
		}
	})
}

// FuzzWorkBody: of an administrator's body only what stands at its top is taken.
func FuzzWorkBody(f *testing.F) {
	for _, s := range []string{
		`{"clientUserId":"a","humanId":"b"}`, `{"seen":"a"}`, `{"Seen":"a"}`, `{"sessionTokenObject":{"seen":"a"}}`, `{"seen":{"seen":1}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, fault := parseBody(http.Header{}, body, fieldSeen|fieldHuman|fieldClientUser)
		if fault != nil {
			return
		}
		var flat map[string]any
		if err := json.Unmarshal(body, &flat); err != nil {
			t.Fatal("no JSON object, and accepted")
		}
		checkNoSecret(t, flat)
		for name, v := range map[string]value{"seen": got.seen, "humanId": got.humanID, "clientUserId": got.clientUserID} {
			if top := flat[name]; v.set && v.text != top || !v.set && top != nil {
				t.Fatalf("%s is read otherwise than encoding/json does", name)
			}
		}
	})
}

func checkNoSecret(t *testing.T, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			if isSecretName(name) {
				t.Fatal("a secret's name is accepted")
			}
			checkNoSecret(t, inner)
		}
	case []any:
		for _, inner := range v {
			checkNoSecret(t, inner)
		}
	}
}

// FuzzQuery must only not panic, and never take a secret's name.
func FuzzQuery(f *testing.F) {
	f.Add("clientId=a&state=b")
	f.Add("access%5Ftoken=1")
	f.Fuzz(func(t *testing.T, raw string) {
		if _, fault := parseQuery(raw); fault == nil && strings.Contains(strings.ToLower(raw), "access_token=") && strings.HasPrefix(strings.ToLower(raw), "access_token") {
			t.Fatal("a secret's name is accepted")
		} else if fault != nil && fault.code != api.BadRequest && fault.code != api.SecretNotAccepted {
			t.Fatalf("refused with %s", fault.code)
		}
	})
}

// FuzzQuestion: an administrator's question is read as net/url reads it, or refused.
func FuzzQuestion(f *testing.F) {
	for _, s := range []string{
		"uid=1&gid=2&group=3&group=4&unit=a.service&contained=true&listener=public&app=shop&grant=proxy&path=/v1/human/x",
		"requestId=a&since=2026-01-01T00:00:00Z&limit=5", "clientId=a&clientUserId=b", "uid=%31&uid=2", "Uid=1", "access_token=1", "uid=1;gid=2",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p, fault := parseParams(raw, explainParams)
		if fault != nil {
			return
		}
		want, err := url.ParseQuery(raw)
		if err != nil || len(want) != len(p) {
			t.Fatal("a query is taken that net/url reads otherwise")
		}
		for name, values := range p {
			if !slices.Equal(values, want[name]) || name != "group" && len(values) != 1 {
				t.Fatalf("%s is read otherwise than net/url does", name)
			}
		}
		q := &call{}
		if asks, fault := q.askExplain(p); fault == nil && (asks.query.Listener == "" || len(p["uid"]) != 1) {
			t.Fatal("a caller or listener is made up")
		}
		if p, fault := parseParams(raw, findParams); fault == nil {
			_, _ = q.askFind(p)
		}
	})
}

// FuzzHead: only the value of a Host line is replaced.
func FuzzHead(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nhost: /x\r\n\r\n"))
	f.Add([]byte("Host: /x\n\nHost: /y\n"))
	f.Fuzz(func(t *testing.T, head []byte) {
		from, to, next := findHost(head, 0)
		if from < 0 || to < from || to > len(head) || next < -1 || next > len(head) {
			t.Fatalf("out of bounds: %d %d %d", from, to, next)
		}
		before := strings.ToLower(string(head[:from]))
		if to > 0 && (!strings.HasSuffix(strings.TrimRight(before, " \t"), "\nhost:") || strings.Contains(before, "\n\r\n") || strings.Contains(before, "\n\n")) {
			t.Fatal("no Host line of the head")
		}
	})
}

// FuzzString holds the writer to encoding/json.
func FuzzString(f *testing.F) {
	for _, s := range []string{"plain", `"\`, "<&>", "\x00\x7f", "\u2028ü😀", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := json.Marshal(s)
		if got := appendString(nil, s); err != nil || string(got) != string(want) {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}
