package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// importUsers is how many users an app brings along.
const importUsers = 10_000

type importAnswer struct {
	Lines, Imported, Known int
	Conflicts              []int
}

func importedHuman(n int) string { return fmt.Sprintf("human-%05d", n) }

// importLines is what an app has kept so far.
func importLines() []string {
	lines := make([]string, importUsers)
	for n := range lines {
		lines[n] = fmt.Sprintf(`{"humanId":%q,"clientUserId":"user-%d@example.test","publicToken":"marker-public-%d","accessToken":"marker-access-%d"}`+"\n",
			importedHuman(n), n, n, n)
	}
	return lines
}

// TestImport brings ten thousand users along, is killed in the middle, goes on, and
// the daemon works with them.
func TestImport(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	lines := importLines()
	w.killImport(lines[:8000])
	w.ownedByDaemon()

	at := time.Now()
	var a importAnswer
	must(t, json.Unmarshal([]byte(w.must(strings.Join(lines, ""), "store", "import", "--app", "shop", "--json", "--token-file", w.path("operator-token"))), &a))
	took := time.Since(at)
	if a.Known == 0 || a.Imported == 0 || a.Known+a.Imported != importUsers || len(a.Conflicts) != 0 {
		t.Fatalf("after the kill: %+v", a)
	}
	t.Logf("figure: killed after %d users; the rest, %d users, took %v with the login: %.0f users/s", a.Known, a.Imported, took.Round(time.Millisecond), float64(a.Imported)/took.Seconds())
	at = time.Now()
	must(t, json.Unmarshal([]byte(w.must(strings.Join(lines, ""), "store", "import", "--app", "club", "--json", "--token-file", w.path("operator-token"))), &a))
	took = time.Since(at)
	t.Logf("figure: %d users imported in %v: %.0f users/s", a.Imported, took.Round(time.Millisecond), float64(a.Imported)/took.Seconds())
	w.ownedByDaemon()
	w.nothingInClear()

	w.start()
	w.awaitReady()
	w.checkImported()
	w.must("", "store", "check")
	w.stop()
	w.must("", "audit", "verify", "--anchor", "--token-file", w.path("operator-token"))
}

// killImport kills an import when it has taken all that it was sent, while it waits
// for more.
func (w *world) killImport(lines []string) {
	w.t.Helper()
	r, in, err := os.Pipe()
	must(w.t, err)
	cmd := exec.Command(binary, "--config", w.config, "store", "import", "--app", "shop", "--token-file", w.path("operator-token"))
	cmd.Env, cmd.Stdin = []string{"HOME=" + w.dir}, r
	must(w.t, cmd.Start())
	must(w.t, r.Close())
	if _, err := io.WriteString(in, strings.Join(lines, "")); err != nil { // blocks until nearly all is read
		w.t.Error(err)
	}
	must(w.t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		w.t.Error("the import had ended already")
	}
	must(w.t, in.Close())
}

// nothingInClear looks into every file for what was imported.
func (w *world) nothingInClear() {
	w.t.Helper()
	for _, name := range []string{"state/store.db", "log/audit.log"} {
		text, err := os.ReadFile(w.path(name))
		must(w.t, err)
		for _, word := range []string{"marker-access", "marker-public", "human-0", "example.test"} {
			if strings.Contains(string(text), word) {
				w.t.Errorf("%s has an imported value in clear", name)
			}
		}
	}
}

// checkImported looks users up, and lets one finish the popup again.
func (w *world) checkImported() {
	w.t.Helper()
	public, private := w.root("public"), w.root("private")
	for n := 0; n < importUsers; n += 97 {
		a := public.do("GET", "/v1/users?clientId="+shop, "", fmt.Sprintf("X-Client-User-Id: user-%d%%40example.test", n)).want(w.t, 200, "")
		var list struct{ Users []userBody }
		must(w.t, json.Unmarshal([]byte(a.body), &list))
		if len(list.Users) != 1 || list.Users[0].HumanID != importedHuman(n) || list.Users[0].PublicToken != fmt.Sprint("marker-public-", n) {
			w.t.Errorf("user %d is looked up otherwise", n)
		}
		a = private.do("GET", "/v1/users/"+importedHuman(n)+"/access-token?clientId="+shop, "").want(w.t, 200, "")
		if a.field(w.t, "accessToken") != fmt.Sprint("marker-access-", n) {
			w.t.Errorf("user %d has another access token", n)
		}
	}
	e := w.finishEvent(importedHuman(7), "user-7@example.test")
	public.do("POST", tokens, e.json()).want(w.t, 200, "")
	access, _ := w.sim.Current(shop, importedHuman(7))
	if a := private.do("GET", "/v1/users/"+importedHuman(7)+"/access-token?clientId="+shop, ""); a.field(w.t, "accessToken") != access {
		w.t.Error("an exchange did not replace what was imported")
	}
	// Who comes back under another clientUserId than was imported is somebody else.
	public.do("POST", tokens, w.finishEvent(importedHuman(8), "somebody-else@example.test").json()).want(w.t, 409, "user_mismatch")
}
