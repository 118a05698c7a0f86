package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What the environment tells a test binary that looks at a mutant: the program
// to run instead of the product, and after how many rounds without a finding
// TestKill is content.
const (
	mutantBinary = "TOKENVAULT_TEST_BINARY"
	mutantRounds = "TOKENVAULT_TEST_ROUNDS"
)

// revision is a change to a source file. Its old text stands there exactly once.
type revision struct{ file, old, new string }

// mutant is the product with one promise broken, and what has to find it.
type mutant struct {
	name  string
	edits []revision
	test  string // that has to fail
	says  string // in these words
}

const (
	exchangesGoWrong = `lost:|doubled:|mixed up:`
	syncsGoWrong     = `got request, write attempt, `
)

var mutants = []mutant{
	{"the commit point stands before the answer check", []revision{
		{"exchange/broker/commit.go", "\tswitch why := r.check(a); {\n", "\tswitch why := user.Failure(\"\"); {\n"},
	}, "TestKill", exchangesGoWrong},
	{"intents found at start are dropped in silence", []revision{
		{"exchange/broker/run.go", "\tif r.intent.Incarnation != b.cfg.Incarnation {\n\t\treturn indeterminate()\n\t}\n", "\tif r.intent.Incarnation != 0 {\n\t\treturn unsent(errNoTurn)\n\t}\n"},
	}, "TestKill", exchangesGoWrong},
	{"a doubt is dropped in silence", []revision{
		{"exchange/broker/verdict.go", "\tif v.unspent {", "\tif v.unspent || v.outcome == user.IndeterminateOutcome {"},
	}, "TestKill", exchangesGoWrong},
	{"a session that was stored is forgotten", []revision{
		{"crypto/store/write.go", "\tif outcome == user.Unsent {\n\t\treturn\n", "\tif outcome == user.Unsent || outcome == user.Stored {\n\t\treturn\n"},
	}, "TestKill", exchangesGoWrong},
	{"exchanges of one user are on the wire together", []revision{
		{"exchange/broker/line.go", "\t\tcase beginning, sending:\n\t\t\treturn nil\n", "\t\tcase beginning:\n\t\t\treturn nil\n"},
	}, "TestKill", exchangesGoWrong},
	{"tokens are answered that are committed later", []revision{
		{"exchange/broker/commit.go", "\tdefer a.AccessToken.Wipe()\n", ""},
		{"exchange/broker/commit.go", "\t\tresult, err := b.cfg.Store.Commit(b.life, r.intent, rec)\n", "\t\tgo func() { _, _ = b.cfg.Store.Commit(b.life, r.intent, rec) }()\n\t\tresult, err := user.Result{Public: rec.Public, Outcome: user.Stored}, error(nil)\n"},
	}, "TestKill", exchangesGoWrong},
	{"Human API is asked before the intent is written", []revision{
		{"exchange/broker/run.go", "\tin, err := b.cfg.Store.Begin(b.life, r.intent)\n", "\tvar early exchange.Reply\n\tasked, _ := b.withSecret(b.life, r.intent.ClientID, func(s user.ClientSecret) (err error) {\n\t\tearly, err = b.send(r, s)\n\t\treturn err\n\t})\n\tif asked == nil {\n\t\tanswers.Store(r, early)\n\t}\n\tin, err := b.cfg.Store.Begin(b.life, r.intent)\n"},
		{"exchange/broker/run.go", "\t\"github.com/tokenvault/tokenvault/exchange/user\"\n)\n", "\t\"sync\"\n\n\t\"github.com/tokenvault/tokenvault/exchange\"\n\t\"github.com/tokenvault/tokenvault/exchange/user\"\n)\n\nvar answers sync.Map\n"},
		{"exchange/broker/attempt.go", "\t\treply, err = b.send(r, s)\n\t\treturn err\n", "\t\tif early, ok := answers.LoadAndDelete(r); ok {\n\t\t\treply = early.(exchange.Reply)\n\t\t\treturn nil\n\t\t}\n\t\treply, err = b.send(r, s)\n\t\treturn err\n"},
	}, "TestSyncsBeforeTheAnswer", syncsGoWrong},
	{"the store is not synced", []revision{
		{"crypto/store/boltstore/boltstore.go", "\toptions.NoStatistics = true\n", "\toptions.NoStatistics = true\n\toptions.NoSync = true\n"},
	}, "TestSyncsBeforeTheAnswer", syncsGoWrong},
	{"the audit log is not synced", []revision{
		{"unix/server/call.go", "\t\terr = q.services.Audit.WriteDurable(context.WithoutCancel(q.r.Context()), e)\n", "\t\terr = q.services.Audit.Write(e)\n"},
	}, "TestSyncsBeforeTheAnswer", syncsGoWrong},
}

