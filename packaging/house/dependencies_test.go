package house

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const dependencies = "packaging/doc/dependencies.md"

var (
	required   = regexp.MustCompile(`^(?:require )?\t?([a-z0-9.-]+\.[a-z]+/\S+) v\S+( // indirect)?$`)
	documented = regexp.MustCompile("^- `([^`]+)`: .{20,}$")
)

// Every module that is imported has a reason, and every reason a module.
func TestEveryDependencyHasAReason(t *testing.T) {
	tr := source(t)
	modules, reasons := map[string]bool{}, map[string]bool{}
	for line := range bytes.Lines(readFile(t, tr, "go.mod")) {
		if m := required.FindSubmatch(bytes.TrimRight(line, "\n")); m != nil {
			modules[string(m[1])] = len(m[2]) == 0
		}
	}
	n := 0
	for line := range bytes.Lines(readFile(t, tr, dependencies)) {
		n++
		line = bytes.TrimRight(line, "\n")
		if m := documented.FindSubmatch(line); m != nil {
			reasons[string(m[1])] = true
		} else if bytes.HasPrefix(line, []byte("- ")) {
			t.Errorf("%s:%d: not of the form \"- `module`: reason\"", dependencies, n)
		}
	}
	used := usedModules(t, tr, modules)
	for module, direct := range modules {
		if direct && used[module] == "" {
			used[module] = "go.mod:1"
		}
	}
	for _, m := range slices.Sorted(maps.Keys(used)) {
		if !reasons[m] {
			t.Errorf("%s: %s has no line in %s", used[m], m, dependencies)
		}
	}
	for _, m := range slices.Sorted(maps.Keys(reasons)) {
		if used[m] == "" {
			t.Errorf("%s:1: %s is not imported any more", dependencies, m)
		}
	}
}

// usedModules maps every module that is imported to the first place of it.
func usedModules(t *testing.T, tr *tree, modules map[string]bool) map[string]string {
	used := map[string]string{}
	for _, f := range tr.files {
		for _, i := range imports(f) {
			first, _, _ := strings.Cut(i.path, "/")
			if i.own != "" || i.path == module || !strings.Contains(first, ".") {
				continue
			}
			m := i.path
			for m != "." && !has(modules, m) {
				m = filepath.ToSlash(filepath.Dir(m))
			}
			if m == "." {
				t.Errorf("%s: %s is of no module in go.mod", tr.at(f, i.spec), i.path)
			} else if used[m] == "" {
				used[m] = tr.at(f, i.spec)
			}
		}
	}
	return used
}

func has(m map[string]bool, key string) bool {
	_, ok := m[key]
	return ok
}

func readFile(t *testing.T, tr *tree, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(tr.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
