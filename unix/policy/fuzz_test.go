package policy

import (
	"strings"
	"testing"
)

// FuzzPath holds compiled patterns to a matcher that is written as the rule is
// stated: * within a segment, ** across.
func FuzzPath(f *testing.F) {
	for _, seed := range [][2]string{{"/v1/*", "/v1/a"}, {"/v1/**", "/v1/a/b"}, {"/a*b/**/c", "/ab/x/y/c"}, {"/***", "/"}, {"/.+", "/xx"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if len(pattern) > 30 || len(path) > 30 || strings.Count(pattern, "*") > 6 || !canonical(pattern) || !ascii(pattern+path) {
			return
		}
		re, err := compilePath(pattern)
		if err != nil {
			t.Fatalf("a canonical pattern does not compile: %v", err)
		}
		r := &rule{paths: nil}
		r.paths = append(r.paths, re)
		if got, want := r.hasPath(path), canonical(path) && glob(pattern, path); got != want {
			t.Fatalf("pattern %q, path %q: got %v", pattern, path, got)
		}
	})
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func glob(pattern, path string) bool {
	switch {
	case pattern == "":
		return path == ""
	case strings.HasPrefix(pattern, "**"):
		return glob(pattern[2:], path) || path != "" && glob(pattern, path[1:])
	case pattern[0] == '*':
		return glob(pattern[1:], path) || path != "" && path[0] != '/' && glob(pattern, path[1:])
	}
	return path != "" && path[0] == pattern[0] && glob(pattern[1:], path[1:])
}
