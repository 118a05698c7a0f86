package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// What rows of the fault table about disks say.
const (
	nothingSent = "nothing was sent"
	allKept     = "all that was; the repeat is stored"
	lowDisk     = "ready, degraded: the disk is nearly full, or takes no more"
)

// diskFault is one row: happen brings it about in an installation of its own, and
// says what is seen.
type diskFault struct {
	faultRow
	disks
	happen func(c *diskCase) faultRow
}

// diskCase is an installation with one user whose tokens are stored, and another
// who finishes the popup while the disk is in a mood.
type diskCase struct {
	*world
	old, new sto
}

func (b *world) newCase(t *testing.T, d disks) *diskCase {
	c := &diskCase{world: b.another(t, d)}
	c.old, c.new = c.event("old"), c.event("new")
	c.start()
	c.awaitReady()
	c.post(c.old, "200")
	return c
}

func (c *diskCase) event(name string) sto {
	return c.finishEvent(c.sim.NewHumanID(), name+"@example.test")
}

// post sends s, and wants that status and code.
func (c *diskCase) post(s sto, want string) {
	c.t.Helper()
	if got := c.ask("public", "POST", tokens, s.json()); got != want {
		c.t.Errorf("an exchange is answered %q, want %q", got, want)
	}
}

func (c *diskCase) ask(listener, method, path, body string) string {
	root := c.root(listener)
	defer root.http.CloseIdleConnections()
	a, err := root.try(method, path, body, jsonType)
	if err != nil {
		return "none"
	}
	return a.short(c.t)
}

func (c *diskCase) lookup(s sto) string {
	return c.ask("public", "GET", "/v1/users/"+s.humanID+"?clientId="+shop, "")
}

// seen is a row about the running daemon: the new user's exchange, and a lookup of
// the old one.
func (c *diskCase) seen() (r faultRow) {
	r.answer = c.ask("public", "POST", tokens, c.new.json())
	r.answer += ", lookups " + c.lookup(c.old)
	switch uses := c.sim.Uses(c.new.sessionToken); {
	case uses == 0:
		r.outcome = nothingSent
	case uses == 1:
		r.outcome = "stored"
	default:
		r.outcome = fmt.Sprintf("sent %d times", uses)
	}
	r.health = c.healthText()
	return r
}

// kept looks at both users once the daemon serves again, repeats what the new one
// asked for, and says what the store has.
func (c *diskCase) kept() string {
	c.await("health", func() bool { return c.healthText() == soundHealth })
	c.post(c.new, "200")
	c.post(c.old, "200")
	for _, s := range []sto{c.old, c.new} {
		if got := c.storedOf(s.humanID); got != tokensStored {
			return got
		}
		if uses := c.sim.Uses(s.sessionToken); uses != 1 {
			return fmt.Sprintf("a session token was used %d times", uses)
		}
	}
	c.stop()
	c.proved()
	return allKept
}

// proved proves store and audit log with the command line.
func (c *diskCase) proved() {
	c.t.Helper()
	for _, args := range [][]string{{"store", "check"}, {"audit", "verify"}} {
		if out := c.offline(args...); out.code != 0 {
			c.t.Errorf("tokenvault %v: exit %d\n%s%s", args, out.code, out.stdout, out.stderr)
		}
	}
}

// offline runs the command line as the daemon's user.
func (c *diskCase) offline(args ...string) output {
	cmd := exec.Command(binary, append([]string{"--config", c.config}, args...)...)
	cmd.Env, cmd.Dir = []string{"HOME=" + c.dir}, "/"
	cmd.SysProcAttr = asUser(daemonUID)
	return runCommand(c.t, cmd, "")
}

// restart brings the daemon back after it ended or was stopped.
func (c *diskCase) restart() {
	c.start()
	c.awaitReady()
}

// fullThenFree is a row about a disk that is full, and then is not.
func (c *diskCase) fullThenFree(folders ...string) faultRow {
	var free []func()
	for _, f := range folders {
		free = append(free, c.fillUp(f))
	}
	c.press()
	r := c.seen()
	for _, f := range free {
		f()
	}
	r.stored = c.kept()
	return r
}

// press exchanges for others until what lies beside the reserves is used up. A
// reserve that is whole is no reason to refuse anything.
func (c *diskCase) press() {
	c.t.Helper()
	root := c.root("public")
	defer root.http.CloseIdleConnections()
	var all sync.WaitGroup
	var stored atomic.Int64
	limit := time.Now().Add(20 * time.Second)
	for range 16 {
		all.Go(func() {
			for time.Now().Before(limit) {
				a, err := root.try("POST", tokens, c.event("other").json(), jsonType)
				if err != nil || a.status != 200 {
					return
				}
				stored.Add(1)
			}
		})
	}
	all.Wait()
	c.t.Logf("%d exchanges were stored on the full disk before one was refused", stored.Load())
}

// useUp lets lookups use up the audit log's reserve, and says how many it took.
func (c *diskCase) useUp() int {
	c.t.Helper()
	root := c.root("private")
	defer root.http.CloseIdleConnections()
	for n := 0; n < 1<<16; n++ {
		a := root.do("GET", "/v1/users/"+c.old.humanID+"/access-token?clientId="+shop, "")
		if a.status != 200 {
			return n
		}
	}
	c.t.Fatal("the reserve is not used up")
	return 0
}

