package policy

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// maxUnit is the longest name of a unit (systemd.unit(5)).
const maxUnit = 255

// unitEnds are the kinds of units that processes live in.
var unitEnds = []string{".service", ".scope"}

// matchable is a glob of units for path.Match, where a backslash escapes: in
// names of units it stands for itself.
func matchable(glob string) string { return strings.ReplaceAll(glob, `\`, `\\`) }

// checkUnit refuses a glob that can match no unit: a rule that never matches is a
// mistake.
func checkUnit(glob string) error {
	if glob == "" || len(glob) > maxUnit {
		return fmt.Errorf("it must have 1 to %d bytes", maxUnit)
	}
	if i := strings.IndexFunc(glob, func(r rune) bool { return !unitRune(r) && !strings.ContainsRune("*?[]^", r) }); i >= 0 {
		return errors.New(`names of units have letters, digits and ":-_.\@" only, and globs "*", "?" and "[…]" beside them`)
	}
	if _, err := path.Match(matchable(glob), ""); err != nil {
		return errors.New("it is no glob: a class begins with [ and ends with ]")
	}
	if !slices.ContainsFunc(unitEnds, func(end string) bool { return canEnd(parts(glob), end) }) {
		return fmt.Errorf("processes live in units that end in .service or .scope, and it matches none: write %q, or a glob that ends so", strings.TrimRight(glob, ".")+".service")
	}
	return nil
}

// unitRune: of the name of a unit (systemd.unit(5), "Unit names").
func unitRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(`:-_.\@`, r)
}

// parts splits a glob that path.Match takes into what stands for one character
// each, and stars.
func parts(glob string) []string {
	var out []string
	for glob != "" {
		n := 1
		if glob[0] == '[' {
			n = classLen(glob)
		}
		out = append(out, glob[:n])
		glob = glob[n:]
	}
	return out
}

// classLen is the length of the class that glob begins with. "]" ends it: path.Match
// does not take one as the first of a class.
func classLen(glob string) int {
	if n := strings.IndexByte(glob, ']'); n > 0 {
		return n + 1
	}
	return len(glob)
}

// canEnd reports whether the glob matches anything longer than end that ends so.
func canEnd(parts []string, end string) bool {
	for i := len(parts) - 1; i >= 0; i-- {
		switch {
		case parts[i] == "*":
			return true
		case end == "":
			return true
		case !one(parts[i], end[len(end)-1]):
			return false
		}
		end = end[:len(end)-1]
	}
	return false
}

// one reports whether a part that is no star matches that character.
func one(part string, c byte) bool {
	ok, err := path.Match(matchable(part), string(rune(c)))
	return ok && err == nil
}

// anyUnit: nothing in it but the kind of a unit tells one from another ("????.service"),
// or it matches units of one kind whatever their name begins with ("*service", "*.s*",
// "[^_]*", "[a-z]*.scope").
func anyUnit(glob string) bool {
	bare := glob
	for _, end := range unitEnds {
		bare = strings.TrimSuffix(bare, end)
	}
	return strings.Trim(bare, "*?.") == "" || slices.ContainsFunc(unitEnds, func(end string) bool { return whateverBegins(glob, end) })
}

// whateverBegins tries names that have no letter in common.
func whateverBegins(glob, end string) bool {
	for c := 'a'; c <= 'z'; c++ {
		if ok, err := path.Match(matchable(glob), strings.Repeat(string(c), 4)+end); err != nil || !ok {
			return false
		}
	}
	return true
}

// session reports whether the glob can match the scope of somebody's login, whose
// number pam_systemd(8) counts.
func session(glob string) bool {
	return slices.ContainsFunc([]string{"session-1.scope", "session-23.scope", "session-456.scope", "session-c1.scope", "session-c23.scope"}, func(unit string) bool {
		ok, err := path.Match(matchable(glob), unit)
		return ok && err == nil
	})
}

// userManager reports whether the glob can match a user@UID.service.
func userManager(glob string) bool {
	literal, rest := glob, ""
	if i := strings.IndexAny(glob, "*?["); i >= 0 {
		literal, rest = glob[:i], glob[i:]
	}
	const prefix = "user@"
	if !strings.HasPrefix(literal, prefix) && (rest == "" || !strings.HasPrefix(prefix, literal)) {
		return false
	}
	return slices.ContainsFunc(strings.Split("0123456789", ""), func(digit string) bool {
		return canEnd(parts(glob), digit+unitEnds[0])
	})
}

// Notes says what is in order, and wider than its author may believe: a rule for a
// user's own manager is for every program that the user starts in it, under any
// name, because the units in there are the user's to make; and one for a login's
// session, without users and groups, for whoever logs in.
func (p *Policy) Notes() []string {
	var out []string
	for _, r := range p.rules {
		for _, glob := range r.globs {
			if userManager(glob) {
				out = append(out, fmt.Sprintf("rule %s: unit %q matches a user's own manager as a whole, and so every program that the user starts in it", r.name, glob))
			}
			if session(glob) && len(r.users)+len(r.groups) == 0 {
				out = append(out, fmt.Sprintf("rule %s: unit %q matches sessions, and so whoever logs in: name users or groups too", r.name, glob))
			}
		}
	}
	return out
}
