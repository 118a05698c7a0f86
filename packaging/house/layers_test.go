package house

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// layers says where every package stands. A package imports lower ones only.
var layers = map[string]int{
	"crypto/secret": 0,

	"exchange/user":         1,
	"unix/api":              1,
	"unix/peer":             1,
	"exchange/humanapitest": 1,
	"vault/vaulttest":       1,

	"vault":        2,
	"exchange":     2,
	"crypto/seal":  2,
	"crypto/audit": 2,

	"crypto/keyring": 3,
	"unix/policy":    3,
	"unix/client":    3,

	"crypto/store": 4,

	"crypto/store/boltstore": 5,
	"crypto/store/pgstore":   5,
	"crypto/store/storetest": 5,
	"exchange/broker":        5,
	"exchange/proxy":         5,

	"unix/server": 6,

	"cmd/internal/config":    7,
	"cmd/internal/restart":   7,
	"cmd/internal/sandbox":   7,
	"unix/client/clienttest": 7,

	"cmd/internal/daemon": 8,
	// In place of Vault in the try-out; below the package that hands it in.
	"cmd/internal/dev/insecuredev": 8,

	"cmd/internal/dev":    9,
	"cmd/internal/doctor": 9,

	"cmd/internal/cli": 10,
	"cmd/internal/run": 10,

	"cmd/tokenvault":   11,
	"cmd/humanapi-sim": 11,
}

// wiring is the first layer that knows all boundaries.
const wiring = 7

// shared are the packages that every boundary may import.
var shared = []string{"crypto/secret", "crypto/audit", "exchange/user"}

// simulator is imported outside tests by these alone, and the test helpers by none.
const simulator = "exchange/humanapitest"

var mayHaveSimulator = []string{"unix/client/clienttest", "cmd/internal/dev", "cmd/humanapi-sim"}

var forTestsOnly = []string{"vault/vaulttest", "crypto/store/storetest", "unix/client/clienttest"}

func layerOf(pkg string) (int, bool) {
	if strings.HasPrefix(pkg, "packaging/") {
		return 12, true
	}
	n, ok := layers[pkg]
	return n, ok
}

func boundary(pkg string) string {
	top, _, _ := strings.Cut(pkg, "/")
	return top
}

func TestEveryPackageHasALayer(t *testing.T) {
	tr, seen := source(t), map[string]bool{}
	for _, f := range tr.files {
		if _, ok := layerOf(f.pkg); !ok && !seen[f.pkg] {
			seen[f.pkg] = true
			t.Errorf("%s: package %s has no layer", tr.at(f, f.ast.Name), f.pkg)
		}
	}
}

func TestImportsPointDown(t *testing.T) {
	tr := source(t)
	tr.product(func(f file) {
		for _, i := range imports(f) {
			if i.path == module {
				t.Errorf("%s: the root of the module is no package", tr.at(f, i.spec))
			}
			if i.own == "" {
				continue
			}
			if i.name == "." {
				t.Errorf("%s: a package of ours is imported with a name", tr.at(f, i.spec))
			}
			if why := refused(f.pkg, i.own); why != "" {
				t.Errorf("%s: %s imports %s: %s", tr.at(f, i.spec), f.pkg, i.own, why)
			}
		}
	})
}

// refused says why from may not import to, or "".
func refused(from, to string) string {
	lf, _ := layerOf(from)
	lt, known := layerOf(to)
	switch {
	case !known:
		return "it has no layer"
	case lt >= lf:
		return "it is not of a lower layer"
	case lf < wiring && boundary(from) != boundary(to) && !slices.Contains(shared, to):
		return "it is across a trust boundary"
	case to == simulator && !slices.Contains(mayHaveSimulator, from):
		return "the simulator is for tests and the try-out"
	case slices.Contains(forTestsOnly, to):
		return "it is for tests"
	}
	return ""
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"exchange/broker", "crypto/audit", true},
		{"exchange/broker", "crypto/secret", true},
		{"crypto/audit", "exchange/user", true},
		{"crypto/store", "crypto/keyring", true},
		{"cmd/internal/daemon", "unix/server", true},
		{"cmd/internal/dev", simulator, true},
		{"unix/client/clienttest", simulator, true},
		{"crypto/audit", "crypto/seal", false},       // the same layer
		{"crypto/seal", "crypto/store", false},       // a higher one
		{"exchange/broker", "crypto/store", false},   // another boundary
		{"unix/server", "exchange/broker", false},    // another boundary
		{"cmd/internal/daemon", simulator, false},    // not the daemon
		{"cmd/internal/cli", simulator, false},       // nor the program
		{"cmd/internal/cli", "no/such/thing", false}, // unknown
		{"cmd/internal/dev", "vault/vaulttest", false},
	} {
		if why := refused(c.from, c.to); (why == "") != c.ok {
			t.Errorf("%s imports %s: %q", c.from, c.to, why)
		}
	}
}

// constructors make the parts of the daemon. These packages alone call them:
// offline commands go through the daemon's.
var constructors = map[string][]string{
	"vault.New":                        {"cmd/internal/daemon"},
	"vault.NewSecrets":                 {"cmd/internal/daemon"},
	"vault.NewOperator":                {"cmd/internal/cli", "cmd/internal/dev"}, // with the operator's own token; a server of its own
	"exchange.New":                     {"cmd/internal/daemon", "unix/client/clienttest"},
	"cmd/internal/restart.Open":        {"cmd/internal/daemon"},
	"crypto/audit.Open":                {"cmd/internal/daemon", "unix/client/clienttest"},
	"crypto/keyring.Open":              {"cmd/internal/daemon", "unix/client/clienttest"},
	"crypto/store.Open":                {"cmd/internal/daemon", "unix/client/clienttest"},
	"crypto/store/boltstore.Open":      {"cmd/internal/daemon", "unix/client/clienttest"},
	"crypto/store/pgstore.Open":        {"cmd/internal/daemon"},
	"exchange/broker.New":              {"cmd/internal/daemon", "unix/client/clienttest"},
	"exchange/proxy.New":               {"cmd/internal/daemon", "unix/client/clienttest"},
	"unix/policy.New":                  {"cmd/internal/config", "unix/client/clienttest"}, // compiles the rules
	"unix/server.New":                  {"cmd/internal/daemon", "unix/client/clienttest"},
	"unix/server.Listen":               {"cmd/internal/daemon", "unix/client/clienttest"},
	"exchange/humanapitest.New":        mayHaveSimulator,
	"cmd/internal/dev/insecuredev.New": {"cmd/internal/dev"},
}

func TestOnlyTheDaemonConstructs(t *testing.T) {
	tr := source(t)
	tr.product(func(f file) {
		uses(f, func(n ast.Node, i imported, name string) {
			may, known := constructors[i.own+"."+name]
			if known && !slices.Contains(may, f.pkg) {
				t.Errorf("%s: %s constructs with %s.%s; only %s may",
					tr.at(f, n), f.pkg, i.own, name, strings.Join(may, ", "))
			}
		})
	})
}
