package doctor

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/vault"
)

// exam is what the checks share.
type exam struct {
	Config
	states map[string]State

	cfg      *config.Config // nil: it cannot be read
	loadErr  error          // why it cannot be, when that is no problem of the file's
	problems []config.Problem

	accounts accounts
	unit     unit
	user     vault.Reader // the daemon's
	userName string

	status    *api.Status // nil: no daemon answers
	statusErr error

	probed  bool
	contact vault.Contact
	probe   error

	client *vault.Client // logged in
}

const defaultAdminSocket = "/run/tokenvault/admin/api.sock"

func begin(ctx context.Context, c Config) *exam {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.kernel == nil {
		c.kernel = &running
	}
	c.Backups = cmp.Or(c.Backups, "/var/backups")
	e := &exam{Config: c, states: map[string]State{}}
	e.cfg, e.loadErr = config.Load(c.Load)
	if wrong, ok := errors.AsType[*config.Error](e.loadErr); ok {
		e.problems, e.loadErr = wrong.Problems, nil
	}
	e.accounts = readAccounts(cmp.Or(c.Load.Passwd, "/etc/passwd"), cmp.Or(c.Load.Group, "/etc/group"))
	e.unit = readUnit(c.UnitDirs)
	e.whose()
	e.ask(ctx)
	return e
}

// end gives back what Vault lent.
func (e *exam) end() {
	if e.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = e.client.Logout(ctx) // else it ends by itself
}

// whose finds out as whom the daemon runs: what the unit says, else whose most of the
// daemon's directories are (root's are systemd's), else this process.
func (e *exam) whose() {
	e.user = vault.Reader{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if name := e.unit.last("Service", "User"); name != "" {
		if u, ok := e.accounts.user(name); ok {
			e.user = vault.Reader{UID: u.uid, GID: u.gid}
		}
		e.userName = name
	} else if e.cfg != nil {
		e.user = commonest(e.cfg.Needs(), e.user)
	}
	e.userName = cmp.Or(e.userName, e.accounts.nameOf(e.user.UID), strconv.Itoa(int(e.user.UID)))
	if e.cfg != nil {
		e.cfg.ReadFor(e.user)
	}
}

// commonest is who owns most of the directories; fallback when only root does.
func commonest(n config.Needs, fallback vault.Reader) vault.Reader {
	counts, first := map[uint32]int{}, map[uint32]vault.Reader{}
	for _, dir := range append(n.Write, n.Sockets...) {
		st, err := owner(dir)
		if err != nil || st.Uid == 0 {
			continue
		}
		if counts[st.Uid]++; counts[st.Uid] == 1 { // a socket's directory may have its own group
			first[st.Uid] = vault.Reader{UID: st.Uid, GID: st.Gid}
		}
		if counts[st.Uid] > counts[fallback.UID] {
			fallback = first[st.Uid]
		}
	}
	return fallback
}

func owner(path string) (*syscall.Stat_t, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, errors.New("its owner cannot be told")
	}
	return st, nil
}

// ask asks the daemon how it is.
func (e *exam) ask(ctx context.Context) {
	cl, err := client.New(client.Config{Socket: e.adminSocket(), Timeout: limit})
	if err != nil {
		e.statusErr = err
		return
	}
	defer cl.Close()
	s, err := cl.AdminStatus(ctx)
	if err != nil {
		e.statusErr = err
		return
	}
	e.status = &s
}

func (e *exam) adminSocket() string {
	if e.Socket != "" {
		return e.Socket
	}
	if e.cfg != nil {
		for _, l := range e.cfg.Listeners {
			if l.Name == "admin" {
				return l.Path
			}
		}
	}
	return defaultAdminSocket
}

// stopped: nobody is there to ask, and not only for us.
func (e *exam) stopped() bool {
	return e.status == nil && errors.Is(e.statusErr, client.ErrUnavailable) && !errors.Is(e.statusErr, fs.ErrPermission)
}
