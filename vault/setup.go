package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// SetupConfig says what Setup shall do.
type SetupConfig struct {
	Role  string // of AppRole, default "tokenvault"
	Apply bool   // false: nothing is changed
	// Wrap is how long the secret id waits to be unwrapped, at least a second: the
	// daemon's configuration then says wrapped. 0: it is returned as it is.
	Wrap time.Duration
}

// Step is one thing that Vault must have.
type Step struct {
	What   string
	Done   bool // it was right, or was made right just now
	Needed bool // it was not right
}

// SetupResult is what Setup found and made.
type SetupResult struct {
	Steps    []Step
	RoleID   string        // "" when there is no role yet, or the daemon logs in otherwise
	SecretID secret.Text   // made with Apply only; a new one each time, or with Wrap the wrapping token of one
	WrapTTL  time.Duration // how long the wrapping token lives; 0: SecretID is not wrapped
}

// The role's lives of tokens: short enough that a stolen one dies within an
// hour of not being renewed, and a day makes a login a day.
const (
	tokenTTL    = 3600
	tokenMaxTTL = 86400
)

// step is a Step and how to do it.
type step struct {
	what string
	// needed looks whether there is something to do; an error is what cannot be
	// put right.
	needed func(context.Context) (bool, error)
	apply  func(context.Context) error
}

// Setup makes Vault ready for the daemon, or shows with Apply false what it
// would do: KV v2 and Transit mounted, the Transit key made, the policy written
// and, when that is how the daemon logs in, AppRole enabled and the role made. How
// to log in otherwise is the operator's to arrange: with the policy that is written
// here, and without Vault's default one. It repeats nothing that is right already, and
// never changes what somebody else made otherwise: a mount of another kind, or a
// Transit key that does not bind, is an error. On an error the steps so far are
// in the result.
func (o *Operator) Setup(ctx context.Context, c SetupConfig) (SetupResult, error) {
	defaultTo(&c.Role, policyName)
	if err := checkPath("role", c.Role); err != nil || strings.Contains(c.Role, "/") {
		return SetupResult{}, errors.Join(err, fmt.Errorf("vault role %q: is one name", c.Role))
	}
	if c.Wrap != 0 && c.Wrap < time.Second {
		return SetupResult{}, errors.New("vault setup: a wrapping token must live for at least a second")
	}
	var result SetupResult
	for _, s := range o.steps(c.Role) {
		needed, err := s.needed(ctx)
		if err == nil && needed && c.Apply {
			err = s.apply(ctx)
		}
		result.Steps = append(result.Steps, Step{What: s.what, Needed: needed, Done: err == nil && (!needed || c.Apply)})
		if err != nil {
			return result, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	if o.config.Auth.Method != methodAppRole {
		return result, nil
	}
	err := o.identify(ctx, c, &result)
	return result, err
}

func (o *Operator) steps(role string) []step {
	key := o.paths.TransitMount + "/keys/" + o.paths.TransitKey
	steps := []step{
		o.mountStep("KV version 2 at "+o.paths.KVMount, "sys/mounts", o.paths.KVMount, "kv", map[string]string{"version": "2"}),
		o.mountStep("Transit at "+o.paths.TransitMount, "sys/mounts", o.paths.TransitMount, "transit", nil),
		{"Transit key " + key, o.needsKey(key), o.write(key, map[string]any{"type": keyType, "derived": true, "exportable": false})},
		{"policy " + policyName, o.needsPolicy, o.write("sys/policies/acl/"+policyName, map[string]any{"policy": o.paths.hcl()})},
	}
	if o.config.Auth.Method != methodAppRole {
		return steps
	}
	return append(steps,
		o.mountStep("AppRole at auth/"+o.config.Auth.Mount, "sys/auth", o.config.Auth.Mount, "approle", nil),
		step{"role " + role, o.needsRole(o.rolePath(role)), o.write(o.rolePath(role), roleFields)},
	)
}

func (o *Operator) rolePath(role string) string {
	return "auth/" + o.config.Auth.Mount + "/role/" + role
}

func (o *Operator) write(path string, fields map[string]any) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := o.put(ctx, path, fields)
		return err
	}
}

// mount is what sys/mounts and sys/auth say of one.
type mount struct {
	Type    string            `json:"type"`
	Options map[string]string `json:"options"`
}

