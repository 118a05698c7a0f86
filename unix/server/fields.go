package server

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/unix/api"
)

// maxDepth is how deep a body may be nested; the body itself is 1.
const maxDepth = 4

// nest is the one field whose own fields count.
const nest = "sessionTokenObject"

type scope uint8

const (
	scopeTop    scope = iota // fields count
	scopeNested              // so they do under sessionTokenObject
	scopeOther               // only looked through
)

// collector gathers the known fields of a body or a query.
type collector struct {
	query       bool
	seen        bool // the field seen counts; elsewhere it is any field of a form or a session
	flat        bool // nothing is nested
	top, nested fields
}

func (c *collector) slot(in scope, name string) *value {
	switch in {
	case scopeTop:
		if c.ignored(name) {
			return nil
		}
		return c.top.named(name)
	case scopeNested:
		if c.ignored(name) {
			return nil
		}
		return c.nested.named(name)
	}
	return nil
}

// ignored are names that are known elsewhere.
func (c *collector) ignored(name string) bool {
	return name == "state" && !c.query || name == "seen" && !c.seen
}

// put keeps a field if it is a known one.
func (c *collector) put(in scope, name, text string) *fault {
	v := c.slot(in, name)
	switch {
	case v == nil:
		return nil
	case v.set:
		return bad("a field stands there twice")
	case strings.ContainsRune(text, utf8.RuneError):
		return bad("a field is not valid UTF-8")
	}
	*v = value{text, true}
	return nil
}

// knownNames are all that count anywhere.
var knownNames = []string{"humanId", "clientId", "sessionToken", "clientUserId", nest, "state", "seen"}

// checkCase refuses a name that was meant to be a known one: ignoring it could
// exchange for another app or another user than was asked for.
func (c *collector) checkCase(in scope, name string) *fault {
	if in == scopeOther {
		return nil
	}
	for _, known := range knownNames {
		if name != known && strings.EqualFold(strings.TrimSpace(name), known) && !c.ignored(known) {
			return bad("a field differs from " + known + " in case or spaces only: names are exact")
		}
	}
	return nil
}

// merge refuses a field that stands at the top and nested.
func (c *collector) merge() (fields, *fault) {
	if c.flat && c.nested != (fields{}) {
		return fields{}, bad("the fields of this endpoint stand at the top, not under " + nest)
	}
	out := c.top
	for _, name := range []string{"humanId", "clientId", "sessionToken", "clientUserId"} {
		inner, outer := c.nested.named(name), out.named(name)
		if inner.set && outer.set {
			return fields{}, bad(name + " stands at the top and under " + nest + ": send it once")
		}
		if inner.set {
			*outer = *inner
		}
	}
	return out, nil
}

// names notices duplicates within one object, whatever their case.
type names map[string]struct{}

func (n names) add(name string) *fault {
	if isSecretName(name) {
		return &fault{code: api.SecretNotAccepted}
	}
	folded := strings.ToLower(name)
	if _, ok := n[folded]; ok {
		return bad("a field stands there twice, or differs from another in case only")
	}
	n[folded] = struct{}{}
	return nil
}

// json reads one JSON object. encoding/json checks the grammar; what it lets
// pass (duplicates, other cases, replaced characters, depth) is checked here.
func (c *collector) json(text []byte, in scope, depth int) *fault {
	if !json.Valid(text) {
		return bad("the body is not valid JSON, or something follows it")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return bad("the body must be a JSON object")
	}
	return c.object(dec, in, depth)
}

// object reads to the end of an object whose { was read.
func (c *collector) object(dec *json.Decoder, in scope, depth int) *fault {
	if depth > maxDepth {
		return bad("the body is nested too deeply")
	}
	seen := names{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return bad("the body is not valid JSON")
		}
		if f := seen.add(name); f != nil {
			return f
		}
		if f := c.checkCase(in, name); f != nil {
			return f
		}
		if f := c.value(dec, in, name, depth); f != nil {
			return f
		}
	}
	return end(dec)
}

