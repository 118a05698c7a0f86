package house

import (
	"flag"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/exchange/broker"
)

const (
	reliability = "packaging/doc/reliability.md"
	threats     = "packaging/doc/threat-model.md"
	faultsIn    = "packaging/e2e" // where the fault table is shown to be true
)

var update = flag.Bool("update", false, "write the retry table of "+reliability+" anew")

// The document's retry table is broker.Policy.
func TestReliabilityRetries(t *testing.T) {
	tr := source(t)
	text := string(readFile(t, tr, reliability))
	p, table := section(t, text, "retry table"), retryTable()
	if written := p.before + table + p.after; *update && written != text {
		if err := os.WriteFile(filepath.Join(tr.root, reliability), []byte(written), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, d := range differences(p.held, table) {
		t.Errorf("%s: the retry table %s", reliability, d)
	}
}

func differences(document, code string) (out []string) {
	held, want := strings.Split(document, "\n"), strings.Split(code, "\n")
	for _, line := range want {
		if !slices.Contains(held, line) {
			out = append(out, "lacks: "+line)
		}
	}
	for _, line := range held {
		if !slices.Contains(want, line) {
			out = append(out, "has what the code has not: "+line)
		}
	}
	if len(out) == 0 && document != code {
		out = append(out, "has another order")
	}
	return out
}

func retryTable() string {
	var out strings.Builder
	row(&out, "what an attempt met", "how far it had come", "then", "until", "pause", "outcome", "failure", "breaker")
	row(&out, "---", "---", "---", "---", "---", "---", "---", "---")
	for _, p := range broker.Policy() {
		row(&out, p.Met, p.Stage, p.Then, p.Until, p.Pause, p.Outcome, p.Failure, p.Origin)
	}
	return out.String()
}

func row(out *strings.Builder, cells ...string) {
	for i, c := range cells {
		if cells[i] = strings.ReplaceAll(c, "|", `\|`); c == "" {
			cells[i] = "–"
		}
	}
	fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | "))
}

// Every condition of the fault table is one that an end-to-end test names. That the
// rows say what the tests see, the tests check when they print them.
func TestReliabilityFaults(t *testing.T) {
	tr := source(t)
	said := map[string]bool{}
	for _, f := range tr.files {
		if f.pkg != faultsIn {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				s, _ := strconv.Unquote(l.Value) // the parser has looked at it
				said[s] = true
			}
			return true
		})
	}
	rows := 0
	for _, line := range section(t, string(readFile(t, tr, reliability)), "fault table").lines() {
		m := condition.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if rows++; !said[m[1]] || !said[m[2]] {
			t.Errorf("%s: no end-to-end test has the condition %q", reliability, m[1]+": "+m[2])
		}
	}
	if rows < 20 {
		t.Errorf("%s: the fault table has only %d rows", reliability, rows)
	}
}

// condition is the first cell of a row: group and name.
var condition = regexp.MustCompile(`^\| ([^:|]+): (.+?) \| `)

// part is what stands between the marks of a table.
type part struct{ before, held, after string }

func section(t *testing.T, text, name string) part {
	t.Helper()
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	held, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no %q and %q", reliability, begin, end)
	}
	return part{before + begin, held, end + after}
}

func (p part) lines() []string { return strings.Split(p.held, "\n") }

var (
	namedTest = regexp.MustCompile("`([a-z0-9/]+)`((?:,? (?:and )?(?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)+)")
	testName  = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*\b`)
)

// What holds a promise is there: "`exchange/broker` TestResume, TestOutcomes" are
// tests of that package, and a test is never named without its package.
func TestDocumentsNameTests(t *testing.T) {
	tr := source(t)
	there := map[string]bool{}
	for _, f := range tr.files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
				there[path.Join(f.pkg, fn.Name.Name)] = true
			}
		}
	}
	for _, document := range []string{reliability, threats} {
		named := 0
		for i, line := range strings.Split(string(readFile(t, tr, document)), "\n") {
			named += namedIn(t, fmt.Sprintf("%s:%d", document, i+1), line, there)
		}
		if named < 50 {
			t.Errorf("%s names only %d tests", document, named)
		}
	}
}

// namedIn counts the tests that a line names; they must be there.
func namedIn(t *testing.T, at, line string, there map[string]bool) (n int) {
	t.Helper()
	for _, m := range namedTest.FindAllStringSubmatch(line, -1) {
		for _, test := range testName.FindAllString(m[2], -1) {
			if n++; !there[path.Join(m[1], test)] {
				t.Errorf("%s: %s has no %s", at, m[1], test)
			}
		}
	}
	if all := len(testName.FindAllString(line, -1)); all != n {
		t.Errorf("%s: %d tests are named, and %d of them with their package in front", at, all, n)
	}
	return n
}
