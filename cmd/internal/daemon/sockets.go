package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/unix/server"
)

// sockets returns the configured listeners: inherited, when systemd passed any,
// else our own.
func (d *daemon) sockets() ([]server.Listener, error) {
	var out []server.Listener
	for _, l := range d.cfg.Listeners {
		socket, err := d.socket(l)
		if err != nil {
			closeAll(out)
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		out = append(out, server.Listener{Name: l.Name, L: socket, Ceiling: l.Grants()})
	}
	if n := len(d.Listeners); n > 0 && n != len(out) {
		closeAll(out)
		return nil, fmt.Errorf("systemd passed %d sockets, and the configuration has %d: FileDescriptorName= must be the listener's name", n, len(out))
	}
	return out, nil
}

func (d *daemon) socket(l config.Listener) (net.Listener, error) {
	if len(d.Listeners) == 0 {
		return server.Listen(server.ListenConfig{Path: l.Path, UID: -1, GID: l.GID(), Mode: os.FileMode(l.Mode)})
	}
	inherited, ok := d.Listeners[l.Name]
	if !ok {
		return nil, errors.New("systemd passed other sockets, but not this one")
	}
	return inherited, agrees(l, inherited)
}

// agrees compares an inherited socket with the file: what the operator reads
// there must be true.
func agrees(l config.Listener, inherited net.Listener) error {
	if path := inherited.Addr().String(); path != l.Path {
		return fmt.Errorf("systemd's socket is %s, the configuration says %s", path, l.Path)
	}
	info, err := os.Stat(l.Path)
	if err != nil {
		return fmt.Errorf("look at systemd's socket: %w", err)
	}
	if mode := info.Mode().Perm(); mode != os.FileMode(l.Mode) {
		return fmt.Errorf("systemd's socket has mode %04o, the configuration says %s", mode, l.Mode)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && l.GID() >= 0 && int(st.Gid) != l.GID() {
		return fmt.Errorf("systemd's socket belongs to group %d, the configuration says %s (%d)", st.Gid, l.Group, l.GID())
	}
	return nil
}

func closeAll(listeners []server.Listener) {
	for _, l := range listeners {
		_ = l.L.Close()
	}
}
