package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/tokenvault/tokenvault"

// file is one parsed Go file of the module.
type file struct {
	path string // slash-separated, from the root of the module
	pkg  string // its directory, as path
	test bool
	ast  *ast.File
}

// tree is the module, read once.
type tree struct {
	fset  *token.FileSet
	files []file
	texts []string // other files that people write, by path
	root  string
}

var readTree = sync.OnceValues(func() (*tree, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	t := &tree{fset: token.NewFileSet(), root: root}
	return t, filepath.WalkDir(root, t.visit)
})

func source(t *testing.T) *tree {
	t.Helper()
	tr, err := readTree()
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.files) < 50 {
		t.Fatalf("only %d Go files were found below %s", len(tr.files), tr.root)
	}
	return tr
}

func (t *tree) visit(p string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(t.root, p)
	if err != nil {
		return err
	}
	rel = filepath.ToSlash(rel)
	if d.IsDir() {
		return t.enter(p, rel)
	}
	if !d.Type().IsRegular() {
		return nil
	}
	if !strings.HasSuffix(rel, ".go") {
		t.texts = append(t.texts, rel)
		return nil
	}
	parsed, err := parser.ParseFile(t.fset, p, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	t.files = append(t.files, file{rel, path.Dir(rel), strings.HasSuffix(rel, "_test.go"), parsed})
	return nil
}

// enter skips what is not written here, and modules of their own.
func (t *tree) enter(p, rel string) error {
	name := path.Base(rel)
	if rel != "." && (name == "testdata" || name[0] == '.' || name[0] == '_') {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(p, "go.mod")); rel != "." && err == nil {
		return filepath.SkipDir
	}
	return nil
}

// at is "path:line" of a node.
func (t *tree) at(f file, n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, t.fset.Position(n.Pos()).Line)
}

// product calls fn for every file that is no test.
func (t *tree) product(fn func(f file)) {
	for _, f := range t.files {
		if !f.test {
			fn(f)
		}
	}
}

// imported is one import of a file.
type imported struct {
	spec *ast.ImportSpec
	path string // as written
	name string // in the file
	own  string // the directory, when it is a package of this module; else ""
}

func imports(f file) []imported {
	var all []imported
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has seen to it
		}
		i := imported{spec: spec, path: p, name: path.Base(p)}
		if spec.Name != nil {
			i.name = spec.Name.Name
		}
		i.own, _ = strings.CutPrefix(p, module+"/")
		if i.own == p {
			i.own = ""
		}
		all = append(all, i)
	}
	return all
}

// uses calls fn for every pkg.Name in f where pkg is an imported package.
func uses(f file, fn func(n ast.Node, i imported, name string)) {
	byName := map[string]imported{}
	for _, i := range imports(f) {
		byName[i.name] = i
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok {
			if i, ok := byName[x.Name]; ok {
				fn(n, i, s.Sel.Name)
			}
		}
		return true
	})
}
