package vault

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

const digest = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func anAnchor() Anchor {
	return Anchor{
		StoreID: "marker-store", Incarnation: 1, Generation: 2, KeyringDigest: digest, StorePosition: maxExact,
		AuditSegment: 3, AuditSequence: maxExact - 1, AuditHead: digest, AuditKey: digest,
		Time: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC), Host: "vault.test",
	}
}

// testAnchor writes and reads anchors over every state that their entry can be in.
func testAnchor(t *testing.T, p *place) {
	c := p.loggedIn(t)
	entry := p.paths.KVMount + "/data/" + p.paths.StatePath + "/main"
	write := func(a Anchor, over, version int) {
		t.Helper()
		if got, err := c.WriteAnchor(t.Context(), "main", a, over); err != nil || got != version {
			t.Fatalf("version %d, want %d, %v", got, version, err)
		}
	}
	none := func(version int) {
		t.Helper()
		_, got, err := c.ReadAnchor(t.Context(), "main")
		want(t, err, ErrNotFound, entry)
		if got != version {
			t.Fatalf("version %d, want %d", got, version)
		}
	}
	none(0)
	write(anAnchor(), 0, 1)
	got, version, err := c.ReadAnchor(t.Context(), "main")
	if err != nil || version != 1 || got != anAnchor() {
		t.Fatalf("version %d, %v, %+v", version, err, got)
	}
	for _, over := range []int{0, 2} {
		_, err = c.WriteAnchor(t.Context(), "main", anAnchor(), over)
		want(t, err, ErrAnchorMoved, entry)
	}
	later := anAnchor()
	later.Time = later.Time.In(time.FixedZone("", 3600))
	later.AuditHead, later.AuditKey, later.Host = "", "", ""
	write(later, 1, 2)
	if got, _, err = c.ReadAnchor(t.Context(), "main"); err != nil || got.Time != anAnchor().Time {
		t.Fatalf("%v, %v", got.Time, err)
	}

	p.server.Must("DELETE", entry, nil)
	none(2)
	_, err = c.WriteAnchor(t.Context(), "main", anAnchor(), 0)
	want(t, err, ErrAnchorMoved)
	write(anAnchor(), 2, 3)
	p.server.Must("PUT", strings.Replace(entry, "/data/", "/destroy/", 1), map[string]any{"versions": []int{3}})
	none(3)
	write(anAnchor(), 3, 4)
	p.server.Must("DELETE", strings.Replace(entry, "/data/", "/metadata/", 1), nil)
	none(0)
	write(anAnchor(), 0, 1)

	p.server.Must("POST", entry, map[string]any{"data": map[string]any{"storeId": "marker-upstream"}})
	_, _, err = c.ReadAnchor(t.Context(), "main")
	want(t, err, ErrMalformed, entry)
	p.putPolicy(t, func(r right) bool { return !strings.Contains(r.path, p.paths.StatePath) })
	_, _, err = c.ReadAnchor(t.Context(), "main")
	want(t, err, ErrDenied, entry, "read")
	_, err = c.WriteAnchor(t.Context(), "main", anAnchor(), 2)
	want(t, err, ErrDenied, entry, "update")
}

// testAnchorUnmounted: a mount that was moved is not the same as an anchor that
// never was.
func testAnchorUnmounted(t *testing.T, p *place) {
	p.config.KVMount, p.paths.KVMount = p.name, p.name
	p.putPolicy(t, func(right) bool { return true })
	c := p.loggedIn(t)
	_, _, err := c.ReadAnchor(t.Context(), "main")
	want(t, err, ErrMalformed, "mounted")
	_, err = c.WriteAnchor(t.Context(), "main", anAnchor(), 0)
	want(t, err, ErrMalformed, "mounted")
	_, err = c.ReadApp(t.Context(), app)
	want(t, err, ErrNotFound, "mounted")
}

// testAnchorLost: a write whose answer is lost may have been one.
func testAnchorLost(t *testing.T, p *place) {
	c := p.loggedIn(t)
	p.link.lose()
	_, err := c.WriteAnchor(t.Context(), "main", anAnchor(), 0)
	want(t, err, ErrUnreachable)
	p.link.answer(nil)
	_, err = c.WriteAnchor(t.Context(), "main", anAnchor(), 0)
	want(t, err, ErrAnchorMoved)
	if got, version, err := c.ReadAnchor(t.Context(), "main"); err != nil || version != 1 || got != anAnchor() {
		t.Errorf("version %d, %v", version, err)
	}
}

