package vault

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzFields: an object is split as encoding/json splits it, where it does not
// take the last of two of one name, or replaces what is no text.
func FuzzFields(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a":"b","c":[1,{"d":"}"}],"e":{"f":null}}`, `{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}`,
		`{"\u0061":1,"a":2}`, `{"a":"\ud800"}`, `{"a" : -1.5e3 , "b" : true }`, `[]`, `null`, `"a"`, ``, `{"a":1}x`, "{\"a\":\"\xff\"}", `{"":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var theirs map[string]json.RawMessage
		theirErr := json.Unmarshal(body, &theirs)
		ours, err := fields(bytes.Clone(body))
		if err != nil {
			return // FuzzUnquoted and TestFields are about what is refused
		}
		if theirErr != nil || !slices.Equal(slices.Sorted(maps.Keys(ours)), slices.Sorted(maps.Keys(theirs))) {
			t.Fatalf("other names than encoding/json's (%v)", theirErr)
		}
		for name, raw := range ours {
			if !bytes.Equal(raw, theirs[name]) {
				t.Fatalf("another value than encoding/json's")
			}
		}
	})
}

func TestFields(t *testing.T) {
	for _, bad := range []string{``, ` `, `null`, `[]`, `"a"`, `1`, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1}{}`, `{"a":1,"a":1}`, `{"a":1,"\u0061":1}`, `{"\ud800":1}`, "{\"\xff\":1}", `{"a":1,"b":{"c":"}`} {
		if got, err := fields([]byte(bad)); err == nil {
			t.Errorf("%s is taken as %d members", bad, len(got))
		}
	}
}

// FuzzUnquoted: a string is decoded as encoding/json does, in place, and never to
// more than it was; what encoding/json replaces is refused.
func FuzzUnquoted(f *testing.F) {
	for _, seed := range []string{`""`, `"a"`, `"\u0041\u00DF\uffff"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ud83dx"`, `"\ud83d\u0041"`, `"\ude00\ud83d"`, `"\"\\\/\b\f\n\r\t"`, `1`, `null`, `"\ufffd"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !json.Valid(raw) || !utf8.Valid(raw) || len(raw) == 0 || strings.TrimSpace(string(raw)) != string(raw) {
			return
		}
		var theirs *string
		isText := json.Unmarshal(raw, &theirs) == nil && theirs != nil
		ours, ok := unquoted(bytes.Clone(raw))
		switch {
		case ok && (!isText || string(ours) != *theirs):
			t.Fatal("another text than encoding/json's")
		case !ok && isText && !strings.ContainsRune(*theirs, utf8.RuneError):
			t.Fatal("a text is refused")
		}
		if ok && !bytes.Equal(quotedAndBack(t, ours), ours) {
			t.Fatal("it does not come back")
		}
	})
}

func quotedAndBack(t *testing.T, b []byte) []byte {
	quoted := appendQuoted(nil, b)
	if len(quoted) > maxQuoted(len(b)) || !json.Valid(quoted) {
		t.Fatal("what is quoted is too long, or no JSON")
	}
	back, _ := unquoted(quoted)
	return back
}

// TestReadAll: of every length there is one copy, and it is bounded.
func TestReadAll(t *testing.T) {
	for _, n := range []int{0, 1, firstBody, firstBody + 1, 5 * firstBody, maxAnswer - 1, maxAnswer, maxAnswer + 1, 3 * maxAnswer} {
		for _, told := range []int64{-1, int64(n)} {
			b, err := readAll(bytes.NewReader(make([]byte, n)), told)
			if want := min(n, maxAnswer+1); err != nil || len(b) != want || cap(b) > maxAnswer+1 {
				t.Errorf("%d bytes, told %d: %d of %d, %v", n, told, len(b), cap(b), err)
			}
		}
	}
	old := append(make([]byte, 0, 3), 1, 2, 3)
	if more := grown(old, 9); !bytes.Equal(more, []byte{1, 2, 3}) || !bytes.Equal(old, make([]byte, 3)) {
		t.Error("what it grew out of is not cleared")
	}
}

func TestDecodeFolds(t *testing.T) {
	var into struct{ Version int }
	for _, bad := range []string{`{"version":1,"Version":2}`, `{"VERSION":1,"version":2}`, `{"version":"marker"}`, `[]`} {
		if err := decode([]byte(bad), &into); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
