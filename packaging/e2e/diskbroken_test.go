package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// brokenFaults are files that are not what they were, and disks that fail.
var brokenFaults = []diskFault{
	{faultRow{"EIO at a sync of the store", "any", "stored, or listed as indeterminate", allKept, "the process ends: the store takes no more writes"}, disks{}, func(c *diskCase) faultRow {
		return c.syncFails("state/store.db", "the store takes no more writes")
	}},
	{faultRow{"EIO at a sync of the audit log", "any", "stored, or listed as indeterminate", allKept, "the process ends: the audit log is broken"}, disks{}, func(c *diskCase) faultRow {
		return c.syncFails("log/audit.log", "the audit log is broken")
	}},
	{faultRow{"ENOSPC at a write of the store", "200, or 503 store_unavailable", "stored, or nothing was sent", allKept, soundHealth}, disks{}, func(c *diskCase) faultRow {
		return c.noSpaceAt("state/store.db", "store_unavailable", "pwrite64")
	}},
	{faultRow{"ENOSPC at a write of the audit log", "200, or 503 audit_unavailable", "stored, or nothing was sent", allKept, soundHealth}, disks{}, func(c *diskCase) faultRow {
		return c.noSpaceAt("log/audit.log", "audit_unavailable", "write")
	}},
	{faultRow{"ENOSPC while the reserve is topped up", "503 store_unavailable, lookups 200", nothingSent, allKept, lowDisk}, disks{}, func(c *diskCase) faultRow {
		return c.noMore("fallocate:error=ENOSPC")
	}},
	{faultRow{"no room at all between intent and commit", "504 exchange_pending, lookups 200", "stored", allKept, lowDisk}, disks{exchange: `deadline = "2s"`}, heldInMemory},
	{faultRow{"two daemons on one store", "200, lookups 200", "stored", allKept, soundHealth}, disks{}, twoDaemons},
	{faultRow{"store truncated while it is open", "503 store_unavailable", nothingSent, allKept, "the process ends: the store takes no more writes"}, disks{}, cutWhileOpen},
	{faultRow{"store truncated", "none", nothingSent, allKept, "the process does not start: the file is damaged"}, disks{}, func(c *diskCase) faultRow {
		return c.notStarting("the file is damaged", func(store []byte) []byte { return store[:16<<10] })
	}},
	{faultRow{"store of zero length", "none", nothingSent, allKept, "the process does not start: the file is damaged"}, disks{}, func(c *diskCase) faultRow {
		return c.notStarting("the file is damaged", func([]byte) []byte { return nil })
	}},
	{faultRow{"not a store", "none", nothingSent, allKept, "the process does not start: the file is damaged"}, disks{}, func(c *diskCase) faultRow {
		return c.notStarting("the file is damaged", func([]byte) []byte { return []byte(strings.Repeat("not a store\n", 1<<12)) })
	}},
	{faultRow{"store replaced by an older copy", "503 starting, lookups 503 starting", nothingSent, allKept, "not ready: the store is not at or ahead of its rollback anchor"}, disks{}, olderCopy},
}

// syncFails fails the Nth sync of a file, for several N: the process ends at once,
// and the next start has all that was answered, and lists what is in doubt.
func (c *diskCase) syncFails(file, why string) faultRow {
	doubts := 0
	for n := 1; n <= 5; n++ {
		end := c.inject(file, fmt.Sprintf("fdatasync:error=EIO:when=%d", n))
		sent, answers, last := c.untilEnd()
		c.awaitEnd(why)
		if took := time.Since(last); took > 5*time.Second {
			c.t.Errorf("the process took %v to end", took)
		}
		end()
		c.restart()
		for i, s := range sent {
			if c.afterwards(s, answers[i]) == doubtStored {
				doubts++
			}
		}
		c.emptyLog()
	}
	c.t.Logf("figure: 5 times a sync failed under an exchange: %d users are listed as indeterminate, nothing else is missing", doubts)
	return faultRow{answer: "any", outcome: "stored, or listed as indeterminate", stored: c.kept(), health: "the process ends: " + why}
}

// afterwards is what the store has of an exchange that the daemon ended under.
func (c *diskCase) afterwards(s sto, answer string) (stored string) {
	c.t.Helper()
	c.await("the intent to end", func() bool {
		stored = c.storedOf(s.humanID)
		return stored == tokensStored || stored == doubtStored || c.sim.Uses(s.sessionToken) == 0
	})
	if answer == "200" && stored != tokensStored {
		c.t.Errorf("an exchange was answered before a sync failed, and the store has %s", stored)
	}
	return stored
}

// untilEnd exchanges for one user after the other until the daemon ends; last is
// when the first that was not stored began.
func (c *diskCase) untilEnd() (sent []sto, answers []string, last time.Time) {
	healthy := true
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit) && !c.ended(); {
		s := c.event("other")
		if healthy {
			last = time.Now()
		}
		a := c.ask("public", "POST", tokens, s.json())
		healthy = healthy && a == "200"
		if sent, answers = append(sent, s), append(answers, a); a == "none" {
			break
		}
	}
	return sent, answers, last
}

func (c *diskCase) ended() bool {
	select {
	case <-c.daemon.done:
		return true
	default:
		return false
	}
}

// emptyLog lets the next look at the daemon's log find only what is new.
func (c *diskCase) emptyLog() { must(c.t, os.Truncate(c.path("daemon.log"), 0)) }

