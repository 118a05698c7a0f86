package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// After a workload with faults at level debug, nothing that must not leak is
// found in anything that the daemon wrote, nor in its environment and arguments.
func TestNothingLeaks(t *testing.T) {
	w := newWorld(t, options{level: "debug", mode: humanapitest.Repeatable})
	markers := map[string]string{"clientSecret": shopSecret, "the other clientSecret": clubSecret}
	w.workload(t, markers)
	w.hunt(t, markers, "while it runs")
	w.huntProcess(t, markers)
	w.kill()
	w.start()
	w.awaitReady()
	w.hunt(t, markers, "after a crash")
	w.stop()
	files := w.hunt(t, markers, "after the end")
	t.Logf("figure: %d markers, raw, hex and base64, found in none of %d files", len(markers), files)
	w.plant(t, markers)
}

// workload causes successes and every kind of failure that reaches the log.
func (w *world) workload(t *testing.T, markers map[string]string) {
	root := w.root("private")
	for i := range 8 {
		human, cuid := w.sim.NewHumanID(), fmt.Sprintf("marker-user-%d@example.test", i)
		s := w.finishEvent(human, cuid)
		root.do("POST", tokens, s.json()).want(t, 200, "")
		access, public := w.sim.Current(shop, human)
		root.do("GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").want(t, 200, "")
		root.do("GET", "/v1/users/"+human+"?clientId="+shop, "").want(t, 200, "")
		w.lookup(cuid).want(t, 200, "")
		for name, value := range map[string]string{"humanId": human, "clientUserId": cuid, "sessionToken": s.sessionToken, "accessToken": access, "publicToken": public} {
			markers[fmt.Sprintf("%s %d", name, i)] = value
		}
	}
	for i, f := range []humanapitest.Fault{
		{Status: 400}, {Status: 401}, {Kind: humanapitest.WrongUser}, {Kind: humanapitest.HTML}, {Kind: humanapitest.Empty},
		{Kind: humanapitest.MissingField, Field: "publicToken"}, {Status: 503}, {Kind: humanapitest.DropAfter},
	} {
		human, cuid := w.sim.NewHumanID(), fmt.Sprintf("marker-faulty-%d@example.test", i)
		s := w.finishEvent(human, cuid)
		f.Path, f.Message = tokens, "marker-upstream-text with "+s.sessionToken
		w.sim.Misbehave(f)
		root.do("POST", tokens, s.json())
		markers[fmt.Sprintf("session of fault %d", i)], markers[fmt.Sprintf("human of fault %d", i)] = s.sessionToken, human
		markers[fmt.Sprintf("clientUserId of fault %d", i)] = cuid
	}
	markers["upstream's text"] = "marker-upstream-text"
	markers["secret in a body"], markers["secret in a query"] = "marker-secret-in-a-body", "marker-secret-in-a-query"
	root.do("POST", tokens, `{"clientSecret":"marker-secret-in-a-body"}`).want(t, 400, "secret_not_accepted")
	root.do("GET", "/v1/users?client_secret=marker-secret-in-a-query", "").want(t, 400, "secret_not_accepted")
	w.must("", "secret", "check")
	w.must("", "status")
	w.adminShows(t)
}

// adminShows: users show prints ids and publicToken, never an access token.
func (w *world) adminShows(t *testing.T) {
	human, cuid := w.sim.NewHumanID(), "shown@example.test"
	w.root("public").do("POST", tokens, w.finishEvent(human, cuid).json()).want(t, 200, "")
	access, public := w.sim.Current(shop, human)
	for _, out := range []string{
		w.must("", "users", "show", "--client-id", shop, human),
		w.must("", "users", "show", "--json", "--client-id", shop, human),
		w.must("", "users", "show", "--client-id", shop, "--client-user-id", cuid),
	} {
		for _, part := range []string{human, cuid, public} {
			if !strings.Contains(out, part) {
				t.Error("users show lacks an id or the publicToken")
			}
		}
		if strings.Contains(out, access) {
			t.Error("users show prints an access token")
		}
	}
}

// forms of a marker: raw, hex and base64 at each of the three alignments.
func forms(marker string) [][]byte {
	m := []byte(marker)
	out := [][]byte{m, []byte(hex.EncodeToString(m)), []byte(strings.ToUpper(hex.EncodeToString(m))), []byte(url.QueryEscape(marker)), []byte(url.PathEscape(marker))}
	for shift := range 3 {
		if len(m) < shift+12 {
			continue
		}
		whole := m[shift : shift+(len(m)-shift)/3*3]
		out = append(out, []byte(base64.RawStdEncoding.EncodeToString(whole)), []byte(base64.RawURLEncoding.EncodeToString(whole)))
	}
	return out
}

func leaks(content []byte, markers map[string]string) []string {
	var found []string
	for name, marker := range markers {
		if slices.ContainsFunc(forms(marker), func(f []byte) bool { return bytes.Contains(content, f) }) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

// hunt looks through every file that the daemon wrote, and returns how many.
func (w *world) hunt(t *testing.T, markers map[string]string, when string) int {
	t.Helper()
	files := 0
	for _, root := range []string{"state", "log", "run", "daemon.log"} {
		must(t, filepath.WalkDir(w.path(root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			if found := leaks(content, markers); len(found) > 0 {
				t.Errorf("%s, %s has in clear: %s", when, filepath.Base(path), strings.Join(found, ", "))
			}
			files++
			return err
		}))
	}
	if files < 3 {
		t.Fatalf("only %d files: the hunt looks in the wrong place", files)
	}
	return files
}

func (w *world) huntProcess(t *testing.T, markers map[string]string) {
	t.Helper()
	for _, name := range []string{"environ", "cmdline"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", w.daemon.cmd.Process.Pid, name))
		must(t, err)
		if found := leaks(content, markers); len(found) > 0 || len(content) == 0 {
			t.Errorf("%s of the daemon has %d bytes and in clear: %s", name, len(content), strings.Join(found, ", "))
		}
	}
}

// plant shows that the hunt finds what is there: each form of each marker.
func (w *world) plant(t *testing.T, markers map[string]string) {
	for name, marker := range markers {
		padded := "x" + marker
		for _, form := range []string{marker, hex.EncodeToString([]byte(marker)), base64.StdEncoding.EncodeToString([]byte(padded)), base64.URLEncoding.EncodeToString([]byte(marker))} {
			if !slices.Contains(leaks([]byte("{\"k\":\""+form+"\"}"), markers), name) {
				t.Fatalf("the hunt does not find %s", name)
			}
		}
	}
}
