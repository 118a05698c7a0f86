package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var goldenCallers = filepath.Join("testdata", "v1-callers", "audit.log")

// groups are n supplementary groups.
func groups(n int) (all []uint32) {
	for i := range n {
		all = append(all, uint32(i)*268435455)
	}
	return all
}

// callers are events with every field about a caller that came later.
func callers() []Event {
	var all []Event
	for _, n := range []int{0, 1, maxGroups, maxGroups + 1} {
		e := lookup(fmt.Sprintf("req-%d", n))
		e.Groups, e.Unproven = groups(n), n == 1
		if n > 0 {
			e.Invocation = strings.Repeat("7f", 16)
			e.Label = "unconfined \"\n"
		}
		all = append(all, e)
	}
	return all
}

// TestGoldenCallers: the golden file of who called is what is written, and the same
// as ever.
func TestGoldenCallers(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	for _, e := range callers() {
		mustWrite(t, l, e)
	}
	mustClose(t, l)
	if *update {
		if err := os.MkdirAll(filepath.Dir(goldenCallers), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, goldenCallers, read(t, path))
	}
	if !bytes.Equal(read(t, path), read(t, goldenCallers)) {
		t.Error("the log differs from the golden file")
	}
	if r := mustVerify(t, goldenCallers); r.Lines != 6 || r.Tail != 0 {
		t.Errorf("%+v", r)
	}
	o := objects(t, goldenCallers)
	if g := o[4]["groups"].([]any); len(g) != maxGroups || o[4]["groupsCut"] != true || o[3]["groupsCut"] != nil {
		t.Errorf("groups as others read them: %v", o[4])
	}
	if o[2]["unproven"] != true || o[3]["unproven"] != nil || o[2]["label"] != "unconfined \"\n" || o[1]["groups"] != nil {
		t.Errorf("as others read it: %v", o[2])
	}
}

// TestCallersAreReadBack: every field of an event, but Refusal, comes back.
func TestCallersAreReadBack(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	want := callers()
	for _, e := range want {
		e.Refusal = true
		mustWrite(t, l, e)
	}
	var got []Event
	walked(t, WalkConfig{Path: path}, func(line Line) { got = append(got, line.Event) })
	last := &want[len(want)-1]
	last.Groups, last.GroupsCut = last.Groups[:maxGroups], true
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("written %+v\nread %+v", want[i], got[i])
		}
	}
	if strings.Contains(strings.ToLower(string(read(t, path))), "refusal") {
		t.Error("Refusal is written")
	}
	again, _ := seal(appendEvent(appendStart(nil, 1, time.Unix(0, 0), Outcome), &got[len(got)-1]), [32]byte{})
	if r, err := parseLine(again); err != nil || !r.event.GroupsCut {
		t.Errorf("what was read is not written as it was: %v", err)
	}
}

// TestAppFrom: how an app came about is read back, and nothing of it stands where
// the request named it, as in logs of before.
func TestAppFrom(t *testing.T) {
	for from, want := range map[string]string{"": `"app":"shop","route"`, FromRights: `"app":"shop","appFrom":"rights","route"`, FromNowhere: `"app":"shop","appFrom":"nowhere","route"`} {
		b, _ := seal(appendEvent(appendStart(nil, 1, time.Unix(0, 0), Outcome), &Event{App: "shop", AppFrom: from, Route: "r"}), [32]byte{})
		r, err := parseLine(b)
		if err != nil || r.event.AppFrom != from || !strings.Contains(string(b), want) {
			t.Errorf("%q: %v, %s", from, err, b)
		}
	}
}

// TestSize: an estimate that is never too small, and close.
func TestSize(t *testing.T) {
	for _, e := range append(callers(), Event{Kind: Note}) {
		b, _ := seal(appendEvent(appendStart(nil, 1, time.Now(), e.Kind), &e), [32]byte{})
		if n := e.Size(); n < len(b) || n > len(b)+19 {
			t.Errorf("%d bytes, estimated %d", len(b), n)
		}
	}
}

// TestStrictCallers are lines that say the same in another way, or too much.
func TestStrictCallers(t *testing.T) {
	b, _ := seal(appendEvent(appendStart(nil, 1, time.Unix(0, 0), Note), &Event{Groups: []uint32{7, 8}, Unit: "u", Unproven: true, Label: "l"}), [32]byte{})
	if _, err := parseLine(b); err != nil {
		t.Fatal(err)
	}
	edits := [][2]string{
		{"[7,8]", "[]"}, {"[7,8]", "[7,]"}, {"[7,8]", "[,7]"}, {"[7,8]", "[7, 8]"}, {"[7,8]", "[07,8]"}, {"[7,8]", "[-7]"},
		{"[7,8]", "[+7]"}, {"[7,8]", "[4294967296]"}, {"[7,8]", "7"}, {"[7,8]", "[[7,8]"}, {"[7,8]", "[7,8]]"}, {"[7,8]", "null"},
		{"[7,8],", `[7,8],"groupsCut":true,`}, {"[7,8],", `[7,8],"groupsCut":false,`}, {`"groups":[7,8],`, `"groupsCut":true,`},
		{`"unproven":true`, `"unproven":false`}, {`"unproven":true,`, `"unproven":true,"unproven":true,`},
		{"[7,8]", "[" + strings.Trim(strings.Repeat("7,", maxGroups+1), ",") + "]"},
		{`"groups":[7,8],`, `"groups":[7,8],"groups":[7,8],`}, {`"label":"l",`, `"label":"",`},
	}
	for _, e := range edits {
		bad := bytes.Replace(b, []byte(e[0]), []byte(e[1]), 1)
		if bytes.Equal(bad, b) {
			t.Fatalf("%s is not there", e[0])
		}
		if _, err := parseLine(bad); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

// walked collects what a walk hands out.
func walked(t testing.TB, c WalkConfig, each func(Line)) {
	t.Helper()
	err := Walk(t.Context(), c, func(l Line) error {
		l.Raw = slices.Clone(l.Raw)
		each(l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
