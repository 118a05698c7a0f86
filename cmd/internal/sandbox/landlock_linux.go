package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// What a rule gives. Executing is in none of them, nor is making a device, a pipe or
// a symbolic link.
const (
	readFile  landlock.AccessFSSet = ll.AccessFSReadFile
	readDir                        = readFile | ll.AccessFSReadDir
	writeFile                      = readFile | ll.AccessFSWriteFile | ll.AccessFSTruncate
	writeDir                       = readDir | writeFile | ll.AccessFSMakeReg | ll.AccessFSMakeDir | ll.AccessFSMakeSock |
		ll.AccessFSRemoveFile | ll.AccessFSRemoveDir | ll.AccessFSRefer
)

// base are the paths that every daemon of this kind reads, whatever its
// configuration.
var base = []string{
	"/proc",                     // callers; boot id; somaxconn
	"/etc/passwd", "/etc/group", // names in rules
	"/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/services", "/etc/protocols", // package net
	"/etc/localtime", "/usr/share/zoneinfo", // package time
	// crypto/x509, root_linux.go of Go 1.26; and where Debian's links point to
	"/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem", "/etc/pki/tls", "/etc/pki/ca-trust/extracted",
	"/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates",
}

// filesOf are the rights that a kernel of this ABI knows. Each of V2 to V5 added one
// (landlock(7)).
func filesOf(abi int) landlock.AccessFSSet {
	switch {
	case abi >= 5:
		return landlock.V5.HandledAccessFS
	case abi == 4:
		return landlock.V4.HandledAccessFS
	case abi == 3:
		return landlock.V3.HandledAccessFS
	}
	return landlock.V2.HandledAccessFS
}

func fileRules(p Profile, handled landlock.AccessFSSet) ([]landlock.Rule, error) {
	var rules []landlock.Rule
	add := func(path string, file, dir landlock.AccessFSSet) (found bool, err error) {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("look at what the profile names: %w", err)
		case info.IsDir():
			file = dir
		}
		rules = append(rules, landlock.PathAccess(file&handled, path))
		return true, nil
	}
	for _, path := range append(always(), resolver()...) {
		if _, err := add(path, readFile, readDir); err != nil && !errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
	}
	for _, list := range []struct {
		paths     []string
		file, dir landlock.AccessFSSet
	}{{p.Read, readFile, readDir}, {p.Write, writeFile, writeDir}} {
		for _, path := range list.paths {
			found, err := add(path, list.file, list.dir)
			if err != nil {
				return nil, err
			}
			if !found {
				p.logger().Warn("a path of the sandbox is not there: it stays closed", "path", path)
			}
		}
	}
	return rules, nil
}

// always is base, and for a daemon that is not root all of /etc: useradd(8), a DHCP
// client and certificate updates put new files in the old ones' places, and a rule for
// a file would not hold for those. What is secret in /etc its mode keeps from such a
// daemon, as it does without a sandbox. Root, whom no mode keeps out, reads the files
// that are there now: it has to be started anew to see new accounts, or a resolv.conf
// that was replaced.
func always() []string {
	if os.Geteuid() != 0 {
		return append([]string{"/etc"}, base...)
	}
	return base
}

// resolver is where /etc/resolv.conf really stands, when it is a link: a directory
// below /run in which it is replaced at every change of the network.
func resolver() []string {
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if dir := filepath.Dir(target); err == nil && dir != "/etc" && dir != "/" && dir != "/run" {
		return []string{dir}
	}
	return nil
}

// withNet adds TCP to what c limits, and from ABI 6 on abstract Unix sockets to those
// of the process, unless the service manager listens on one.
//
// Both stand in one ruleset with the files: a second one that knows nothing of files
// forbids all moves between directories (landlock(7), LANDLOCK_ACCESS_FS_REFER).
func withNet(c landlock.Config, abi int) landlock.Config {
	c.HandledAccessNet = landlock.V4.HandledAccessNet
	if abi >= 6 && !strings.HasPrefix(os.Getenv("NOTIFY_SOCKET"), "@") {
		c.Scoped = ll.ScopeAbstractUnixSocket
	}
	return c
}

func netRules(p Profile) []landlock.Rule {
	var rules []landlock.Rule
	if p.Resolve {
		rules = append(rules, landlock.ConnectTCP(53))
	}
	for _, port := range p.Connect {
		rules = append(rules, landlock.ConnectTCP(port))
	}
	for _, port := range p.Listen {
		rules = append(rules, landlock.BindTCP(port))
	}
	return rules
}
