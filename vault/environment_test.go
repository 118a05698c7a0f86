package vault

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// variables are all that vault/api's source names.
func variables(t *testing.T) []string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/hashicorp/vault/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		names = append(names, variablesIn(t, file)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var variableForm = regexp.MustCompile(`^VAULT_[A-Z_]+$`)

func variablesIn(t *testing.T, file string) (names []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
			if name, err := strconv.Unquote(text.Value); err == nil && variableForm.MatchString(name) {
				names = append(names, name)
			}
		}
		return true
	})
	return names
}

// TestEachVariable sets every variable that vault/api's source names, one after the
// other, to what would be seen, and does what a daemon does: as TestEnvironment
// for all at once, so that none hides behind another.
func TestEachVariable(t *testing.T) {
	server := vaulttest.Start(t)
	server.Must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	server.Must("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	p := newPlace(t, server)
	names := variables(t)
	for _, known := range []string{"VAULT_ADDR", "VAULT_TOKEN", "VAULT_SKIP_VERIFY", "VAULT_PROXY_ADDR", "VAULT_HEADERS"} {
		if !slices.Contains(names, known) {
			t.Fatalf("%s is not found in vault/api's source", known)
		}
	}
	t.Logf("%d variables: %s", len(names), strings.Join(names, " "))
	trap := newLink(t, server)
	for _, name := range names {
		for _, value := range []string{trap.URL, "/nonexistent", "true", `{"X-Vault-Namespace":"hostile"}`, "hostile\r\n"} {
			t.Run(name, func(t *testing.T) {
				t.Setenv(name, value)
				p.everyday(t)
			})
		}
	}
	if n := trap.count(""); n != 0 {
		t.Errorf("%d requests to where the environment points", n)
	}
}
