package vault

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// TestSetupWrapped sets an empty Vault up with a wrapped secret id, and then does
// with it all that the daemon does.
func TestSetupWrapped(t *testing.T) {
	t.Parallel()
	server := vaulttest.StartStorage(t)
	config := Config{Address: server.Addr, UnsafePlainHTTP: true}
	o := newOperator(t, config, server.RootToken)
	for _, bad := range []time.Duration{-time.Second, time.Millisecond} {
		if _, err := o.Setup(t.Context(), SetupConfig{Wrap: bad, Apply: true}); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	plan, err := o.Setup(t.Context(), SetupConfig{Wrap: time.Minute})
	if err != nil || !plan.SecretID.IsZero() || plan.WrapTTL != 0 {
		t.Fatalf("a plan has made something: %v", err)
	}
	done, err := o.Setup(t.Context(), SetupConfig{Wrap: 90 * time.Second, Apply: true})
	if err != nil || done.WrapTTL != 90*time.Second {
		t.Fatalf("%v, %v", done.WrapTTL, err)
	}
	if _, err := o.PutSecret(t.Context(), app, text(markerSecret)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config.Auth = AuthConfig{RoleIDFile: filepath.Join(dir, "role-id"), SecretIDFile: filepath.Join(dir, "secret-id"), Wrapped: true}
	writeFile(t, config.Auth.RoleIDFile, done.RoleID)
	writeFile(t, config.Auth.SecretIDFile, string(done.SecretID.Reveal()))
	(&place{config: config, paths: Paths{}.withDefaults(), server: server, name: "tokenvault"}).everyday(t)
	if server.Unwraps(string(done.SecretID.Reveal())) {
		t.Error("the wrapping token was not used")
	}
}

// TestSetupOtherMethods: a daemon that does not log in with AppRole gets no role
// and no secret id, which would be a second way in.
func TestSetupOtherMethods(t *testing.T) {
	t.Parallel()
	server := vaulttest.StartStorage(t)
	config := Config{Address: server.Addr, UnsafePlainHTTP: true, Auth: AuthConfig{Method: "jwt", Role: "marker", JWTFile: "/nonexistent"}}
	done, err := newOperator(t, config, server.RootToken).Setup(t.Context(), SetupConfig{Apply: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Steps) != 4 || done.RoleID != "" || !done.SecretID.IsZero() {
		t.Errorf("%+v", done.Steps)
	}
	if auth := server.Must("GET", "sys/auth", nil); len(auth) != 1 {
		t.Errorf("%d auth methods are enabled, want token only", len(auth))
	}
}