var diskFaults = []diskFault{
	{faultRow{"store's disk full", "503 store_unavailable, lookups 200", nothingSent, allKept, lowDisk}, disks{state: "ext4"},
		func(c *diskCase) faultRow { return c.fullThenFree("state") }},
	{faultRow{"audit log's disk full", "503 audit_unavailable, lookups 200", nothingSent, allKept, lowDisk}, disks{log: "ext4"},
		func(c *diskCase) faultRow { return c.fullThenFree("log") }},
	{faultRow{"the one disk of both full", "503 audit_unavailable, lookups 200", nothingSent, allKept, lowDisk}, disks{both: "ext4"},
		func(c *diskCase) faultRow { return c.fullThenFree("disk") }},
	{faultRow{"audit log's reserve used up", "503 audit_unavailable, lookups 503 audit_unavailable", nothingSent, allKept, lowDisk}, disks{both: "tmpfs", reserve: "256KiB"}, usedUp},
	{faultRow{"the same, when_full = unsafe-unrecorded-lookups", "503 audit_unavailable, lookups 200", nothingSent, allKept, lowDisk},
		disks{both: "tmpfs", reserve: "256KiB", whenFull: "unsafe-unrecorded-lookups"}, usedUp},
	{faultRow{"started on a full disk", "503 audit_unavailable, lookups 200", nothingSent, allKept, lowDisk}, disks{both: "ext4"}, startedFull},
	{faultRow{"full between intent and commit", "200, lookups 200", "stored", allKept, lowDisk}, disks{both: "ext4"}, receivedFull},
	{faultRow{"store's file system turns read-only", "503 store_unavailable, lookups 200", nothingSent, allKept, lowDisk}, disks{state: "ext4"},
		func(c *diskCase) faultRow { return c.turnsReadOnly("state") }},
	{faultRow{"audit log's file system turns read-only", "503 audit_unavailable, lookups 503 audit_unavailable", nothingSent, allKept, lowDisk}, disks{log: "ext4"},
		func(c *diskCase) faultRow { return c.turnsReadOnly("log") }},
	{faultRow{"read-only at start", "none", nothingSent, allKept, "the process ends: read-only file system"}, disks{both: "tmpfs"}, readOnlyAtStart},
	{faultRow{"every sync takes 300 ms", "200, lookups 200", "stored", allKept, soundHealth}, disks{}, slowSyncs},
}

func usedUp(c *diskCase) faultRow {
	free := c.fillUp("disk")
	c.press()
	c.t.Logf("figure: %d access tokens were read out of a reserve of 256KiB", c.useUp())
	r := c.seen()
	free()
	r.stored = c.kept()
	return r
}

func startedFull(c *diskCase) faultRow {
	c.stop()
	free := c.fillUp("disk")
	c.restart()
	c.press()
	r := c.seen()
	free()
	r.stored = c.kept()
	return r
}

// receivedFull: Human API has taken the request when the disk fills up.
func receivedFull(c *diskCase) faultRow {
	hold := make(chan struct{})
	c.sim.Misbehave(humanapitest.Fault{HumanID: c.new.humanID, HoldAnswer: hold})
	before := c.sim.Count(tokens)
	answered := make(chan faultRow)
	go func() { answered <- faultRow{answer: c.ask("public", "POST", tokens, c.new.json())} }()
	must(c.t, c.sim.Await(c.t.(*testing.T).Context(), tokens, before+1))
	free := c.fillUp("disk")
	c.press()
	close(hold)
	first := <-answered
	r := c.seen() // the repeat is answered from the store
	if first.answer != "200" {
		r.answer = first.answer
	}
	free()
	r.stored = c.kept()
	return r
}

// turnsReadOnly lets ext4 find an error of its own.
func (c *diskCase) turnsReadOnly(folder string) faultRow {
	device := filepath.Base(command(c.t, "findmnt", "-n", "-o", "SOURCE", c.path(folder)))
	must(c.t, os.WriteFile("/sys/fs/ext4/"+device+"/trigger_fs_error", []byte("a test"), 0))
	r := c.seen()
	r.health = c.awaitDegraded()
	c.kill()
	command(c.t, "umount", c.path(folder))
	command(c.t, "sh", "-c", `e2fsck -p -f "$1"; [ $? -lt 4 ]`, "sh", c.path(folder)+".img")
	command(c.t, "mount", "-o", "loop", c.path(folder)+".img", c.path(folder))
	c.restart()
	r.stored = c.kept()
	return r
}

// awaitDegraded is healthText once it is not sound any more.
func (c *diskCase) awaitDegraded() (text string) {
	c.await("health to say that something is wrong", func() bool { text = c.healthText(); return text != soundHealth })
	return text
}

func readOnlyAtStart(c *diskCase) faultRow {
	c.stop()
	command(c.t, "mount", "-o", "remount,ro", c.path("disk"))
	c.start()
	c.awaitEnd("read-only file system")
	r := faultRow{answer: c.ask("public", "POST", tokens, c.new.json()), outcome: nothingSent, health: "the process ends: read-only file system"}
	command(c.t, "mount", "-o", "remount,rw", c.path("disk"))
	c.restart()
	r.stored = c.kept()
	return r
}

func slowSyncs(c *diskCase) faultRow {
	end := c.inject("state/store.db", "fdatasync:delay_enter=300000")
	start := time.Now()
	r := c.seen()
	if took := time.Since(start); took < time.Second {
		c.t.Errorf("it took %v: the syncs were not slow", took)
	}
	end()
	r.stored = c.kept()
	return r
}

// The disk in its moods, each in an installation of its own.
func TestDiskFaults(t *testing.T) { runDiskFaults(t, diskFaults) }

func runDiskFaults(t *testing.T, rows []diskFault) {
	base := prepareWorld(t, options{mode: humanapitest.OneTime})
	base.setUpVault()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := base.newCase(t, row.disks)
			for _, d := range row.differs(row.happen(c)) {
				t.Error(d)
			}
			if t.Failed() {
				t.Fatal(c.logTail())
			}
			row.print(t, "disk")
		})
	}
}
