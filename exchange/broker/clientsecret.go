package broker

import (
	"context"
	"slices"

	"github.com/tokenvault/tokenvault/exchange"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// versionsTried bounds how many versions of a client secret one attempt tries:
// the one held, the current one in Vault, and its predecessor.
const versionsTried = 3

// withSecret calls send with the app's client secret, and again with another
// version as long as Human API refuses the one before: no version twice, as
// whoever rotates has two that name each other as the alternative. Each copy is
// wiped after its use. It returns the last send's error; or none, why there is no
// secret to go on with, and nothing that was sent had an effect.
func (b *Broker) withSecret(ctx context.Context, app user.ClientID, send func(user.ClientSecret) error) (err, secretless error) {
	secret, err := b.cfg.Secrets.ClientSecret(ctx, app)
	if err != nil {
		return nil, err
	}
	for tried := []int{}; ; {
		tried = append(tried, secret.Version)
		err := send(secret)
		secret.Text.Wipe()
		if err == nil {
			b.cfg.Secrets.Accepted(app, secret.Version)
		}
		if err == nil || classOf(err) != exchange.Unauthorized || len(tried) == versionsTried {
			return err, nil
		}
		next, other, secretless := b.cfg.Secrets.Refused(ctx, app, secret.Version)
		if secretless != nil {
			return nil, secretless
		}
		if !other || slices.Contains(tried, next.Version) {
			next.Text.Wipe()
			return err, nil
		}
		secret = next
	}
}
