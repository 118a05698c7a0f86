package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/unix/server"
	"github.com/tokenvault/tokenvault/vault"
)

// ofFile: it is about the file itself, its owner or mode.
func ofFile(p config.Problem) bool { return p.Line == 0 && p.Key == "" }

// accountKey is where names of users and groups stand.
var accountKey = regexp.MustCompile(`^(rule\[\d+\]\.(users|groups)|listener\[\d+\]\.group)$`)

// ofAccount: a name of the machine's is not there.
func ofAccount(p config.Problem) bool {
	return accountKey.MatchString(p.Key) && strings.Contains(p.Text, " is not in ")
}

// configuration is `config check`, without what other lines say.
func (e *exam) configuration(context.Context) Finding {
	const cure = "tokenvault config check"
	if e.loadErr != nil {
		return e.unreadable(cure)
	}
	var list []string
	for _, p := range e.problems {
		if ofFile(p) {
			return unknown("it is not read: see files and modes")
		}
		if !ofAccount(p) {
			list = append(list, p.String())
		}
	}
	switch {
	case len(list) > 1:
		return bad(cure, "%s, and %d more", list[0], len(list)-1)
	case len(list) == 1:
		return bad(cure, "%s", list[0])
	case e.cfg == nil:
		return unknown("it is not read")
	}
	return good("%s, %s, %s", count(len(e.cfg.Apps), "app"), count(len(e.cfg.Listeners), "listener"), count(len(e.cfg.Rules), "rule"))
}

func (e *exam) unreadable(cure string) Finding {
	switch {
	case errors.Is(e.loadErr, fs.ErrPermission):
		return unknown("%v: be root", e.loadErr)
	case errors.Is(e.loadErr, fs.ErrNotExist):
		return bad("install -D -m 0644 packaging/tokenvault.toml "+config.DefaultPath, "%v", e.loadErr)
	}
	return bad(cure, "%v", e.loadErr)
}

var mend = regexp.MustCompile(`(chown|chmod) .*$`)

// files looks at owners and modes of what the daemon reads and writes.
func (e *exam) files(context.Context) Finding {
	for _, p := range e.problems {
		if ofFile(p) {
			return bad(mend.FindString(p.Text), "%s", p)
		}
	}
	if e.cfg == nil || e.states["configuration"] == Fail {
		return unknown("it needs configuration")
	}
	var t tally
	for _, path := range e.cfg.Credentials() {
		t.add(e.secretFile(path))
	}
	t.add(e.directory(filepath.Dir(e.cfg.Store.Path), 0o077, "/var/lib/"+e.unit.last("Service", "StateDirectory")))
	t.add(e.directory(filepath.Dir(e.cfg.Audit.Path), 0o022, "/var/log/"+e.unit.last("Service", "LogsDirectory")))
	t.add(e.file(e.cfg.Store.Path, 0o077))
	t.add(e.file(e.cfg.Audit.Path, 0o027))
	return t.worst(good("credentials, store and audit log are %s's, and nobody else's", e.userName))
}

// source is where a credential is now: systemd's copy is there only while the
// service runs.
func (e *exam) source(path string) (at string, encrypted bool) {
	if !e.cfg.FromSystemd(path) {
		return path, false
	}
	from, encrypted, known := e.unit.credentialSource(filepath.Base(path))
	if _, err := os.Stat(path); err == nil {
		return path, encrypted
	}
	if known && filepath.IsAbs(from) {
		return from, encrypted
	}
	return filepath.Join(e.cfg.Dir(), filepath.Base(path)), encrypted
}

func (e *exam) secretFile(path string) Finding {
	at, encrypted := e.source(path)
	info, err := os.Stat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad("tokenvault vault setup --apply", "%s is not there: the daemon cannot log in at Vault", at)
	case err != nil:
		return unknown("%v", err)
	case encrypted && at != path:
		return Finding{} // its content is systemd's
	}
	text, err := vault.ReadSecretFileFor(at, &e.user)
	text.Wipe()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return unknown("%v: be root", err)
	case err != nil && strings.Contains(err.Error(), "must be owned"):
		return bad("chown "+e.userName+" "+at, "%v", err)
	case err != nil && info.Mode().Perm()&0o066 != 0:
		return bad("chmod 0600 "+at, "%v", err)
	case err != nil:
		return bad("tokenvault vault setup --apply --out DIR", "%v", err)
	case !e.cfg.FromSystemd(path) && !e.reads(at):
		return bad("chown "+e.userName+" "+at, "%s cannot be read by %s, who the daemon runs as", at, e.userName)
	}
	return Finding{}
}

// reads: the daemon's user may read the file.
func (e *exam) reads(path string) bool {
	info, err := os.Stat(path)
	st, err2 := owner(path)
	if err != nil || err2 != nil {
		return false
	}
	mode := info.Mode().Perm()
	return e.user.UID == 0 || st.Uid == e.user.UID && mode&0o400 != 0 || st.Gid == e.user.GID && mode&0o040 != 0
}

// directory judges one that the daemon writes in; systemd makes the one that is
// bySystemd.
func (e *exam) directory(dir string, closed os.FileMode, bySystemd string) Finding {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if dir == bySystemd {
			return Finding{}
		}
		return bad(fmt.Sprintf("install -d -m 0700 -o %s %s", e.userName, dir), "%s is not there", dir)
	}
	return e.file(dir, closed)
}

