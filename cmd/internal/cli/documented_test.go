package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// inText finds the command lines in a document: in a block of shell, and between
// backticks.
var inText = regexp.MustCompile("(?m)(?:^ *|`|; |&& )(?:[A-Z_]+=\\S+ )?tokenvault ([a-z][^`#;\n]*)")

// Every command and flag in the documents exists: they are read when nobody has
// time to look for another one.
func TestDocumentedCommands(t *testing.T) {
	root := "../../.."
	documents, err := filepath.Glob(filepath.Join(root, "packaging/doc/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, document := range append(documents, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range inText.FindAllStringSubmatch(string(text), -1) {
			seen++
			if what := unknownIn(strings.Fields(m[1])); what != "" {
				t.Errorf("%s: tokenvault %s: there is no %s", filepath.Base(document), m[1], what)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d command lines were found in the documents", seen)
	}
}

// unknownIn returns the first word of a command line that should name a command or
// a flag, and does not.
func unknownIn(words []string) string {
	within, command := tree(), (*cli.Command)(nil)
	for _, w := range words {
		if strings.HasPrefix(w, "--") {
			if command == nil || !hasFlag(command, strings.TrimPrefix(w, "--")) {
				return w
			}
			continue
		}
		i := slices.IndexFunc(within, func(c *cli.Command) bool { return c.Name == w })
		switch {
		case i >= 0:
			command, within = within[i], within[i].Subcommands
		case len(within) > 0:
			return w
		}
	}
	return ""
}

func hasFlag(c *cli.Command, name string) bool {
	name, _, _ = strings.Cut(name, "=")
	return name == "help" || slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
}
