package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// damageFaults are stores in which single bytes are not what they were.
var damageFaults = []diskFault{
	{faultRow{"one user's row altered", "503 store_unavailable, lookups of others 200", nothingSent, "all that was, once the row is as it was", soundHealth}, disks{}, alteredRow},
	{faultRow{"one byte of a page altered, each of 24", "right tokens, an error, or no start", nothingSent, allKept, "nothing that is wrong"}, disks{}, flippedPages},
}

// alteredRow flips a bit in the row of the old user alone.
func alteredRow(c *diskCase) faultRow {
	c.stop()
	older := c.rows()
	c.restart()
	c.post(c.new, "200")
	c.stop()
	flip := func(key, value []byte) []byte {
		if older[string(key)] {
			value[100] ^= 1 // in the public box, which comes first
		}
		return value
	}
	c.changeRows(flip)
	c.restart()
	again := sto{shop, c.old.humanID, c.sim.NewSession(shop, c.old.humanID, "old@example.test")}
	r := faultRow{answer: c.ask("public", "POST", tokens, again.json()) + ", lookups of others " + c.lookup(c.new), outcome: nothingSent, health: c.healthText()}
	if got := c.lookup(c.old); got != "503 store_unavailable" {
		c.t.Errorf("a lookup of the damaged user is answered %q", got)
	}
	if c.sim.Uses(again.sessionToken) != 0 {
		r.outcome = "sent"
	}
	c.stop()
	if out := c.offline("store", "check"); out.code != 5 {
		c.t.Errorf("store check exits %d", out.code)
	}
	c.changeRows(flip)
	c.restart()
	c.post(again, "200")
	c.old = again
	if r.stored = c.kept(); r.stored == allKept {
		r.stored = "all that was, once the row is as it was"
	}
	return r
}

// rows are the keys of the users in the store's file.
func (c *diskCase) rows() map[string]bool {
	keys := map[string]bool{}
	c.changeRows(func(key, value []byte) []byte { keys[string(key)] = true; return value })
	return keys
}

// changeRows opens the store's file as whoever owns the disk can.
func (c *diskCase) changeRows(change func(key, value []byte) []byte) {
	c.t.Helper()
	db, err := bbolt.Open(c.path("state/store.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	must(c.t, err)
	must(c.t, db.Update(func(tx *bbolt.Tx) error {
		users := tx.Bucket([]byte("users"))
		changed := map[string][]byte{}
		if err := users.ForEach(func(k, v []byte) error {
			changed[string(k)] = change(slices.Clone(k), bytes.Clone(v))
			return nil
		}); err != nil {
			return err
		}
		for k, v := range changed {
			if err := users.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return nil
	}))
	must(c.t, db.Close())
}

// flippedPages alters one byte after the other, spread over what is in use.
func flippedPages(c *diskCase) faultRow {
	users := []sto{c.old}
	for n := range 16 {
		s := c.event(fmt.Sprint(n))
		c.post(s, "200")
		users = append(users, s)
	}
	c.stop()
	was, err := os.ReadFile(c.path("state/store.db"))
	must(c.t, err)
	var used []int // offsets with content
	for i, b := range was {
		if b != 0 {
			used = append(used, i)
		}
	}
	seen := map[string]int{}
	for n := range 24 {
		at := used[len(used)*n/24]
		back := c.changeStore(func(store []byte) []byte { store[at] ^= 0x10; return store })
		for what, times := range c.answersOf(users) {
			seen[what] += times
		}
		back()
	}
	c.t.Logf("figure: 24 altered bytes: %v; wrong tokens 0", seen)
	c.restart()
	for _, s := range users {
		if got := c.storedOf(s.humanID); got != tokensStored {
			c.t.Errorf("the file is as it was, and the store has %s", got)
		}
	}
	return faultRow{answer: "right tokens, an error, or no start", outcome: nothingSent, stored: c.kept(), health: "nothing that is wrong"}
}

// answersOf starts the daemon on a damaged store, and counts what lookups of users
// get. Nobody may get what is not theirs, and a user who seems not to be there must
// be found by store check.
func (c *diskCase) answersOf(users []sto) map[string]int {
	c.t.Helper()
	seen := map[string]int{}
	c.start()
	defer c.kill()
	serves := false
	c.await("the daemon to serve or to end", func() bool {
		root := c.root("public")
		defer root.http.CloseIdleConnections()
		a, err := root.try("GET", "/v1/health", "")
		var h health
		serves = err == nil && json.Unmarshal([]byte(a.body), &h) == nil && h.Ready
		return serves || c.ended() || err == nil && len(h.Reasons) > 0 && h.text() != "starting"
	})
	if !serves {
		seen["no start"]++
		return seen
	}
	for _, s := range users {
		what := c.lookup(s)
		if what == "200" {
			what = c.closer(s)
		}
		seen[what]++
	}
	if seen["404 unknown_user"] > 0 {
		c.kill()
		if out := c.offline("store", "check"); out.code != 5 {
			c.t.Errorf("users are not found, and store check exits %d", out.code)
		}
	}
	return seen
}

// closer looks at what a user's lookup is answered with.
func (c *diskCase) closer(s sto) string {
	root := c.root("private")
	defer root.http.CloseIdleConnections()
	access, public := c.sim.Current(shop, s.humanID)
	path := "/v1/users/" + s.humanID
	a := root.do("GET", path+"?clientId="+shop, "")
	if a.status == 200 && (a.field(c.t, "publicToken") != public || a.field(c.t, "humanId") != s.humanID) {
		c.t.Error("a wrong publicToken is answered")
	}
	b := root.do("GET", path+"/access-token?clientId="+shop, "")
	if b.status == 200 && b.field(c.t, "accessToken") != access {
		c.t.Error("a wrong access token is answered")
	}
	if b.status != 200 {
		return "200, access token " + b.short(c.t)
	}
	return "200"
}

// Single bytes of the store that are not what they were.
func TestDamageFaults(t *testing.T) { runDiskFaults(t, damageFaults) }