// A suite that finds nothing proves something only if it would have found it:
// each mutant breaks one promise, and the suites have to say so.
func TestMutantsAreFound(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		if out, failed := runSuite(t, "TestKill", mutantBinary+"="+binary, mutantRounds+"=6"); failed {
			t.Fatalf("the product itself fails\n%s", out[max(0, len(out)-4096):])
		}
	})
	for _, m := range mutants {
		t.Run(m.name, m.mustBeFound)
	}
}

func (m mutant) mustBeFound(t *testing.T) {
	binary := m.build(t)
	start := time.Now()
	out, failed := runSuite(t, m.test, mutantBinary+"="+binary, mutantRounds+"=40")
	found := regexp.MustCompile(`(?m)^.*(?:` + m.says + `).*$`).FindString(out)
	if !failed || found == "" {
		t.Fatalf("%s does not find it (failed: %v)\n%s", m.test, failed, out[max(0, len(out)-4096):])
	}
	if _, after, ok := strings.Cut(found, "_test.go:"); ok {
		_, found, _ = strings.Cut(after, ": ")
	}
	t.Logf("figure: mutant %q: %s finds it within %v: %.75s", m.name, m.test, time.Since(start).Round(time.Second), strings.TrimSpace(found))
}

// build builds the product with the edits.
func (m mutant) build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	must(t, err)
	replace := map[string]string{}
	for _, e := range m.edits {
		path := filepath.Join(root, e.file)
		at, known := replace[path]
		if !known {
			at = path
		}
		source, err := os.ReadFile(at)
		must(t, err)
		if n := strings.Count(string(source), e.old); n != 1 {
			t.Fatalf("mutant %q: the text to replace stands %d times in %s, and must once: %q", m.name, n, e.file, e.old)
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if known {
			replace[path] = at
		}
		must(t, os.WriteFile(replace[path], []byte(strings.Replace(string(source), e.old, e.new, 1)), 0o644))
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644))
	// Beside the product: other users run it.
	out := filepath.Join(binaries, fmt.Sprintf("mutant-%d", slices.IndexFunc(mutants, func(o mutant) bool { return o.name == m.name })))
	if err := build(out, "-overlay", filepath.Join(dir, "overlay.json")); err != nil {
		t.Fatalf("building mutant %q: %v", m.name, err)
	}
	t.Cleanup(func() { must(t, os.Remove(out)) })
	return out
}

// runSuite runs a test of this binary in a process of its own.
func runSuite(t *testing.T, name string, env ...string) (out string, failed bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.v", "-test.count=1", "-test.timeout=4m", "-test.run=^"+name+"$")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "TOKENVAULT_TEST_LONG=")
	}), env...)
	result := runCommand(t, cmd, "")
	if !strings.Contains(result.stdout, "--- FAIL: "+name) && !strings.Contains(result.stdout, "--- PASS: "+name) {
		t.Fatalf("%s did not run to its end: exit %d\n%s%s", name, result.code, result.stdout[max(0, len(result.stdout)-4096):], result.stderr)
	}
	return result.stdout, result.code != 0
}
