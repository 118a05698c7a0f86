package daemon

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
	"github.com/tokenvault/tokenvault/unix/server"
)

// machine are the directories that a daemon reads on every machine, each because
// of what stands in it. They are directories where what is in them is replaced by
// renaming, which leaves a right to the file worthless.
var machine = []string{
	"/etc",                 // passwd and group (rules, whoami), resolv.conf, hosts, nsswitch.conf, TLS roots
	"/run/systemd/resolve", // where resolv.conf leads to
	"/run/resolvconf",
	"/run/NetworkManager",
	"/usr/share/ca-certificates", // where TLS roots lead to
	"/usr/local/share/ca-certificates",
	"/usr/share/zoneinfo",
	"/proc",                     // callers' unit and containment
	"/run/systemd/units",        // their units' invocations
	"/sys/kernel/mm",            // the Go runtime's page sizes
	"/sys/fs/cgroup/cpu.max",    // its number of processors
	"/dev/null", "/dev/urandom", // descriptors 0 to 2 of what is started with none
}

// Confinement is what the process may use from its start on, by its
// configuration. inherited: its sockets are the service manager's, and it makes
// none.
func Confinement(c *config.Config, inherited bool) (sandbox.Profile, error) {
	n := c.Needs()
	p := sandbox.Profile{
		Mode: sandbox.Mode(c.Sandbox.Mode), Read: append(n.Read, machine...), Write: n.Write, Connect: n.Connect, Resolve: true,
		Chown: !inherited, MemfdSecret: true,
	}
	for _, dir := range n.Sockets {
		p.Read = append(p.Read, dir) // the probe's way to its own sockets
		if inherited {
			continue
		}
		// What is not there cannot be named, and to name a directory above it would
		// be too much.
		if err := server.MakeDir(dir); err != nil {
			return p, fmt.Errorf("make the directory of a socket: %w", err)
		}
		p.Write = append(p.Write, dir)
	}
	for _, dir := range p.Write {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return p, fmt.Errorf("%s must be a directory of the daemon's before it starts: mkdir -p -m 0700 %s, and chown it to the daemon's user", dir, filepath.Clean(dir))
		}
	}
	return p, nil
}
