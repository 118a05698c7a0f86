package daemon

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
	"github.com/tokenvault/tokenvault/unix/server"
)

// unitsDir is where systemd notes which start of a unit this is (its invocation).
const unitsDir = "/run/systemd/units"

// Confinement is what the process may use from its start on, by its
// configuration. inherited: its sockets are the service manager's, and it makes
// none.
func Confinement(c *config.Config, inherited bool) (sandbox.Profile, error) {
	n := c.Needs()
	p := sandbox.Profile{
		Mode: sandbox.Mode(c.Sandbox.Mode), Read: n.Read, Write: n.Write, Connect: n.Connect, Resolve: true,
		Chown: !inherited, MemfdSecret: true, Memfd: c.Sandbox.RestartMemory == "unsafe-memfd",
	}
	if _, err := os.Stat(unitsDir); err == nil {
		p.Read = append(p.Read, unitsDir)
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
