package vault

import (
	"fmt"
	"strings"
)

// Paths is what is where in Vault. The zero value is the defaults of the
// configuration file.
type Paths struct{ KVMount, AppsPath, StatePath, TransitMount, TransitKey string }

func (p Paths) withDefaults() Paths {
	defaultTo(&p.KVMount, "secret")
	defaultTo(&p.AppsPath, "tokenvault/apps")
	defaultTo(&p.StatePath, "tokenvault/state")
	defaultTo(&p.TransitMount, "transit")
	defaultTo(&p.TransitKey, "tokenvault")
	return p
}

func (p Paths) check() error {
	for _, f := range []struct{ what, path string }{
		{"kv_mount", p.KVMount}, {"apps_path", p.AppsPath}, {"state_path", p.StatePath},
		{"transit_mount", p.TransitMount}, {"transit_key", p.TransitKey},
	} {
		if err := checkPath(f.what, f.path); err != nil {
			return err
		}
	}
	if strings.Contains(p.TransitKey, "/") {
		return fmt.Errorf("vault transit_key %q: is one name, without '/'", p.TransitKey)
	}
	return nil
}

// right is one line of the policy.
type right struct {
	path         string
	capabilities []string
}

// rights is all that the daemon may do in Vault, and all that it needs.
func (p Paths) rights() []right {
	transit := func(op string) string { return p.TransitMount + "/" + op + "/" + p.TransitKey }
	return []right{
		{p.KVMount + "/data/" + p.AppsPath + "/*", []string{"read"}},
		{p.KVMount + "/metadata/" + p.AppsPath + "/*", []string{"read"}},
		{p.KVMount + "/data/" + p.StatePath + "/*", []string{"create", "read", "update"}},
		{transit("encrypt"), []string{"update"}},
		{transit("decrypt"), []string{"update"}},
		{transit("rewrap"), []string{"update"}},
		{transit("keys"), []string{"read"}},
		{"auth/token/renew-self", []string{"update"}},
		{"auth/token/revoke-self", []string{"update"}},
		{"sys/capabilities-self", []string{"update"}},
		{"auth/token/lookup-self", []string{"read"}},
	}
}

// Policy returns the daemon's policy as "hcl" (what Vault takes), "sh" (a
// command for Vault's own CLI) or "terraform" (a resource). The role that
// carries it must be made with token_no_default_policy=true: Vault's default
// policy grants more than this.
func Policy(p Paths, format string) (string, error) {
	p = p.withDefaults()
	if err := p.check(); err != nil {
		return "", err
	}
	var text string
	switch format {
	case "hcl":
		text = p.hcl()
	case "sh":
		text = "vault policy write " + policyName + " - <<'POLICY'\n" + p.hcl() + "POLICY\n"
	case "terraform":
		text = "resource \"vault_policy\" \"" + policyName + "\" {\n  name   = \"" + policyName + "\"\n" +
			"  policy = <<-POLICY\n" + indent(p.hcl(), "    ") + "  POLICY\n}\n"
	default:
		return "", fmt.Errorf("there is no policy format %q, only hcl, sh and terraform", format)
	}
	return "# Its role must have token_no_default_policy=true: Vault's default policy grants more.\n" + text, nil
}

// policyName is the name of the daemon's policy in Vault.
const policyName = "tokenvault"

func (p Paths) hcl() string {
	var b strings.Builder
	for _, r := range p.rights() {
		fmt.Fprintf(&b, "path %q {\n  capabilities = [\"%s\"]\n}\n", r.path, strings.Join(r.capabilities, `", "`))
	}
	return b.String()
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+by) + "\n"
}
