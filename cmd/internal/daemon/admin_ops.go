package daemon

import (
	"context"
	"errors"
	"io"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// errNotOpen is returned for what needs the store while the daemon starts.
func errNotOpen() error { return user.Fail(user.StoreUnavailable, "the store is not open yet") }

// Reload implements server.Admin: what SIGHUP does, with an answer.
func (a admin) Reload(context.Context) error {
	if a.d.Load == nil {
		return errors.New("this daemon has no configuration file")
	}
	return a.d.reloadNow()
}

// Backup implements server.Admin.
func (a admin) Backup(ctx context.Context, w io.Writer) error {
	s := a.d.open()
	if s == nil {
		return errNotOpen()
	}
	_, err := s.store.Backup(ctx, w)
	return err
}

// Prefer implements server.Admin.
func (a admin) Prefer(ctx context.Context, app user.ClientID, id user.ClientUserID, human user.HumanID) (user.Public, error) {
	s := a.d.open()
	if s == nil {
		return user.Public{}, errNotOpen()
	}
	return s.store.Prefer(ctx, app, id, human)
}

// Candidates implements server.Admin.
func (a admin) Candidates(ctx context.Context, app user.ClientID, id user.ClientUserID) ([]user.Public, int, error) {
	s := a.d.open()
	if s == nil {
		return nil, -1, errNotOpen()
	}
	return s.store.AllByClientUserID(ctx, app, id)
}

// Accept implements server.Admin.
func (a admin) Accept(_ context.Context, seen string) error { return a.d.acceptRollback(seen) }
