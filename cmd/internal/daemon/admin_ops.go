package daemon

import (
	"context"
	"errors"
	"io"

	"github.com/tokenvault/tokenvault/exchange/user"
)

var errNoSuchWork = errors.New("this daemon cannot do that")

func (a admin) Reload(context.Context) error { return errNoSuchWork }

func (a admin) Backup(context.Context, io.Writer) error { return errNoSuchWork }

func (a admin) Prefer(context.Context, user.ClientID, user.ClientUserID, user.HumanID) (user.Public, error) {
	return user.Public{}, errNoSuchWork
}

func (a admin) Candidates(context.Context, user.ClientID, user.ClientUserID) ([]user.Public, int, error) {
	return nil, -1, errNoSuchWork
}

func (a admin) Accept(context.Context, string) error { return errNoSuchWork }
