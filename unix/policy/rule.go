package policy

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/peer"
)

// grantSet has a bit for each of api.Grants.
type grantSet uint32

// provenGrants show health data: a unit that may be another's does not give them.
var provenGrants = bit(api.GrantAccessToken) | bit(api.GrantProxy)

var adminGrants = func() (s grantSet) {
	for _, g := range api.Grants {
		if g.IsAdmin() {
			s |= bit(g)
		}
	}
	return s
}()

// bit is 0 for a grant that does not exist.
func bit(g api.Grant) grantSet {
	for i := range api.Grants {
		if api.Grants[i] == g {
			return 1 << i
		}
	}
	return 0
}

func (s grantSet) has(g api.Grant) bool { return s&bit(g) != 0 }

func (s grantSet) list() []api.Grant {
	out := []api.Grant{}
	for _, g := range api.Grants {
		if s.has(g) {
			out = append(out, g)
		}
	}
	return out
}

// overflow holds the ids that match nothing: they stand for everybody whom the
// kernel cannot express in our user namespace.
type overflow struct{ uid, gid uint32 }

func (o overflow) user(id uint32) bool  { return id == o.uid || id == peer.OverflowID }
func (o overflow) group(id uint32) bool { return id == o.gid || id == peer.OverflowID }

// rule is a Rule that was checked.
type rule struct {
	name          string
	users, groups []uint32
	units         []string // for path.Match
	globs         []string // the same as they were written
	contained     bool
	apps          []App
	grants        grantSet
	patterns      []string
	paths         []*regexp.Regexp
	perSecond     float64
	burst         int
}

// hasApp: an admin grant without an app asks for nothing that belongs to one,
// and a rule of admin grants without apps is for all.
func (r *rule) hasApp(app user.ClientID, g api.Grant) bool {
	if g.IsAdmin() && (app == "" || len(r.apps) == 0) {
		return true
	}
	return slices.ContainsFunc(r.apps, func(a App) bool { return a.ClientID == app })
}

func (r *rule) hasPath(path string) bool {
	return canonical(path) && slices.ContainsFunc(r.paths, func(re *regexp.Regexp) bool { return re.MatchString(path) })
}

// canonical reports whether path, or pattern, can be read in one way only.
func canonical(path string) bool {
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "%?#\\\x00\r\n") {
		return false
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		if s == "." || s == ".." || (s == "" && i < len(segments)-1) {
			return false
		}
	}
	return true
}

// compilePath turns a pattern into an anchored expression, which Go matches in
// linear time.
func compilePath(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString(`\A`)
	for rest := pattern; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
			rest = rest[1:]
		default:
			n := strings.IndexByte(rest, '*')
			if n < 0 {
				n = len(rest)
			}
			b.WriteString(regexp.QuoteMeta(rest[:n]))
			rest = rest[n:]
		}
	}
	return regexp.Compile(b.String() + `\z`)
}
