package cli

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// result is what one command line did.
type result struct {
	status         int
	stdout, stderr string
}

// invoke runs a command line in this process, with an environment of its own.
func invoke(t testing.TB, env map[string]string, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	status := Main(t.Context(), IO{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
		Env: func(name string) string { return env[name] },
	}, append([]string{"tokenvault"}, args...))
	return result{status, out.String(), errs.String()}
}

// walk calls f for every command with the words that lead to it.
func walk(commands []*cli.Command, path []string, f func(path []string, c *cli.Command)) {
	for _, c := range commands {
		words := append(slices.Clone(path), c.Name)
		f(words, c)
		walk(c.Subcommands, words, f)
	}
}

func tree() []*cli.Command {
	p := &program{IO: IO{Stdout: io.Discard, Stderr: io.Discard, Env: func(string) string { return "" }}}
	return p.tree().Commands
}

// placeholder is how a flag's usage names its value, once: `FILE`.
var placeholder = regexp.MustCompile("^[^`]+`[A-Z]+`[^`]*$")

// silent are the commands that print no data.
var silent = []string{"serve", "dev", "help", "vault policy"}

func TestTree(t *testing.T) {
	seen := 0
	walk(tree(), nil, func(path []string, c *cli.Command) {
		seen++
		name := strings.Join(path, " ")
		leaf := len(c.Subcommands) == 0
		hasJSON := slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return f.Names()[0] == "json" })
		switch {
		case c.Usage == "" || strings.HasSuffix(c.Usage, "."):
			t.Errorf("%s: its usage is %q", name, c.Usage)
		case !strings.Contains(c.Description, "Example:\n  ") || !strings.Contains(c.Description, "tokenvault "+path[0]):
			t.Errorf("%s has no example of itself", name)
		case c.OnUsageError == nil:
			t.Errorf("%s has no OnUsageError", name)
		case leaf && hasJSON == slices.Contains(silent, name):
			t.Errorf("%s: --json is %v", name, hasJSON)
		case !slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return f.Names()[0] == "config" }):
			t.Errorf("%s has no --config", name)
		}
		for _, f := range c.Flags {
			if d, ok := f.(cli.DocGenerationFlag); ok && d.GetUsage() == "" {
				t.Errorf("%s: the flag %s has no usage", name, f.Names()[0])
			} else if ok && d.TakesValue() && (!placeholder.MatchString(d.GetUsage()) || strings.Contains(d.GetUsage(), ". `")) {
				t.Errorf("%s: the flag %s names no value, or not within its sentence: %q", name, f.Names()[0], d.GetUsage())
			}
		}
	})
	if seen < 20 {
		t.Errorf("only %d commands", seen)
	}
}

// TestUsageErrors holds every command to the three traps of the library: a bad
// flag, an unknown subcommand and a flag after the arguments exit 2 and leave
// stdout clean.
func TestUsageErrors(t *testing.T) {
	walk(tree(), nil, func(path []string, c *cli.Command) {
		lines := [][]string{append(slices.Clone(path), "--no-such-flag")}
		switch {
		case len(c.Subcommands) > 0:
			lines = append(lines, path, append(slices.Clone(path), "bogus"))
		case c.Name != "help":
			lines = append(lines, append(slices.Clone(path), "a", "b", "c", "d"), append(slices.Clone(path), "a", "--json"))
		}
		for _, line := range lines {
			r := invoke(t, nil, "", line...)
			if r.status != exitUsage || r.stdout != "" || !strings.Contains(r.stderr, "hint: ") {
				t.Errorf("%q: exit %d, stdout %q, stderr %q", line, r.status, r.stdout, r.stderr)
			}
		}
	})
	for _, line := range [][]string{nil, {"bogus"}, {"--no-such-flag"}, {"help", "bogus"}, {"help", "config", "bogus"}} {
		if r := invoke(t, nil, "", line...); r.status != exitUsage || r.stdout != "" {
			t.Errorf("%q: exit %d, stdout %q", line, r.status, r.stdout)
		}
	}
}

