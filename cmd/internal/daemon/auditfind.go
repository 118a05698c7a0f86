package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// FindAudit implements server.AuditFinder. The log is read while it is written.
func (a admin) FindAudit(ctx context.Context, q api.AuditQuery) (api.AuditLines, error) {
	out := api.AuditLines{Lines: []json.RawMessage{}}
	s := a.d.open()
	if s == nil {
		return out, errNotOpen()
	}
	walk := audit.WalkConfig{Path: a.d.cfg.Audit.Path, Since: q.Since, Until: q.Until, RequestID: q.RequestID}
	if q.HumanID != "" || q.ClientUserID != "" {
		subjects, err := s.subjects(ctx, q)
		if err != nil || len(subjects) == 0 {
			return out, err
		}
		walk.Subjects = subjects
	}
	err := audit.Walk(ctx, walk, func(l audit.Line) error {
		if len(out.Lines) == q.Limit { // the last ones count
			out.Lines, out.Truncated = out.Lines[1:], true
		}
		out.Lines = append(out.Lines, slices.Clone(l.Raw))
		return nil
	})
	if err != nil {
		return out, fmt.Errorf("search the audit log: %w", err)
	}
	return out, nil
}

// subjects are the names of users in the log: of one, or of all under a
// clientUserId.
func (s *services) subjects(ctx context.Context, q api.AuditQuery) ([]string, error) {
	app := user.ClientID(q.ClientID)
	if q.HumanID != "" {
		return []string{s.audit.Subject(app, user.HumanID(q.HumanID))}, nil
	}
	list, _, err := s.store.AllByClientUserID(ctx, app, user.ClientUserID(q.ClientUserID))
	if e, ok := errors.AsType[*user.Error](err); ok && e.Kind == user.UnknownUser {
		return nil, nil
	}
	out := make([]string, len(list))
	for i, u := range list {
		out[i] = s.audit.Subject(app, u.HumanID)
	}
	return out, err
}
