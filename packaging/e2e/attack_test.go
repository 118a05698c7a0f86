package e2e

import "testing"

// The attack table. Each row is one attempt on the real program, and says what it
// came to and what the audit log has of it.
//
//	group | attempt | outcome | what is on record
type attackRow struct{ group, attempt, outcome, record string }

func (r attackRow) print(t testing.TB) {
	t.Helper()
	t.Logf("figure: | %s | %s | %s | %s |", r.group, r.attempt, r.outcome, r.record)
}

// attackGroups are the parts of the suite. Each tries its rows on a world of its own,
// prints them, and says how many there were.
var attackGroups = []struct {
	name string
	run  func(*testing.T) (tried int)
}{
	{"HTTP", attackOverHTTP},
	{"start", attackAtStart},
}

// Fewer attempts than this are no suite.
const fewestAttacks = 80

// Everything that somebody may try to get more than they should: refused, and on
// record.
func TestAttacks(t *testing.T) {
	all, ran := 0, 0
	for _, g := range attackGroups {
		t.Run(g.name, func(t *testing.T) {
			n := g.run(t)
			t.Logf("figure: attacks, %s: %d attempts", g.name, n)
			all, ran = all+n, ran+1
		})
	}
	t.Logf("figure: %d attempts in %d groups", all, ran)
	if ran == len(attackGroups) && all < fewestAttacks {
		t.Errorf("there are %d attempts, and must be %d", all, fewestAttacks)
	}
}