// noSpaceAt fails the Nth such call on a file, for several N, and goes on.
func (c *diskCase) noSpaceAt(file, code, call string) faultRow {
	refused, failed := 0, 0
	for n := 1; n <= 6; n++ {
		end := c.inject(file, fmt.Sprintf("%s:error=ENOSPC:when=%d", call, n))
		var sent []sto
		for range 4 {
			s := c.event(fmt.Sprint(n))
			sent = append(sent, s)
			a := c.ask("public", "POST", tokens, s.json())
			if a == "503 "+code {
				refused++
			} else if a != "200" {
				c.t.Errorf("an exchange is answered %q", a)
			}
		}
		end()
		trace, err := os.ReadFile(c.path("trace"))
		must(c.t, err)
		failed += strings.Count(string(trace), "INJECTED")
		for _, s := range sent {
			c.await("the repeat", func() bool { return c.ask("public", "POST", tokens, s.json()) == "200" })
			if got, uses := c.storedOf(s.humanID), c.sim.Uses(s.sessionToken); got != tokensStored || uses != 1 {
				c.t.Errorf("%s number %d without room: the store has %s, the session token was used %d times", call, n, got, uses)
			}
		}
	}
	if failed == 0 {
		c.t.Error("nothing failed")
	}
	c.t.Logf("figure: %d times %s failed with ENOSPC, %d exchanges were refused", failed, call, refused)
	c.await("health", func() bool { return c.healthText() == soundHealth })
	return faultRow{answer: "200, or 503 " + code, outcome: "stored, or nothing was sent", health: c.healthText(), stored: c.kept()}
}

// noMore: the file system says that it has room, and gives none.
func (c *diskCase) noMore(rule string) faultRow {
	end := c.inject("state/store.db", rule)
	c.press()
	r := c.seen()
	end()
	r.stored = c.kept()
	return r
}

// heldInMemory: Human API has answered, and not one page can be written.
func heldInMemory(c *diskCase) faultRow {
	hold := make(chan struct{})
	c.sim.Misbehave(humanapitest.Fault{HumanID: c.new.humanID, HoldAnswer: hold})
	before := c.sim.Count(tokens)
	answered := make(chan string)
	go func() { answered <- c.ask("public", "POST", tokens, c.new.json()) }()
	must(c.t, c.sim.Await(c.t.(*testing.T).Context(), tokens, before+1))
	end := c.inject("state/store.db", "pwrite64:error=ENOSPC")
	close(hold)
	r := faultRow{answer: <-answered + ", lookups " + c.lookup(c.old)}
	r.health = c.awaitDegraded()
	if got := c.storedOf(c.new.humanID); got != nothingStored {
		c.t.Errorf("the store has %s", got)
	}
	end()
	start := time.Now()
	c.await("the tokens to be stored", func() bool { return c.storedOf(c.new.humanID) == tokensStored })
	c.t.Logf("figure: tokens held in memory were stored %v after there was room", time.Since(start).Round(10*time.Millisecond))
	r.outcome = "stored"
	if n := c.sim.Count(tokens) - before; n != 1 {
		c.t.Errorf("Human API was asked %d times", n)
	}
	r.stored = c.kept()
	return r
}

// twoDaemons: the second ends, the first does not notice.
func twoDaemons(c *diskCase) faultRow {
	first := c.daemon
	c.start()
	c.awaitEnd("another daemon runs on the store")
	c.daemon = first
	r := c.seen()
	r.stored = c.kept()
	return r
}

// store changes the store's file and returns what puts it back.
func (c *diskCase) changeStore(change func([]byte) []byte) (back func()) {
	path := c.path("state/store.db")
	was, err := os.ReadFile(path)
	must(c.t, err)
	must(c.t, os.WriteFile(path, change(append([]byte{}, was...)), 0o600))
	return func() { must(c.t, os.WriteFile(path, was, 0o600)) }
}

func cutWhileOpen(c *diskCase) faultRow {
	back := c.changeStore(func(store []byte) []byte { return store[:16<<10] })
	r := faultRow{answer: c.ask("public", "POST", tokens, c.new.json()), outcome: nothingSent, health: "the process ends: the store takes no more writes"}
	if c.sim.Uses(c.new.sessionToken) != 0 {
		r.outcome = "sent"
	}
	c.awaitEnd("the store takes no more writes")
	back()
	c.restart()
	r.stored = c.kept()
	return r
}

// notStarting changes the store while no daemon runs, and puts it back later.
func (c *diskCase) notStarting(why string, change func([]byte) []byte) faultRow {
	c.stop()
	back := c.changeStore(change)
	c.start()
	c.awaitEnd(why)
	r := faultRow{answer: c.ask("public", "POST", tokens, c.new.json()), outcome: nothingSent, health: "the process does not start: " + why}
	back()
	c.restart()
	r.stored = c.kept()
	return r
}

// olderCopy: another user came after the copy was made.
func olderCopy(c *diskCase) faultRow {
	c.stop()
	path := c.path("state/store.db")
	older, err := os.ReadFile(path)
	must(c.t, err)
	c.restart()
	c.post(c.event("later"), "200")
	c.stop()
	back := c.changeStore(func([]byte) []byte { return older })
	c.start()
	c.awaitHealth(func(status int, h health) bool { return status == 503 && strings.Contains(h.text(), "anchor") })
	r := c.seen()
	c.kill()
	back()
	c.restart()
	r.stored = c.kept()
	return r
}

// Files that were damaged, exchanged or taken away, and disks that fail at one call.
func TestBrokenDiskFaults(t *testing.T) { runDiskFaults(t, brokenFaults) }
