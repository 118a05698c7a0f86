package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// A credential that is not there yet is waited for, and everybody who asks hears
// it, only administrators its name.
func TestMissingCredential(t *testing.T) {
	for _, name := range []string{"role-id", "secret-id"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, vaulttest.Start(t))
			path := filepath.Join(w.dir, name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			r := w.start()
			r.await("STATUS=Not ready: log in at Vault: ")
			r.await(path + ": no such file")
			health, err := w.client("public").Health(t.Context())
			reasons := strings.Join(health.Reasons, " ")
			if err != nil || health.Ready || !strings.Contains(reasons, "credential") || strings.Contains(reasons, w.dir) {
				t.Errorf("health, which everybody may read: %+v, %v", health, err)
			}
			status, err := w.client("admin").AdminStatus(t.Context())
			if err != nil || !strings.Contains(strings.Join(status.Health.Reasons, " "), path) {
				t.Errorf("status: %+v, %v", status.Health, err)
			}
			for why, content := range map[string]struct {
				text string
				mode os.FileMode
			}{"is empty": {"", 0o600}, "is open to every user": {string(text), 0o644}} {
				w.write(name+".new", content.text)
				if err := errors.Join(os.Chmod(path+".new", content.mode), os.Rename(path+".new", path)); err != nil {
					t.Fatal(err)
				}
				r.await("STATUS=Not ready: log in at Vault: the daemon's credential cannot be used: log in to vault: read secret file " + path + ": " + why)
			}
			w.write(name+".new", string(text))
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
			r.await("READY=1")
			if err := r.finish(); err != nil {
				t.Error(err)
			}
		})
	}
}
