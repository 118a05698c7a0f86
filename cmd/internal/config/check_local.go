package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tokenvault/tokenvault/unix/api"
)

// maxSocketPath is sun_path without its final zero byte (unix(7)). macOS has 104
// bytes; the daemon's reference platform is Linux.
const maxSocketPath = 107

// maxReserve bounds the reserves: more is a mistake, not caution.
const maxReserve = 64 * GiB

// maxRate bounds per_second and burst: beyond it, nothing is limited.
const maxRate = 1_000_000

// adminListener is the name on which uid 0 has rights without a rule.
const adminListener = "admin"

func (k *checker) listeners(groups accounts) {
	if len(k.Listeners) == 0 {
		k.bad("listener", "is required: one [[listener]] for each socket")
	}
	taken, dirs := map[string]string{}, map[string]string{}
	for i := range k.Listeners {
		l := &k.Listeners[i]
		at := fmt.Sprintf("listener[%d]", i)
		k.name(at+".name", l.Name, taken)
		k.socket(at+".path", l.Path, dirs)
		k.ceiling(at+".ceiling", l)
		l.gid = -1
		if l.Group.text == "" {
			continue
		}
		id, err := groups.id(l.Group)
		if err != nil {
			k.bad(at+".group", "%v", err)
		}
		l.gid = int(id)
	}
}

func (k *checker) socket(key, path string, dirs map[string]string) {
	if !k.absolute(key, path) {
		return
	}
	dir := filepath.Dir(path)
	first, shared := dirs[dir]
	switch {
	case len(path) > maxSocketPath:
		k.bad(key, "is longer than %d bytes, which is all that a socket's address holds", maxSocketPath)
	case shared:
		k.bad(key, "is in the directory of %s: each socket has a directory of its own", first)
	case dir == "/":
		k.bad(key, "wants a directory of its own")
	}
	dirs[dir] = key
}

func (k *checker) ceiling(key string, l *Listener) {
	if len(l.Ceiling) == 0 {
		k.bad(key, "is required: the grants that this socket can give")
		return
	}
	k.grants(key, l.Ceiling)
	admin := slices.ContainsFunc(l.Ceiling, func(g string) bool { return api.Grant(g).IsAdmin() })
	client := slices.ContainsFunc(l.Ceiling, func(g string) bool { return !api.Grant(g).IsAdmin() })
	switch {
	case admin && client:
		k.bad(key, "mixes admin grants with others: give them a socket of their own")
	case client && l.Name == adminListener:
		k.bad(key, "the listener %q has admin grants only: root needs no rule there", adminListener)
	}
}

// grants checks a list of grant names.
func (k *checker) grants(key string, list []string) {
	seen := map[string]bool{}
	for _, g := range list {
		switch {
		case !slices.Contains(api.Grants, api.Grant(g)):
			k.bad(key, "%q is not a grant: there are %s", g, strings.Join(names(api.Grants...), ", "))
		case seen[g]:
			k.bad(key, "%q stands there twice", g)
		}
		seen[g] = true
	}
}

func (k *checker) rules(users, groups accounts) {
	taken, apps := map[string]string{}, map[string]bool{}
	for _, a := range k.Apps {
		apps[a.Name] = true
	}
	for i := range k.Rules {
		r := &k.Rules[i]
		at := fmt.Sprintf("rule[%d]", i)
		k.name(at+".name", r.Name, taken)
		if r.Name == "root" {
			k.bad(at+".name", `"root" is the name under which uid 0 stands in the audit log`)
		}
		r.uids = k.resolve(at+".users", r.Users, users)
		r.gids = k.resolve(at+".groups", r.Groups, groups)
		k.who(at, r)
		k.what(at, r, apps)
		k.rate(at+".rate", r.Rate)
	}
}

