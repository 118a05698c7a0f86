package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// load reads the configuration that the command line names.
func (p *program) load(c *cli.Context) (*config.Config, error) {
	return config.Load(config.LoadOptions{Path: flag(c, "config"), Env: p.Env})
}

// Where the daemon of the reference configuration listens; used by callers who
// may not read the configuration.
const (
	defaultClientSocket = "/run/tokenvault/public/api.sock"
	defaultAdminSocket  = "/run/tokenvault/admin/api.sock"
)

// clientSocket is the socket of an app: --socket, $TOKENVAULT_SOCKET, else the
// first listener of the configuration.
func (p *program) clientSocket(c *cli.Context) (string, error) {
	if path := p.Env("TOKENVAULT_SOCKET"); path != "" && flag(c, "socket") == "" {
		return path, nil
	}
	return p.socket(c, defaultClientSocket, func(l config.Listener, i int) bool { return i == 0 })
}

// adminSocket is --socket, else the listener named admin.
func (p *program) adminSocket(c *cli.Context) (string, error) {
	return p.socket(c, defaultAdminSocket, func(l config.Listener, _ int) bool { return l.Name == "admin" })
}

func (p *program) socket(c *cli.Context, fallback string, pick func(config.Listener, int) bool) (string, error) {
	if path := flag(c, "socket"); path != "" {
		return path, nil
	}
	cfg, err := p.load(c)
	if wrong, ok := errors.AsType[*config.Error](err); ok {
		path := cmp.Or(picked(cfg, pick), fallback)
		p.warnAbout(wrong, path)
		return path, nil
	}
	named := flag(c, "config") != "" || p.Env("TOKENVAULT_CONFIG") != ""
	switch {
	case err != nil && !named && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
		return fallback, nil
	case err != nil:
		return "", err
	}
	if path := picked(cfg, pick); path != "" {
		return path, nil
	}
	return "", errors.New("the configuration has no listener named admin: give --socket PATH")
}

// picked is the path of a listener; "" when there is none. A file with mistakes may
// say all the same where the daemon listens, if it could be decoded (cfg not nil).
func picked(cfg *config.Config, pick func(config.Listener, int) bool) string {
	if cfg == nil {
		return ""
	}
	for i, l := range cfg.Listeners {
		if pick(l, i) {
			return l.Path
		}
	}
	return ""
}

// warnAbout says that a socket is asked which the configuration may not have
// meant: the daemon may well run on what was in the file before.
func (p *program) warnAbout(wrong *config.Error, socket string) {
	more := ""
	if n := len(wrong.Problems) - 1; n > 0 {
		more = " (and " + count(n, "more problem") + ")"
	}
	fmt.Fprintf(p.Stderr, "warning: the configuration cannot be read: %s%s; asking %s\n", wrong.Problems[0], more, socket)
}

// asClient calls f with a client for the app's socket.
func (p *program) asClient(c *cli.Context, f func(*client.Client) error) error {
	path, err := p.clientSocket(c)
	if err != nil {
		return err
	}
	return with(path, 0, f)
}

// asAdmin calls f with a client for the admin socket. A timeout of 0 is the
// client's default.
func (p *program) asAdmin(c *cli.Context, timeout time.Duration, f func(*client.Client) error) error {
	path, err := p.adminSocket(c)
	if err != nil {
		return err
	}
	if err := with(path, timeout, f); err != nil {
		return &adminError{err}
	}
	return nil
}

func with(path string, timeout time.Duration, f func(*client.Client) error) error {
	cl, err := client.New(client.Config{Socket: path, Timeout: timeout})
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(cl)
}
