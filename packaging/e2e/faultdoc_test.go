package e2e

import (
	"flag"
	"os"
	"strings"
	"sync"
	"testing"
)

const (
	reliability = "../doc/reliability.md"
	tableEnd    = "<!-- end fault table -->"
)

var (
	update   = flag.Bool("update", false, "write the rows of the fault table into "+reliability)
	document sync.Mutex // held while it is read and written
)

// documented holds the document to a row that was just shown to be true. Rows that
// no test names any more are found in packaging/house.
func (r faultRow) documented(t testing.TB, group string) {
	t.Helper()
	if t.Failed() {
		return
	}
	document.Lock()
	defer document.Unlock()
	b, err := os.ReadFile(reliability)
	must(t, err)
	text, row := string(b), r.line(group)
	switch {
	case strings.Contains(text, "\n"+row+"\n"):
	case !*update:
		t.Errorf("packaging/doc/reliability.md lacks this row (-update writes it):\n%s", row)
	default:
		must(t, os.WriteFile(reliability, []byte(withRow(text, row, group)), 0o644))
	}
}

// withRow puts a row into the table: in the place of the one about the same
// condition, or else after the last of its group.
func withRow(text, row, group string) string {
	table, after, _ := strings.Cut(text, tableEnd)
	condition, _, _ := strings.Cut(row[2:], " | ")
	lines := strings.SplitAfter(table, "\n")
	at := len(lines) - 1 // what follows the last line's end is empty
	for i, l := range lines {
		if strings.HasPrefix(l, "| "+condition+" | ") {
			lines[i] = row + "\n"
			return strings.Join(lines, "") + tableEnd + after
		}
		if strings.HasPrefix(l, "| "+group+": ") {
			at = i + 1
		}
	}
	lines[at] = row + "\n" + lines[at]
	return strings.Join(lines, "") + tableEnd + after
}
