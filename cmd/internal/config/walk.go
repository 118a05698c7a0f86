package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// walker compares the keys and kinds of a document with the Config struct. The
// decoder alone is not strict enough: it takes ADDRESS for address, a bare
// number for a duration, and names no line for what it refuses in a list.
type walker struct {
	file     string
	dropIn   bool
	parser   unstable.Parser
	lines    []int // offset of each line's start
	count    map[string]int
	at       map[string]place
	problems []Problem
}

func newWalker(file string, doc []byte, cfg *Config, dropIn bool) *walker {
	w := &walker{file: file, dropIn: dropIn, at: cfg.where.at, lines: []int{0},
		count: map[string]int{"app": len(cfg.Apps), "rule": len(cfg.Rules)}}
	for i, b := range doc {
		if b == '\n' {
			w.lines = append(w.lines, i+1)
		}
	}
	w.parser.Reset(doc)
	return w
}

// spot is a place in the schema: a key path and the Go type that stands there.
type spot struct {
	path string
	typ  reflect.Type
}

func (w *walker) walk() {
	root := spot{typ: reflect.TypeFor[Config]()}
	here, known := root, true
	for w.parser.NextExpression() {
		switch e := w.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			here, known = w.table(root, e)
		case unstable.KeyValue:
			if known {
				w.keyValue(here, e)
			}
		}
	}
}

// table follows a [header] or [[header]].
func (w *walker) table(at spot, e *unstable.Node) (spot, bool) {
	keys := e.Key()
	for keys.Next() {
		next, ok := w.field(at, keys.Node())
		if !ok {
			return at, false
		}
		if at = next; !isTables(at.typ) {
			continue
		}
		if keys.IsLast() && e.Kind == unstable.ArrayTable {
			w.count[at.path]++
		} else if keys.IsLast() || w.count[at.path] == 0 {
			w.bad(at.path, keys.Node(), "is a list of tables: write [[%s]]", at.path)
			return at, false
		}
		at = w.element(at, w.count[at.path]-1, keys.Node())
	}
	if at.typ.Kind() != reflect.Struct || isText(at.typ) {
		w.bad(at.path, e.Child(), "is not a table: it wants %s", wanted(at.typ))
		return at, false
	}
	return at, true
}

func (w *walker) keyValue(at spot, e *unstable.Node) {
	keys := e.Key()
	for keys.Next() {
		next, ok := w.field(at, keys.Node())
		if !ok {
			return
		}
		if at = next; !keys.IsLast() && (at.typ.Kind() != reflect.Struct || isText(at.typ)) {
			w.bad(at.path, keys.Node(), "has no keys of its own: it wants %s", wanted(at.typ))
			return
		}
	}
	w.value(at, e.Value(), w.at[at.path].line)
}

// field finds the key below at, by its exact name.
func (w *walker) field(at spot, key *unstable.Node) (spot, bool) {
	name := string(key.Data)
	next := spot{path: strings.TrimPrefix(at.path+"."+name, ".")}
	for i := range at.typ.NumField() {
		f := at.typ.Field(i)
		switch tag := f.Tag.Get("toml"); {
		case tag == "":
		case tag == name:
			if w.dropIn && at.path == "" && name != "app" && name != "rule" {
				w.bad(next.path, key, "belongs in the main file: files in conf.d only have [[app]] and [[rule]]")
				return at, false
			}
			next.typ = f.Type
			w.note(next.path, key)
			return next, true
		case strings.EqualFold(tag, name):
			w.bad(next.path, key, "is written %q", tag)
			return at, false
		}
	}
	w.bad(next.path, key, "is not a key of this version")
	return at, false
}

// element is entry i of a list of tables.
func (w *walker) element(at spot, i int, key *unstable.Node) spot {
	next := spot{path: fmt.Sprintf("%s[%d]", at.path, i), typ: at.typ.Elem()}
	w.note(next.path, key)
	return next
}

// value checks the kind of a value, and that of everything in it.
func (w *walker) value(at spot, v *unstable.Node, line int) {
	switch {
	case isTables(at.typ) && v.Kind == unstable.Array:
		w.tables(at, v, line)
	case isText(at.typ):
		w.text(at, v, line)
	case at.typ.Kind() == reflect.Slice && v.Kind == unstable.Array:
		items := v.Children()
		for items.Next() {
			w.value(spot{path: at.path, typ: at.typ.Elem()}, items.Node(), line)
		}
	case at.typ.Kind() == reflect.Struct && v.Kind == unstable.InlineTable:
		pairs := v.Children()
		for pairs.Next() {
			w.keyValue(at, pairs.Node())
		}
	case !slices.Contains(kinds[at.typ.Kind()], v.Kind):
		w.wrongKind(at, v, line)
	}
}

// tables checks a list of tables that is written inline: app = [{…}].
func (w *walker) tables(at spot, v *unstable.Node, line int) {
	items := v.Children()
	for items.Next() {
		w.count[at.path]++
		next := spot{path: fmt.Sprintf("%s[%d]", at.path, w.count[at.path]-1), typ: at.typ.Elem()}
		w.at[next.path] = place{w.file, line}
		w.value(next, items.Node(), line)
	}
}

// text checks a value that is written in a notation of ours.
func (w *walker) text(at spot, v *unstable.Node, line int) {
	number := v.Kind == unstable.Integer && at.typ == reflect.TypeFor[Account]()
	if v.Kind != unstable.String && !number {
		w.wrongKind(at, v, line)
		return
	}
	u := reflect.New(at.typ).Interface().(encoding.TextUnmarshaler)
	if err := u.UnmarshalText(v.Data); err != nil {
		w.problem(at.path, line, err.Error())
	}
}

func (w *walker) wrongKind(at spot, v *unstable.Node, line int) {
	w.problem(at.path, line, fmt.Sprintf("wants %s, not %s", wanted(at.typ), spoken(v.Kind)))
}

// kinds are the TOML kinds that each Go kind takes.
var kinds = map[reflect.Kind][]unstable.Kind{
	reflect.String:  {unstable.String},
	reflect.Bool:    {unstable.Bool},
	reflect.Int:     {unstable.Integer},
	reflect.Float64: {unstable.Integer, unstable.Float},
}

func isTables(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && !isText(t.Elem())
}

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func wanted(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration]():
		return `a duration in quotes, such as "5s"`
	case reflect.TypeFor[Size]():
		return `a size in quotes, such as "64KiB"`
	case reflect.TypeFor[Mode]():
		return `octal digits in quotes, such as "0660"`
	case reflect.TypeFor[Account]():
		return "a name in quotes or a number"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "a table"
}

func spoken(k unstable.Kind) string {
	switch k {
	case unstable.String:
		return "a string"
	case unstable.Bool:
		return "a boolean"
	case unstable.Integer, unstable.Float:
		return "a number"
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}

func (w *walker) line(key *unstable.Node) int {
	offset := int(key.Raw.Offset)
	return sort.Search(len(w.lines), func(i int) bool { return w.lines[i] > offset })
}

func (w *walker) note(path string, key *unstable.Node) {
	w.at[path] = place{w.file, w.line(key)}
}

func (w *walker) bad(path string, key *unstable.Node, format string, args ...any) {
	w.problem(path, w.line(key), fmt.Sprintf(format, args...))
}

func (w *walker) problem(path string, line int, text string) {
	w.problems = append(w.problems, Problem{File: w.file, Line: line, Key: path, Text: text})
}
