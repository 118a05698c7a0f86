package store

import (
	"context"

	"github.com/tokenvault/tokenvault/exchange/user"
)

// Kept gives the tests what a write sees of the tokens that it seals anew.
func (s *Store) Kept(ctx context.Context, app user.ClientID, human user.HumanID, use func(user.Private)) error {
	row, err := s.known(ctx, app, human)
	if err != nil {
		return err
	}
	return s.kept(ctx, row, use)
}
