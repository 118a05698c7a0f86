package server

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tokenvault/tokenvault/unix/api"
)

type parameter struct {
	Ref      string `yaml:"$ref"`
	Name, In string
}

type operation struct {
	Grant       string `yaml:"x-grant"`
	Parameters  []parameter
	RequestBody *struct{ Content map[string]any } `yaml:"requestBody"`
	Responses   map[string]struct {
		Errors  []api.Code `yaml:"x-errors"`
		Content map[string]struct {
			Schema map[string]string
		}
	}
}

type schema struct {
	Required   []string
	Properties map[string]struct {
		Enum []api.Code
	}
}

type document struct {
	Paths      map[string]map[string]operation
	Elsewhere  map[string][]api.Code `yaml:"x-errors-elsewhere"`
	Reserved   []api.Code            `yaml:"x-errors-reserved"`
	Components struct {
		Parameters map[string]parameter
		Schemas    map[string]schema
	}
}

func loadDocument(t *testing.T) document {
	t.Helper()
	text, err := os.ReadFile("../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := yaml.Unmarshal(text, &d); err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	return d
}

// codesOf is every code that a route can be answered with, from what the server
// does with it.
func codesOf(r *route) []api.Code {
	out := []api.Code{api.BadRequest, api.SecretNotAccepted, api.RateLimited, api.Internal}
	if !r.unrecorded {
		out = append(out, api.AuditUnavailable)
	}
	if r.grant != "" {
		out = append(out, api.UnknownCaller, api.NotGranted, api.Starting)
	}
	if r.grant != "" && !r.grant.IsAdmin() || r.perApp || slices.Contains(r.params, "clientId") {
		out = append(out, api.ClientIDRequired)
	}
	if !r.early || r.attempt {
		out = append(out, api.Draining)
	}
	if r.fields != 0 {
		out = append(out, api.TooSlow, api.TooLarge, api.UnsupportedMediaType)
	}
	if r.grant == api.GrantAccessToken {
		out = append(out, api.NoAccessToken)
	}
	for _, f := range r.fails {
		if f == "unknown user" && r.path == "/v1/users" {
			continue
		}
		if c := codes[f]; c != "" {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestDocumentDescribesTheServer(t *testing.T) {
	d := loadDocument(t)
	described := map[string]operation{}
	for path, ops := range d.Paths {
		for method, op := range ops {
			described[strings.ToUpper(method)+" "+path] = op
		}
	}
	for _, r := range routes {
		op, ok := described[r.name]
		if !ok {
			t.Errorf("%s is served and not described", r.name)
			continue
		}
		delete(described, r.name)
		checkOperation(t, d, r, op)
	}
	for name := range described {
		t.Errorf("%s is described and not served", name)
	}
}

func checkOperation(t *testing.T, d document, r *route, op operation) {
	t.Helper()
	if op.Grant != string(r.grant) || (op.RequestBody != nil) != (r.fields != 0) {
		t.Errorf("%s: grant or body differ", r.name)
	}
	var got []api.Code
	for status, res := range op.Responses {
		for _, c := range res.Errors {
			if strconv.Itoa(c.Status()) != status {
				t.Errorf("%s: %s is described with status %s", r.name, c, status)
			}
			got = append(got, c)
		}
		if len(res.Errors) == 0 && status != "200" && r.path != pathHealth {
			t.Errorf("%s: status %s has no codes", r.name, status)
		}
	}
	slices.Sort(got)
	if want := codesOf(r); !slices.Equal(got, want) {
		t.Errorf("%s: described are\n%v, the server answers\n%v", r.name, got, want)
	}
	header := slices.ContainsFunc(op.Parameters, func(p parameter) bool { return d.named(p).Name == api.HeaderClientUserID })
	checkParams(t, d, r, op)
	if header != r.clientUser {
		t.Errorf("%s: %s described: %v, read: %v", r.name, api.HeaderClientUserID, header, r.clientUser)
	}
}

// named follows a reference.
func (d document) named(p parameter) parameter {
	if p.Ref != "" {
		return d.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
	}
	return p
}

// checkParams: an endpoint that refuses what it does not read has all that it reads
// described, and nothing else.
func checkParams(t *testing.T, d document, r *route, op operation) {
	t.Helper()
	if r.params == nil {
		return
	}
	var got []string
	for _, p := range op.Parameters {
		if p = d.named(p); p.In == "query" {
			got = append(got, p.Name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, slices.Sorted(slices.Values(r.params))) {
		t.Errorf("%s: the query's fields are described as %v", r.name, got)
	}
}

func TestDocumentHasTheClosedList(t *testing.T) {
	d := loadDocument(t)
	want := slices.Sorted(maps.Keys(api.Codes()))
	if got := slices.Sorted(slices.Values(d.Components.Schemas["Error"].Properties["error"].Enum)); !slices.Equal(got, want) {
		t.Errorf("the list of codes differs: got %v", got)
	}
	used := map[api.Code]bool{}
	for _, r := range routes {
		for _, c := range codesOf(r) {
			used[c] = true
		}
	}
	for _, c := range append(slices.Concat(slices.Collect(maps.Values(d.Elsewhere))...), d.Reserved...) {
		used[c] = true
	}
	for _, c := range want {
		if !used[c] {
			t.Errorf("%s is in the list and nowhere described", c)
		}
		if messages[c] == "" {
			t.Errorf("%s has no message", c)
		}
	}
}

func TestDocumentHasTheTypes(t *testing.T) {
	d := loadDocument(t)
	for name, v := range map[string]any{
		"Tokens": api.Tokens{}, "PublicToken": api.PublicToken{}, "User": api.User{}, "Users": api.Users{}, "AccessToken": api.AccessToken{},
		"WhoAmI": api.WhoAmI{}, "Right": api.Right{}, "Health": api.Health{}, "Error": api.Error{}, "Status": api.Status{},
		"VaultStatus": api.VaultStatus{}, "SecretStatus": api.SecretStatus{}, "StoreStatus": api.StoreStatus{}, "ExchangeStatus": api.ExchangeStatus{},
		"AuditStatus": api.AuditStatus{}, "SandboxPart": api.SandboxPart{}, "KeyMemory": api.KeyMemory{}, "Listener": api.Listener{}, "SecretCheck": api.SecretCheck{}, "StoreCheck": api.StoreCheck{},
		"Rollback": api.Rollback{}, "Verdict": api.Verdict{}, "Candidates": api.Candidates{},
		"Explanation": api.Explanation{}, "CallerText": api.CallerText{}, "RuleVerdict": api.RuleVerdict{}, "WhoCan": api.WhoCan{}, "Holder": api.Holder{}, "AuditLines": api.AuditLines{},
	} {
		var all, required []string
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			tag, rest, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if all = append(all, tag); rest != "omitempty" {
				required = append(required, tag)
			}
		}
		s := d.Components.Schemas[name]
		if got := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(got, slices.Sorted(slices.Values(all))) {
			t.Errorf("%s: described are %v", name, got)
		}
		if got := fmt.Sprint(slices.Sorted(slices.Values(s.Required))); got != fmt.Sprint(slices.Sorted(slices.Values(required))) {
			t.Errorf("%s: required are %v", name, got)
		}
	}
}