func (c *collector) value(dec *json.Decoder, in scope, name string, depth int) *fault {
	t, err := dec.Token()
	if err != nil {
		return bad("the body is not valid JSON")
	}
	known := c.slot(in, name) != nil
	switch t := t.(type) {
	case nil: // as if it were not there
		return nil
	case string:
		return c.text(in, name, t, depth)
	case json.Delim:
		inner := scopeOther
		if in == scopeTop && name == nest {
			inner = scopeNested
		}
		switch {
		case known, inner == scopeNested && t == '[':
		case t == '{':
			return c.object(dec, inner, depth+1)
		default:
			return c.array(dec, depth+1)
		}
	}
	switch {
	case known:
		return bad(name + " must be a string")
	case in == scopeTop && name == nest:
		return badNest
	}
	return nil
}

// badNest: text under it would be ignored, and with it whose session it is.
var badNest = bad(nest + " must be an object")

// text takes a string, and looks for secrets in one that holds JSON itself.
func (c *collector) text(in scope, name, text string, depth int) *fault {
	if in == scopeTop && name == nest {
		return badNest
	}
	if trimmed := strings.TrimSpace(text); trimmed != "" && (trimmed[0] == '{' || trimmed[0] == '[') && json.Valid([]byte(trimmed)) {
		dec := json.NewDecoder(strings.NewReader(trimmed))
		dec.UseNumber()
		if f := c.value(dec, scopeOther, "", depth); f != nil {
			return f
		}
	}
	return c.put(in, name, text)
}

// array looks through an array whose [ was read.
func (c *collector) array(dec *json.Decoder, depth int) *fault {
	if depth > maxDepth {
		return bad("the body is nested too deeply")
	}
	for dec.More() {
		if f := c.value(dec, scopeOther, "", depth); f != nil {
			return f
		}
	}
	return end(dec)
}

func end(dec *json.Decoder) *fault {
	if _, err := dec.Token(); err != nil {
		return bad("the body is not valid JSON")
	}
	return nil
}

// form reads application/x-www-form-urlencoded, with nested[field]=value as
// jQuery and Rails write it.
func (c *collector) form(text string) *fault {
	seen := names{}
	return pairs(text, func(name, val string) *fault {
		parts := strings.Split(strings.ReplaceAll(name, "]", ""), "[")
		if len(parts) > maxDepth {
			return bad("the body is nested too deeply")
		}
		if isSecretName(name) {
			return &fault{code: api.SecretNotAccepted}
		}
		if !strings.HasSuffix(name, "[]") { // an array repeats its name
			if f := seen.add(name); f != nil {
				return f
			}
		}
		if f := c.checkFormCase(parts); f != nil {
			return f
		}
		switch {
		case name == nest && strings.HasPrefix(strings.TrimSpace(val), "{"):
			return c.json([]byte(val), scopeNested, 2)
		case !strings.ContainsAny(name, "[]"):
			return c.text(scopeTop, name, val, 1)
		case len(parts) == 2 && name == nest+"["+parts[1]+"]":
			return c.text(scopeNested, parts[1], val, 2)
		}
		return c.text(scopeOther, name, val, len(parts))
	})
}

func (c *collector) checkFormCase(parts []string) *fault {
	if len(parts) == 2 && parts[0] == nest {
		return c.checkCase(scopeNested, parts[1])
	}
	return c.checkCase(scopeTop, parts[0])
}

// pairs splits a form or a query.
func pairs(text string, each func(name, val string) *fault) *fault {
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		rawName, rawVal, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		val, err2 := url.QueryUnescape(rawVal)
		if err != nil || err2 != nil || strings.Contains(pair, ";") || !utf8.ValidString(name) || !utf8.ValidString(val) {
			return bad("the form or query is not percent-encoded UTF-8")
		}
		if f := each(name, val); f != nil {
			return f
		}
	}
	return nil
}

// parseQuery reads the known fields of a query, which is a form.
func parseQuery(raw string) (fields, *fault) {
	if raw == "" {
		return fields{}, nil
	}
	c := collector{query: true}
	f := c.form(raw)
	return c.top, f
}