// file judges something that is the daemon's, if it is there.
func (e *exam) file(path string, closed os.FileMode) Finding {
	info, err := os.Stat(path)
	if err != nil {
		return Finding{}
	}
	st, err := owner(path)
	switch {
	case err != nil:
		return unknown("%s: %v", path, err)
	case st.Uid != e.user.UID:
		return bad("chown "+e.userName+" "+path, "%s belongs to uid %d, and the daemon is %s", path, st.Uid, e.userName)
	case info.Mode().Perm()&closed != 0:
		return bad("chmod go-rwx "+path, "%s has mode %04o: it is open to others", path, info.Mode().Perm())
	}
	return Finding{}
}

var quoted = regexp.MustCompile(`"([^"]*)"`)

// users looks for the accounts, and whether those whom rules name reach a socket.
func (e *exam) users(context.Context) Finding {
	var t tally
	for _, p := range e.problems {
		if ofAccount(p) {
			t.add(missingAccount(p))
		}
	}
	if name := e.unit.last("Service", "User"); name != "" {
		if _, ok := e.accounts.user(name); !ok {
			t.add(bad("useradd --system --user-group --home-dir /var/lib/tokenvault --shell /usr/sbin/nologin "+name, "the daemon's user %s is not there", name))
		}
	}
	if len(t.list) > 0 {
		return t.worst(Finding{}) // who is in a group that is not there cannot be told
	}
	for _, r := range e.cfg.Rules {
		for _, word := range r.Users {
			if u, ok := e.accounts.user(word.String()); ok && u.uid != 0 {
				t.add(e.connects(r, u))
			}
		}
	}
	return t.worst(good("every user and group is there, and whom a rule names may connect"))
}

func missingAccount(p config.Problem) Finding {
	name := "NAME"
	if m := quoted.FindStringSubmatch(p.Text); m != nil {
		name = m[1]
	}
	if strings.HasSuffix(p.Key, "users") {
		return bad("useradd --system "+name, "%s", p)
	}
	return bad("groupadd --system "+name, "%s", p)
}

// connects: some socket that gives what the rule grants opens to the user.
func (e *exam) connects(r config.Rule, u account) Finding {
	var closed []string
	for _, l := range e.cfg.Listeners {
		if !slices.ContainsFunc(r.Grants, func(g string) bool { return slices.Contains(l.Ceiling, g) }) {
			continue
		}
		g, known := e.accounts.groupOf(l.GID())
		if !known || l.Mode&0o002 != 0 || g.has(u) { // of a group without a name nobody can tell
			return Finding{}
		}
		closed = append(closed, g.name)
	}
	if len(closed) == 0 {
		return warn("tokenvault policy explain --user "+u.name, "rule %s grants nothing that a listener gives", r.Name)
	}
	return bad("usermod -aG "+closed[0]+" "+u.name+", then restart what runs as "+u.name, "rule %s names %s, who may open no socket: not in the group %s", r.Name, u.name, closed[0])
}

// sockets looks at each socket and its directory, and knocks.
func (e *exam) sockets(ctx context.Context) Finding {
	var t tally
	missing := 0
	for _, l := range e.cfg.Listeners {
		dir := filepath.Dir(l.Path)
		info, err := os.Lstat(l.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing++
		case err != nil:
			t.add(unknown("%v", err))
		default:
			t.add(e.socket(ctx, l, info))
		}
		if err := server.CheckDirFor(dir, int(e.user.UID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.add(bad("chmod go-w "+dir+" && chown "+e.userName+" "+dir, "listener %s: %v", l.Name, err))
		}
	}
	switch {
	case missing > 0 && e.status != nil:
		t.add(bad("systemctl restart tokenvault", "the daemon runs, and %s it listens on is not there any more", count(missing, "path")))
	case missing == len(e.cfg.Listeners) && len(t.list) == 0:
		return unknown("the daemon does not run, and makes them")
	}
	return t.worst(good("%d sockets are there, and answer", len(e.cfg.Listeners)-missing))
}

func (e *exam) socket(ctx context.Context, l config.Listener, info os.FileInfo) Finding {
	const restart = "systemctl restart tokenvault"
	st, err := owner(l.Path)
	switch mode := info.Mode(); {
	case err != nil:
		return unknown("%s: %v", l.Path, err)
	case mode.Type() != fs.ModeSocket:
		return bad("rm "+l.Path+" && "+restart, "%s is no socket", l.Path)
	case mode.Perm() != os.FileMode(l.Mode):
		return bad(fmt.Sprintf("chmod %s %s", l.Mode, l.Path), "%s has mode %04o, the configuration says %s", l.Path, mode.Perm(), l.Mode)
	case l.GID() >= 0 && int(st.Gid) != l.GID():
		return bad(fmt.Sprintf("chgrp %s %s", l.Group, l.Path), "%s belongs to group %d, the configuration says %s", l.Path, st.Gid, l.Group)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", l.Path)
	if err == nil {
		_ = c.Close()
		return Finding{}
	}
	if e.stopped() || errors.Is(err, fs.ErrPermission) {
		return Finding{} // a rest of a daemon of before
	}
	return bad(restart, "nobody answers at %s: %v", l.Path, err)
}