// mountStep mounts kind at path; table is "sys/mounts" or "sys/auth".
func (o *Operator) mountStep(what, table, path, kind string, options map[string]string) step {
	needed := func(ctx context.Context) (bool, error) {
		a, _, err := o.get(ctx, table)
		if err != nil {
			return false, err
		}
		var mounts map[string]mount
		if err := a.data(&mounts); err != nil {
			return false, fmt.Errorf("read %q: %w", table, err)
		}
		there, ok := mounts[path+"/"]
		if !ok {
			return true, nil
		}
		if there.Type != kind || there.Options["version"] != options["version"] {
			return false, errors.New("something of another kind is mounted there")
		}
		return false, nil
	}
	return step{what, needed, o.write(table+"/"+path, map[string]any{"type": kind, "options": options})}
}

func (o *Operator) needsKey(path string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		a, ok, err := o.getUnmounted(ctx, path)
		if err != nil || !ok {
			return err == nil, err
		}
		var key transitKey
		if err := a.data(&key); err != nil {
			return false, fmt.Errorf("read %q: %w", path, err)
		}
		if why := key.fault(); why != "" {
			return false, fmt.Errorf("it %s: that cannot be changed, choose another transit_key", why)
		}
		return false, nil
	}
}

// getUnmounted is get for a path whose mount a step before makes: without Apply
// it may not be there, and Vault says 404 (400 for some kinds).
func (o *Operator) getUnmounted(ctx context.Context, path string) (answer, bool, error) {
	a, ok, err := o.get(ctx, path)
	if err != nil && a.says("no handler for route") {
		return a, false, nil
	}
	return a, ok, err
}

func (o *Operator) needsPolicy(ctx context.Context) (bool, error) {
	a, ok, err := o.get(ctx, "sys/policies/acl/"+policyName)
	if err != nil || !ok {
		return err == nil, err
	}
	var there struct {
		Policy string `json:"policy"`
	}
	if err := a.data(&there); err != nil {
		return false, fmt.Errorf("read the policy: %w", err)
	}
	return there.Policy != o.paths.hcl(), nil
}

// roleFields is the role. Without a life of the secret id: what ends it is the
// operator, who replaces the file.
var roleFields = map[string]any{
	"token_policies":          []string{policyName},
	"token_no_default_policy": true,
	"token_type":              "service", // a batch token can be neither renewed nor revoked
	"token_ttl":               tokenTTL,
	"token_max_ttl":           tokenMaxTTL,
	"token_num_uses":          0,
	"bind_secret_id":          true,
	"secret_id_num_uses":      0,
}

func (o *Operator) needsRole(path string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		a, ok, err := o.getUnmounted(ctx, path)
		if err != nil || !ok {
			return err == nil, err
		}
		var there struct {
			Policies  []string `json:"token_policies"`
			NoDefault bool     `json:"token_no_default_policy"`
			Type      string   `json:"token_type"`
			TTL       int      `json:"token_ttl"`
			MaxTTL    int      `json:"token_max_ttl"`
			Uses      int      `json:"token_num_uses"`
			Bind      bool     `json:"bind_secret_id"`
			IDUses    int      `json:"secret_id_num_uses"`
		}
		if err := a.data(&there); err != nil {
			return false, fmt.Errorf("read %q: %w", path, err)
		}
		policies := len(there.Policies) == 1 && there.Policies[0] == policyName
		lives := there.TTL == tokenTTL && there.MaxTTL == tokenMaxTTL && there.Uses == 0 && there.IDUses == 0
		return !policies || !there.NoDefault || there.Type != "service" || !lives || !there.Bind, nil
	}
}

// identify fills in role id and, with Apply, a new secret id.
func (o *Operator) identify(ctx context.Context, c SetupConfig, result *SetupResult) error {
	path := o.rolePath(c.Role)
	a, ok, err := o.getUnmounted(ctx, path+"/role-id")
	if err != nil || !ok {
		return err
	}
	var role struct {
		RoleID string `json:"role_id"`
	}
	if err := a.data(&role); err != nil {
		return fmt.Errorf("read the role id: %w", err)
	}
	result.RoleID = role.RoleID
	if !c.Apply {
		return nil
	}
	if c.Wrap > 0 {
		result.SecretID, result.WrapTTL, err = o.putWrapped(ctx, path+"/secret-id", map[string]any{}, c.Wrap)
	} else {
		result.SecretID, err = o.newSecretID(ctx, path+"/secret-id")
	}
	return err
}

func (o *Operator) newSecretID(ctx context.Context, path string) (secret.Text, error) {
	a, err := o.put(ctx, path, map[string]any{})
	if err != nil {
		return secret.Text{}, err
	}
	defer a.forget()
	made, _ := a.secrets("data")
	secretID, ok := textOf(made["secret_id"])
	if !ok || secretID.IsZero() {
		return secret.Text{}, fmt.Errorf("make a secret id: %w", ErrMalformed)
	}
	return secretID, nil
}