func TestAnchorRefusesInstances(t *testing.T) {
	c := Client{paths: Paths{}.withDefaults()}
	for _, bad := range []string{"", "a/b", "..", "a b", "*", strings.Repeat("a", 129)} {
		if _, _, err := c.ReadAnchor(t.Context(), bad); err == nil {
			t.Errorf("instance %q was taken", bad)
		}
		if _, err := c.WriteAnchor(t.Context(), bad, anAnchor(), 0); err == nil {
			t.Errorf("instance %q was taken", bad)
		}
	}
}

// TestAnchorForm: what is written is what testdata has, and holds nothing else.
func TestAnchorForm(t *testing.T) {
	body, err := encodeAnchor(anAnchor(), 7)
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/anchor.json")
	if err != nil {
		t.Fatal(err)
	}
	var is, was bytes.Buffer
	if json.Indent(&is, body, "", "  ") != nil || json.Indent(&was, golden, "", "  ") != nil || is.String()+"\n" != was.String() {
		t.Errorf("an anchor is written as\n%s", is.String())
	}
}

// anchorData is the data of the golden entry with one field replaced, or without
// it when value is "".
func anchorData(t testing.TB, field, value string) map[string][]byte {
	t.Helper()
	body, err := encodeAnchor(anAnchor(), 0)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := splitEntry(answer{status: 200, body: []byte(`{"data":` + string(body) + `}`)})
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case value == "":
		delete(entry.Data, field)
	case field != "":
		entry.Data[field] = []byte(value)
	}
	return entry.Data
}

func TestAnchorStrict(t *testing.T) {
	var a Anchor
	for field := range a.fields() {
		for _, bad := range []string{"", "null", "{}", "true", `"marker-upstream é"`, "-1", "1.5", "1e3", `"` + strings.Repeat("f", 300) + `"`} {
			_, err := parseAnchor(anchorData(t, field, bad))
			want(t, err, ErrMalformed, field)
		}
	}
	for field, bad := range map[string]string{
		"StoreID": `"marker-store"`, "marker-upstream": "1", "keyringDigest": `"` + strings.ToUpper(digest) + `"`, "auditHead": `"00"`,
		"time": `"0001-01-01T00:00:00Z"`, "storeId": `""`, "host": `"a\nb"`, "incarnation": "9007199254740993",
	} {
		_, err := parseAnchor(anchorData(t, field, bad))
		want(t, err, ErrMalformed)
		if strings.Contains(err.Error(), "upstream") {
			t.Errorf("an error quotes a field: %v", err)
		}
	}
	for _, spoil := range []func(*Anchor){
		func(a *Anchor) { a.StoreID = "" }, func(a *Anchor) { a.KeyringDigest = "" }, func(a *Anchor) { a.AuditHead = "f" },
		func(a *Anchor) { a.Time = time.Time{} }, func(a *Anchor) { a.Host = "é" }, func(a *Anchor) { a.AuditSegment = maxExact + 1 }, func(a *Anchor) { a.AuditKey = "F" },
	} {
		a := anAnchor()
		spoil(&a)
		_, err := encodeAnchor(a, 0)
		want(t, err, ErrMalformed)
	}
}

// FuzzAnchor: what is taken as an anchor can be written again and is the same.
func FuzzAnchor(f *testing.F) {
	written, err := encodeAnchor(anAnchor(), 0)
	if err != nil {
		f.Fatal(err)
	}
	parts, _ := fields(written)
	whole := parts["data"]
	f.Add(whole)
	f.Add([]byte(`{}`))
	f.Add(bytes.Replace(whole, []byte("2026"), []byte("1026"), 1))
	f.Add(bytes.Replace(whole, []byte("05.000000678Z"), []byte("05+23:59"), 1))
	f.Fuzz(func(t *testing.T, body []byte) {
		data, err := fields(body)
		if err != nil {
			return
		}
		a, err := parseAnchor(data)
		if err != nil {
			return
		}
		again, err := encodeAnchor(a, 1)
		if err != nil {
			t.Fatal("cannot be written: ", err)
		}
		entry, err := splitEntry(answer{status: 200, body: []byte(`{"data":` + string(again) + `}`)})
		if err != nil {
			t.Fatal("cannot be read: ", err)
		}
		if b, err := parseAnchor(entry.Data); err != nil || a != b {
			t.Errorf("is another: %v", err)
		}
	})
}