func (k *checker) resolve(key string, list []Account, from accounts) []uint32 {
	var ids []uint32
	for _, a := range list {
		id, err := from.id(a)
		if err != nil {
			k.bad(key, "%v", err)
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

func (k *checker) who(at string, r *Rule) {
	if len(r.Users) == 0 && len(r.Groups) == 0 && len(r.Units) == 0 {
		k.bad(at, "names nobody: it wants users, groups or units")
	}
}

func (k *checker) what(at string, r *Rule, apps map[string]bool) {
	for _, name := range r.Apps {
		if !apps[name] {
			k.bad(at+".apps", "%q is not the name of an [[app]]", name)
		}
	}
	if len(r.Grants) == 0 {
		k.bad(at+".grants", "is required: a rule without grants gives nothing")
		return
	}
	k.grants(at+".grants", r.Grants)
	if len(r.Apps) == 0 && slices.ContainsFunc(r.Grants, func(g string) bool { return !api.Grant(g).IsAdmin() }) {
		k.bad(at+".apps", "is required: the rule has grants that need an app")
	}
	proxy := slices.Contains(r.Grants, string(api.GrantProxy))
	switch {
	case proxy && len(r.Paths) == 0:
		k.bad(at+".paths", `is required with the grant "proxy"; "/**" is everything`)
	case !proxy && len(r.Paths) > 0:
		k.bad(at+".paths", `has no use without the grant "proxy"`)
	}
	for _, path := range r.Paths {
		if proxy && !strings.HasPrefix(path, "/") {
			k.bad(at+".paths", `%q must begin with "/"`, path)
		}
	}
}

// rate refuses one that is given and limits nothing.
func (k *checker) rate(key string, r Rate) {
	switch {
	case !k.said(key):
	case !(r.PerSecond > 0 && r.PerSecond <= maxRate): // NaN too
		k.bad(key+".per_second", "wants a number above 0, at most %d; without a rate there is no limit", maxRate)
	case r.Burst < 1 || r.Burst > maxRate:
		k.bad(key+".burst", "wants a number from 1 to %d", maxRate)
	}
}

func (k *checker) disk() {
	switch k.Store.Backend {
	case "bolt":
		k.absolute("store.path", k.Store.Path)
		if k.Store.DSNFile != "" {
			k.bad("store.dsn_file", `has no use with backend = "bolt"`)
		}
	case "postgres":
		k.bad("store.backend", "this version only has bolt")
	default:
		k.bad("store.backend", "wants bolt")
	}
	k.absolute("audit.path", k.Audit.Path)
	if k.Audit.Path == k.Store.Path {
		k.bad("audit.path", "is also store.path")
	}
	k.grants("audit.durable", k.Audit.Durable)
	k.oneOf("audit.when_full", k.Audit.WhenFull, "refuse", "unsafe-unrecorded-lookups")
	k.between("audit.reserve", k.Audit.Reserve, 0, maxReserve)
	k.between("store.reserve", k.Store.Reserve, 0, maxReserve)
	if k.Audit.RotateSize < MiB {
		k.bad("audit.rotate_size", "must be at least 1MiB")
	}
}

func (k *checker) limits() {
	l := k.Limits
	for _, n := range []struct {
		key   string
		value int
	}{{"connections", l.Connections}, {"connections_per_uid", l.ConnectionsPerUID}, {"in_flight_per_uid", l.InFlightPerUID}} {
		if n.value < 1 || n.value > 1<<20 {
			k.bad("limits."+n.key, "wants a number from 1 to %d", 1<<20)
		}
	}
	k.between("limits.audit_per_uid", l.AuditPerUID, 64*KiB, 1024*MiB)
	k.between("limits.body", l.Body, KiB, 4*MiB)
	k.between("limits.header", l.Header, KiB, MiB)
	k.positive("limits.header_timeout", l.HeaderTimeout)
	k.positive("limits.body_timeout", l.BodyTimeout)
	k.oneOf("sandbox.mode", k.Sandbox.Mode, "off", "auto", "require")
	k.oneOf("sandbox.restart_memory", k.Sandbox.RestartMemory, "off", "auto", "unsafe-memfd")
	k.oneOf("log.level", k.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", k.Log.Format, "auto", "text", "json")
}

func (k *checker) between(key string, s, low, high Size) {
	if s < low || s > high {
		k.bad(key, "wants a size from %s to %s", low, high)
	}
}

func (k *checker) oneOf(key, value string, allowed ...string) bool {
	if !slices.Contains(allowed, value) {
		k.bad(key, "wants one of %s", strings.Join(allowed, ", "))
		return false
	}
	return true
}

// unbuilt refuses what the reference configuration has and this version has not:
// whoever asks for it must not believe to have it.
func (k *checker) unbuilt() {
	refuse := func(asked bool, key, text string) {
		if asked {
			k.bad(key, "this version %s", text)
		}
	}
	refuse(k.Metrics.UnsafeListen != "", "metrics.unsafe_listen", "has no metrics")
}
