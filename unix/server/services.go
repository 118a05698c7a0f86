package server

import (
	"context"

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

// Admin answers the admin socket. Status is asked before Open too.
type Admin interface {
	Status(ctx context.Context) api.Status
	CheckSecrets(ctx context.Context) api.SecretCheck
	CheckStore(ctx context.Context) (api.StoreCheck, error)
}
