package doctor

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

// accounts is /etc/passwd and /etc/group with members, which the configuration does
// not need: the kernel says who is in a group when somebody connects.
type accounts struct {
	users  []account
	groups []group
}

type account struct {
	name     string
	uid, gid uint32
}

type group struct {
	name    string
	gid     uint32
	members []string
}

// readAccounts leaves out what it cannot read.
func readAccounts(passwd, groups string) (a accounts) {
	for _, f := range lines(passwd, 4) {
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			a.users = append(a.users, account{f[0], uint32(uid), uint32(gid)})
		}
	}
	for _, f := range lines(groups, 4) {
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			a.groups = append(a.groups, group{f[0], uint32(gid), strings.Split(f[3], ",")})
		}
	}
	return a
}

func lines(path string, fields int) (out [][]string) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(f) >= fields && f[0] != "" {
			out = append(out, f)
		}
	}
	return out
}

// user finds a name or number.
func (a accounts) user(word string) (account, bool) {
	i := slices.IndexFunc(a.users, func(u account) bool { return u.name == word || strconv.Itoa(int(u.uid)) == word })
	if i < 0 {
		return account{}, false
	}
	return a.users[i], true
}

func (a accounts) nameOf(uid uint32) string {
	u, _ := a.user(strconv.Itoa(int(uid)))
	return u.name
}

// groupOf finds a group by number.
func (a accounts) groupOf(gid int) (group, bool) {
	i := slices.IndexFunc(a.groups, func(g group) bool { return int(g.gid) == gid })
	if i < 0 {
		return group{}, false
	}
	return a.groups[i], true
}

// has: the group is the user's first, or names it.
func (g group) has(u account) bool { return g.gid == u.gid || slices.Contains(g.members, u.name) }
