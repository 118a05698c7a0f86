package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// ExplainQuery is a request that somebody might make.
type ExplainQuery struct {
	UID, GID  uint32
	Groups    []uint32 // supplementary
	Unit      string
	Contained bool
	Unproven  bool   // the unit was read without proof
	Listener  string // name
	App       string // name; "" is allowed for admin grants only
	Grant     api.Grant
	Path      string // for the grant proxy
}

// AdminExplain says what the rules in force would answer, and why.
func (c *Client) AdminExplain(ctx context.Context, q ExplainQuery) (api.Explanation, error) {
	v := url.Values{"uid": {id(q.UID)}, "gid": {id(q.GID)}, "listener": {q.Listener}, "grant": {string(q.Grant)}}
	for _, g := range q.Groups {
		v.Add("group", id(g))
	}
	for name, value := range map[string]string{"unit": q.Unit, "app": q.App, "path": q.Path} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Contained {
		v.Set("contained", "true")
	}
	if q.Unproven {
		v.Set("proven", "false")
	}
	return do[api.Explanation](ctx, c, call{method: http.MethodGet, path: "/v1/admin/policy/explain", query: v})
}

// AdminWhoCan lists who has a grant, by the rules in force.
func (c *Client) AdminWhoCan(ctx context.Context, g api.Grant) (api.WhoCan, error) {
	return do[api.WhoCan](ctx, c, call{method: http.MethodGet, path: "/v1/admin/policy/who-can", query: url.Values{"grant": {string(g)}}})
}

// AdminAuditFind returns the last lines of the audit log that q asks for: give the
// Client a Timeout to match the log's size.
func (c *Client) AdminAuditFind(ctx context.Context, q api.AuditQuery) (api.AuditLines, error) {
	v := app(user.ClientID(q.ClientID))
	for name, value := range map[string]string{"requestId": q.RequestID, "humanId": q.HumanID, "since": stamp(q.Since), "until": stamp(q.Until)} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return do[api.AuditLines](ctx, c, call{method: http.MethodGet, path: "/v1/admin/audit/find", query: v, header: clientUser(user.ClientUserID(q.ClientUserID))})
}

func id(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
