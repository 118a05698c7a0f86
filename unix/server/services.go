package server

import (
	"context"
	"io"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// Services do what is asked for. All are required and safe for concurrent use.
// Their errors are *user.Error where a caller can act on them; any other is
// answered as "internal".
type Services struct {
	Broker Broker
	Users  Users
	Audit  Audit
}

// Broker exchanges.
type Broker interface {
	// Exchange returns when the exchange is committed or cannot be. It goes on
	// when ctx ends, and then only the caller stops waiting.
	Exchange(ctx context.Context, e user.Exchange) (user.Result, error)
	// PublicToken returns the user with a publicToken, fetched and stored when
	// there was none.
	PublicToken(ctx context.Context, app user.ClientID, human user.HumanID, id user.RequestID) (user.Public, error)
}

// Users reads the store. An unknown user is user.UnknownUser.
type Users interface {
	Public(ctx context.Context, app user.ClientID, human user.HumanID) (user.Public, error)
	// Private hands its access token over: the server wipes it after the answer.
	Private(ctx context.Context, app user.ClientID, human user.HumanID) (user.Record, error)
	ByClientUserID(ctx context.Context, app user.ClientID, id user.ClientUserID) (user.Public, error)
	// InState lists at most limit users; app "" means all apps.
	InState(ctx context.Context, app user.ClientID, state user.State, limit int) ([]user.Public, error)
}

// Audit takes what happened. An error means that it is not on record, and the
// request is refused.
type Audit interface {
	// Write returns when the event is in the file.
	Write(e audit.Event) error
	// WriteDurable returns when the event is on disk.
	WriteDurable(ctx context.Context, e audit.Event) error
	// Subject names a user without showing the id.
	Subject(app user.ClientID, human user.HumanID) string
}

// Admin answers the admin socket. Status, Reload and Accept are asked before Open
// too. A plain error of Reload or Accept says why it was refused, one reason a
// line, in words that the administrator is shown; a *user.Error of theirs, and any
// error of the others, is answered as those of the services are.
type Admin interface {
	Status(ctx context.Context) api.Status
	CheckSecrets(ctx context.Context) api.SecretCheck
	CheckStore(ctx context.Context) (api.StoreCheck, error)
	// Reload returns when rules and configuration are swapped, or nothing is.
	Reload(ctx context.Context) error
	// Backup writes a backup of the whole store to w. What it has written when it
	// fails must be no backup that could be taken for one.
	Backup(ctx context.Context, w io.Writer) error
	// Prefer makes human the user that id names in app, and returns that user.
	Prefer(ctx context.Context, app user.ClientID, id user.ClientUserID, human user.HumanID) (user.Public, error)
	// Candidates are all users of app under id. preferred is the index of the one
	// that an administrator has preferred; -1: none.
	Candidates(ctx context.Context, app user.ClientID, id user.ClientUserID) (users []user.Public, preferred int, err error)
	// Accept takes a store that was found to be rolled back as it is. seen is
	// api.Rollback.Seen of the status that the administrator was shown; when it is
	// not what is found now, Accept refuses.
	Accept(ctx context.Context, seen string) error
}
