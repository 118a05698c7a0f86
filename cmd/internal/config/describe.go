package config

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

//go:embed schema.go
var schema string

// Entry describes one key.
type Entry struct {
	Key     string `json:"key"` // such as vault.timeout, rule[].grants
	Type    string `json:"type"`
	Default string `json:"default"` // as it is written in the file; "" when there is none
	Unit    string `json:"unit,omitempty"`
	Text    string `json:"text"`
}

// Describe lists every key in the order of the file, with default, unit and the
// comment of the Config struct.
func Describe() ([]Entry, error) {
	comments, err := schemaComments()
	if err != nil {
		return nil, err
	}
	d := defaults()
	return describe(nil, "", reflect.ValueOf(*d), comments), nil
}

func describe(out []Entry, prefix string, v reflect.Value, comments map[string]string) []Entry {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("toml")
		if name == "" {
			continue
		}
		e := Entry{Key: prefix + name, Type: typeName(f.Type), Unit: unit(f.Type), Text: comments[t.Name()+"."+f.Name]}
		switch {
		case isTables(f.Type):
			e.Key += "[]"
			out = append(out, e)
			out = describe(out, e.Key+".", reflect.Zero(f.Type.Elem()), comments)
		case f.Type.Kind() == reflect.Struct && !isText(f.Type):
			out = append(out, e)
			out = describe(out, e.Key+".", v.Field(i), comments)
		default:
			if !strings.Contains(prefix, "[]") {
				e.Default = literal(v.Field(i))
			}
			out = append(out, e)
		}
	}
	return out
}

// literal writes a value as TOML.
func literal(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case fmt.Stringer:
		return fmt.Sprintf("%q", x.String())
	case string:
		return fmt.Sprintf("%q", x)
	case []string:
		quoted := make([]string, len(x))
		for i, s := range x {
			quoted[i] = fmt.Sprintf("%q", s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	default:
		return fmt.Sprint(x)
	}
}

func typeName(t reflect.Type) string {
	switch {
	case isTables(t):
		return "tables"
	case t.Kind() == reflect.Slice:
		return "list of " + typeName(t.Elem())
	case t == reflect.TypeFor[Duration]():
		return "duration"
	case t == reflect.TypeFor[Size]():
		return "size"
	case t == reflect.TypeFor[Mode]():
		return "mode"
	case t == reflect.TypeFor[Account]():
		return "name or number"
	case t.Kind() == reflect.Struct:
		return "table"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.String:
		return "string"
	}
	return "number"
}

func unit(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration]():
		return "ns, us, ms, s, m, h"
	case reflect.TypeFor[Size]():
		return "B, KiB, MiB, GiB"
	case reflect.TypeFor[Mode]():
		return "octal"
	}
	return ""
}

// schemaComments reads the comments out of the source of the schema, so that
// there is one text and it cannot drift.
func schemaComments() (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "schema.go", schema, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read the schema's comments: %w", err)
	}
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if body, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range body.Fields.List {
				for _, name := range f.Names {
					out[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
				}
			}
		}
		return false
	})
	return out, nil
}