func TestHelp(t *testing.T) {
	walk(tree(), nil, func(path []string, c *cli.Command) {
		for _, line := range [][]string{append([]string{"help"}, path...), append(slices.Clone(path), "--help")} {
			if r := invoke(t, nil, "", line...); r.status != exitOK || !strings.Contains(r.stdout, c.Usage) || r.stderr != "" {
				t.Errorf("%q: exit %d, stdout %q, stderr %q", line, r.status, r.stdout, r.stderr)
			} else if c.Name != "help" && !strings.Contains(r.stdout, "\n   "+callOf(path, c)+"\n") {
				t.Errorf("%q does not say %q: %q", line, callOf(path, c), r.stdout)
			}
		}
	})
	if r := invoke(t, nil, "", "--help"); r.status != exitOK || !strings.Contains(r.stdout, "serve") {
		t.Errorf("--help: %+v", r)
	}
}

// callOf is the line of the help that shows how a command is called.
func callOf(path []string, c *cli.Command) string {
	words := "tokenvault " + strings.Join(path, " ")
	if len(c.Subcommands) > 0 {
		return words + " COMMAND [OPTIONS] [ARGUMENTS]"
	}
	return strings.TrimSpace(words + " [OPTIONS] " + c.ArgsUsage)
}

// A flag that is given and empty is never taken for one that is left out.
func TestEmptyFlags(t *testing.T) {
	seen := 0
	walk(tree(), nil, func(path []string, c *cli.Command) {
		for _, f := range c.Flags {
			d, ok := f.(cli.DocGenerationFlag)
			if !ok || !d.TakesValue() || len(c.Subcommands) > 0 || c.Name == "help" || c.Name == "dev" {
				continue
			}
			seen++
			line := append(slices.Clone(path), "--"+f.Names()[0], "")
			if r := invoke(t, nil, "", line...); r.status != exitUsage || !strings.Contains(r.stderr, "--"+f.Names()[0]+" is empty") {
				t.Errorf("%q: exit %d, stderr %q", line, r.status, r.stderr)
			}
		}
	})
	if seen < 20 {
		t.Errorf("only %d flags", seen)
	}
	if r := invoke(t, nil, "", "--config", "", "config", "check"); r.status != exitUsage {
		t.Errorf("--config before the command: %+v", r)
	}
}

func TestDidYouMean(t *testing.T) {
	if r := invoke(t, nil, "", "stat"); !strings.Contains(r.stderr, `did you mean "status"?`) {
		t.Errorf("%q", r.stderr)
	}
	if r := invoke(t, nil, "", "config", "desc"); !strings.Contains(r.stderr, `did you mean "describe"?`) {
		t.Errorf("%q", r.stderr)
	}
}

// A full disk behind stdout is a failure, not an answer.
func TestBrokenStdout(t *testing.T) {
	for _, line := range [][]string{{"version"}, {"version", "--json"}, {"config", "describe"}, {"vault", "policy"}} {
		status := Main(context.Background(), IO{
			Stdin: strings.NewReader(""), Stdout: brokenWriter{}, Stderr: io.Discard, Env: func(string) string { return "" },
		}, append([]string{"tokenvault"}, line...))
		if status != exitFailed {
			t.Errorf("%q: exit %d", line, status)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[2Jb\u202ec\né"); strings.ContainsAny(got, "\x1b\u202e\n") || !strings.HasSuffix(got, "é") {
		t.Errorf("%q", got)
	}
}

func TestReadSessionToken(t *testing.T) {
	o, err := readSessionToken(strings.NewReader(`{"humanId":"h","clientId":"c","sessionToken":"marker-session","userId":1}`))
	if err != nil || o.HumanID != "h" || o.ClientID != "c" || o.SessionToken.Len() != len("marker-session") {
		t.Errorf("%v", err)
	}
	for _, in := range []string{"", "{}", "[]", `{"humanId":"h"}`, `{"humanId":"h","sessionToken":5}`, strings.Repeat(" ", maxInput+1)} {
		if _, err := readSessionToken(strings.NewReader(in)); err == nil {
			t.Errorf("%.20q was accepted", in)
		}
	}
}

func TestCheckSecret(t *testing.T) {
	for in, good := range map[string]bool{"marker-secret": true, "": false, "two words": false, "line\nline": false, "é": false} {
		if _, err := checkSecret([]byte(in)); (err == nil) != good {
			t.Errorf("%q: %v", in, err)
		}
	}
	if _, err := checkSecret([]byte("marker-secret\r")); err == nil || !strings.Contains(err.Error(), "carriage return") {
		t.Errorf("a line of Windows': %v", err)
	}
}
