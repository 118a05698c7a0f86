package vault

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/tokenvault/tokenvault/exchange/user"
)

const (
	capabilitiesPath = "sys/capabilities-self"
	lookupPath       = "auth/token/lookup-self"
)

// errNoSelfCapabilities is returned when the token may not ask what it may.
var errNoSelfCapabilities = errors.New("not allowed to ask for its own capabilities")

// Capability is a path on which the daemon's token lacks something.
type Capability struct {
	Path    string
	Missing []string // "create", "read", "update"
}

// Missing asks Vault which of the daemon's rights its token lacks, for these
// apps; none is nil. A token that may not ask is reported as lacking just that.
func (c *Client) Missing(ctx context.Context, apps []user.ClientID) ([]Capability, error) {
	wanted, err := c.wanted(apps)
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(wanted))
	for i, w := range wanted {
		paths[i] = w.path
	}
	held, err := c.capabilities(ctx, paths...)
	if errors.Is(err, errNoSelfCapabilities) {
		return []Capability{{Path: capabilitiesPath, Missing: []string{"update"}}}, nil
	}
	if err != nil {
		return nil, err
	}
	var missing []Capability
	for _, w := range wanted {
		if lacks := lacking(held[w.path], w.capabilities); len(lacks) > 0 {
			missing = append(missing, Capability{Path: w.path, Missing: lacks})
		}
	}
	return missing, nil
}

// wanted is the policy with the patterns for apps replaced by the apps' own
// paths: a policy that names each of them grants enough.
func (c *Client) wanted(apps []user.ClientID) ([]right, error) {
	var out []right
	for _, r := range c.paths.rights() {
		kind, ok := c.paths.appsPattern(r.path)
		if !ok {
			out = append(out, r)
			continue
		}
		for _, app := range apps {
			if err := checkClientID(app); err != nil {
				return nil, err
			}
			out = append(out, right{c.paths.app(kind, app), r.capabilities})
		}
	}
	return out, nil
}

// appsPattern reports whether path is one of the two patterns for apps, and
// which: "data" or "metadata".
func (p Paths) appsPattern(path string) (kind string, ok bool) {
	for _, kind := range []string{"data", "metadata"} {
		if path == p.app(kind, "*") {
			return kind, true
		}
	}
	return "", false
}

// app is the path of an app's entry.
func (p Paths) app(kind string, id user.ClientID) string {
	return p.KVMount + "/" + kind + "/" + p.AppsPath + "/" + string(id)
}

// capabilities asks what the token may do on each path. It returns
// errNoSelfCapabilities when it is not allowed to ask (or the token is dead).
func (c *Client) capabilities(ctx context.Context, paths ...string) (map[string][]string, error) {
	a, err := c.send(ctx, capabilitiesRequest(paths...))
	if err != nil {
		return nil, err
	}
	if a.status == http.StatusForbidden {
		return nil, errNoSelfCapabilities
	}
	if !a.ok() {
		return nil, a.unexpected()
	}
	var fields map[string]json.RawMessage // beside the paths there is other data
	if err := a.data(&fields); err != nil {
		return nil, err
	}
	held := map[string][]string{}
	for _, path := range paths {
		var names []string
		if raw, ok := fields[path]; ok && json.Unmarshal(raw, &names) != nil {
			return nil, ErrMalformed
		}
		held[path] = names
	}
	return held, nil
}

func capabilitiesRequest(paths ...string) request {
	body, _ := json.Marshal(map[string][]string{"paths": paths}) // strings always marshal
	return request{path: capabilitiesPath, body: body, capability: "update"}
}

// lacking returns which of wanted are not held. root holds all.
func lacking(held, wanted []string) []string {
	if slices.Contains(held, "root") {
		return nil
	}
	var out []string
	for _, w := range wanted {
		if !slices.Contains(held, w) {
			out = append(out, w)
		}
	}
	return out
}
