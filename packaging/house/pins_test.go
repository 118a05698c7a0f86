package house

import (
	"bytes"
	"go/ast"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// revealers are the files that look into a secret. A new one is a decision: it
// has to say here what it does with the bytes.
var revealers = map[string]string{
	"crypto/secret/secret.go":                     "the type itself",
	"crypto/secret/mac.go":                        "the blocks of an HMAC key and what HKDF extracts, hashed and cleared",
	"crypto/keyring/derive.go":                    "keys derived from the index and the audit key, session tokens on their way to an id",
	"crypto/store/format.go":                      "tokens on their way into a box",
	"exchange/exchange.go":                        "clientSecret and session token on the wire",
	"exchange/broker/session.go":                  "session ids of exchanges in flight",
	"vault/wire.go":                               "keys and credentials on the wire to Vault",
	"unix/server/reveal.go":                       "the one answer with an accessToken",
	"unix/client/calls.go":                        "session token on the wire",
	"unix/client/clienttest/wrapper.go":           "wraps keys without Vault, in tests",
	"cmd/internal/cli/vaultcmd.go":                "writes a fresh secret id to a file of its own",
	"cmd/internal/restart/codec.go":               "what survives a restart, on its way into memory that root cannot read",
	"cmd/internal/dev/vault.go":                   "writes the try-out's secret id to a file for the daemon",
	"cmd/internal/dev/insecuredev/insecuredev.go": "wraps keys without Vault, in the try-out",
}

func TestWhoReveals(t *testing.T) {
	tr, seen := source(t), map[string]bool{}
	tr.product(func(f file) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok || s.Sel.Name != "Reveal" {
				return true
			}
			if _, ok := revealers[f.path]; !ok && !seen[f.path] {
				t.Errorf("%s: reveals a secret, and is not one of the files that do", tr.at(f, s.Sel))
			}
			seen[f.path] = true
			return true
		})
	})
	for _, name := range slices.Sorted(maps.Keys(revealers)) {
		if !seen[name] && name != "crypto/secret/secret.go" {
			t.Errorf("%s:1: reveals nothing any more: take it off the list", name)
		}
	}
}

// The end of the process and its signals are in one place.
func TestOneExit(t *testing.T) {
	const home = "cmd/internal/run"
	tr := source(t)
	found := map[string][]string{"os.Exit": nil, "os/signal.Notify": nil, "os/signal.NotifyContext": nil}
	tr.product(func(f file) {
		uses(f, func(n ast.Node, i imported, name string) {
			call := i.path + "." + name
			if _, ok := found[call]; !ok {
				return
			}
			found[call] = append(found[call], tr.at(f, n))
			if f.pkg != home {
				t.Errorf("%s: %s belongs in %s", tr.at(f, n), call, home)
			}
		})
	})
	for call, where := range found {
		if len(where) > 1 {
			t.Errorf("%s: %s stands %d times: %s", where[1], call, len(where), strings.Join(where, " "))
		}
	}
	if len(found["os.Exit"]) != 1 {
		t.Errorf("os.Exit stands %d times", len(found["os.Exit"]))
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	tr := source(t)
	first, commented := map[string]file{}, map[string]bool{}
	for _, f := range tr.files {
		if old, ok := first[f.pkg]; !ok || old.test && !f.test {
			first[f.pkg] = f
		}
		if f.ast.Doc == nil || f.test {
			continue
		}
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "Command " + filepath.Base(f.pkg) + " "
		}
		if text := f.ast.Doc.Text(); !strings.HasPrefix(text, want) {
			t.Errorf("%s: the package comment does not begin with %q", tr.at(f, f.ast.Doc), want)
		} else if commented[f.pkg] {
			t.Errorf("%s: package %s has a second comment", tr.at(f, f.ast.Doc), f.pkg)
		}
		commented[f.pkg] = true
	}
	for _, pkg := range slices.Sorted(maps.Keys(first)) {
		if !commented[pkg] {
			t.Errorf("%s: package %s has no comment", tr.at(first[pkg], first[pkg].ast.Name), pkg)
		}
	}
}

// forbidden are words of unfinished work, and of the machine it was done on. They
// are put together here, so that this file holds none.
var forbidden = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b|(?i:not imp` + `lemented)|/wo` + `rk/|\.\./sha` + `red/`)

func TestNoUnfinishedWork(t *testing.T) {
	tr := source(t)
	names := slices.Clone(tr.texts)
	for _, f := range tr.files {
		names = append(names, f.path)
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(tr.root, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "go.sum" || name == ".git" || bytes.IndexByte(b, 0) >= 0 {
			continue // hashes; where a worktree belongs; a binary
		}
		n := 0
		for line := range bytes.Lines(b) {
			n++
			if word := forbidden.Find(line); word != nil {
				t.Errorf("%s:%d: %q", name, n, word)
			}
		}
	}
}
