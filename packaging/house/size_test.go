package house

import (
	"go/ast"
	"slices"
	"testing"
)

const (
	medianLines   = 12
	ninetiethPart = 45 // the 90th percentile
	longestLines  = 80
	fileLines     = 500
)

func TestFunctionsAreShort(t *testing.T) {
	tr := source(t)
	type function struct {
		lines int
		where string
	}
	var all []function
	tr.product(func(f file) {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := tr.fset.Position(fn.End()).Line - tr.fset.Position(fn.Pos()).Line + 1
			all = append(all, function{n, tr.at(f, fn)})
			if n > longestLines {
				t.Errorf("%s: %s has %d lines, at most %d", tr.at(f, fn), fn.Name.Name, n, longestLines)
			}
		}
	})
	slices.SortFunc(all, func(a, b function) int { return a.lines - b.lines })
	if m := all[len(all)/2]; m.lines > medianLines {
		t.Errorf("%s: the median function has %d lines, at most %d", m.where, m.lines, medianLines)
	}
	if p := all[len(all)*9/10]; p.lines > ninetiethPart {
		t.Errorf("%s: a tenth of the functions is longer than %d lines, at most %d", p.where, p.lines, ninetiethPart)
	}
	t.Logf("%d functions: median %d, p90 %d, longest %d (%s)", len(all),
		all[len(all)/2].lines, all[len(all)*9/10].lines, all[len(all)-1].lines, all[len(all)-1].where)
}

func TestFilesAreShort(t *testing.T) {
	tr := source(t)
	tr.product(func(f file) {
		if n := tr.fset.File(f.ast.Pos()).LineCount(); n > fileLines+1 {
			t.Errorf("%s:%d: the file has %d lines, at most %d", f.path, n, n, fileLines)
		}
	})
}

func TestMainIsTiny(t *testing.T) {
	tr := source(t)
	tr.product(func(f file) {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || f.ast.Name.Name != "main" || fn.Name.Name != "main" {
				continue
			}
			if n := tr.fset.Position(fn.End()).Line - tr.fset.Position(fn.Pos()).Line + 1; n >= 20 {
				t.Errorf("%s: main has %d lines, under 20 are enough", tr.at(f, fn), n)
			}
		}
	})
}
