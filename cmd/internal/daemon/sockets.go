package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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
// there must be true. The name that systemd gives a socket decides its ceiling, so
// the path that the kernel knows it by must be the one of that name.
func agrees(l config.Listener, inherited net.Listener) error {
	if err := listens(inherited); err != nil {
		return err
	}
	if path := inherited.Addr().String(); path != l.Path {
		return fmt.Errorf("systemd's socket is %s, the configuration says %s: FileDescriptorName= and ListenStream= must be of one listener", path, l.Path)
	}
	info, err := os.Lstat(l.Path)
	if err != nil {
		return fmt.Errorf("look at systemd's socket: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode().Perm(); {
	case !ok || info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is no socket any more: restart the socket unit", l.Path)
	case mode != os.FileMode(l.Mode):
		return fmt.Errorf("systemd's socket has mode %04o, the configuration says %s: see SocketMode=", mode, l.Mode)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("systemd's socket belongs to uid %d: it must be root's or the daemon's, see SocketUser=", st.Uid)
	case l.GID() >= 0 && int(st.Gid) != l.GID():
		return fmt.Errorf("systemd's socket belongs to group %d, the configuration says %s (%d): see SocketGroup=", st.Gid, l.Group, l.GID())
	case l.GID() < 0 && int(st.Gid) != os.Getegid():
		return fmt.Errorf("systemd's socket belongs to group %d, the configuration says the daemon's own (%d): see SocketGroup=", st.Gid, os.Getegid())
	}
	return server.CheckDir(filepath.Dir(l.Path))
}

// listens: it is a stream socket, and somebody called listen(2).
func listens(inherited net.Listener) error {
	u, ok := inherited.(syscall.Conn)
	if !ok || inherited.Addr().Network() != "unix" {
		return errors.New("systemd's socket is no Unix socket of type stream: see ListenStream=")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return fmt.Errorf("reach systemd's socket: %w", err)
	}
	var kind, accepts int
	var err1, err2 error
	err = raw.Control(func(fd uintptr) {
		kind, err1 = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TYPE)
		accepts, err2 = acceptsConnections(int(fd))
	})
	switch err := errors.Join(err, err1, err2); {
	case err != nil:
		return fmt.Errorf("ask what systemd's socket is: %w", err)
	case kind != syscall.SOCK_STREAM:
		return errors.New("systemd's socket is not of type stream: see ListenStream=")
	case accepts == 0:
		return errors.New("systemd's socket does not listen: see Accept=, which must be no")
	}
	return nil
}

func closeAll(listeners []server.Listener) {
	for _, l := range listeners {
		_ = l.L.Close()
	}
}
