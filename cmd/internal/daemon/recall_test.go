package daemon

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/restart"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// manager keeps one descriptor over restarts, as systemd does.
type manager struct{ kept *os.File }

func (m *manager) keep(_ string, f *os.File) (err error) {
	m.kept, err = again(f)
	return err
}

func again(f *os.File) (*os.File, error) {
	fd, err := syscall.Dup(int(f.Fd()))
	return os.NewFile(uintptr(fd), restart.Name), err
}

// lend has a daemon keep its memory with m, and start from what is there.
func (m *manager) lend(t *testing.T) func(*Config) {
	return func(c *Config) {
		c.Keep, c.Drop = m.keep, func(string) error { return nil }
		if m.kept == nil {
			return
		}
		var err error
		if c.Memory, err = again(m.kept); err != nil {
			t.Fatal(err)
		}
	}
}

// holds is what a next life would find.
func (m *manager) holds(t *testing.T) restart.Contents {
	t.Helper()
	f, err := again(m.kept)
	if err != nil {
		t.Fatal(err)
	}
	a, err := restart.Open(restart.Config{Instance: "test", Mode: restart.UnsafeMemfd, Inherited: f})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	c, _ := a.Load()
	t.Cleanup(c.Wipe)
	return c
}

// newRemembered is a world in which one daemon served and ended, and left what a
// restart needs. Its rights may be narrowed after that.
func newRemembered(t *testing.T) (*world, *manager) {
	t.Helper()
	w, m := newWorld(t, vaulttest.StartStorage(t)), &manager{}
	w.edit("[store]", "[sandbox]\nrestart_memory = \"unsafe-memfd\"\n[store]")
	r := w.start(m.lend(t))
	r.await("READY=1")
	r.await("client secret read")
	if err := r.finish(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.kept.Close() })
	if c := m.holds(t); len(c.Keys.Keys) == 0 || len(c.Secrets) == 0 {
		t.Fatalf("%d keys and %d secrets are remembered", len(c.Keys.Keys), len(c.Secrets))
	}
	return w, m
}

// withoutDecrypt takes the daemon's right to unwrap keys away.
func (w *world) withoutDecrypt() {
	w.t.Helper()
	const path = "sys/policies/acl/tokenvault"
	policy, _ := w.vault.Must("GET", path, nil)["policy"].(string)
	if !strings.Contains(policy, "transit/decrypt/") {
		w.t.Fatalf("the policy is %q", policy)
	}
	w.vault.Must("PUT", path, map[string]string{"policy": strings.Replace(policy, "transit/decrypt/", "transit/nothing/", 1)})
}

// What Vault refuses at a start, a later start does not take from memory while
// Vault is away.
func TestDeniedAtStartIsForgotten(t *testing.T) {
	w, m := newRemembered(t)
	w.withoutDecrypt()
	r := w.start(m.lend(t))
	r.await("unwrap the keys: vault denies it")
	if err := r.finish(); err != nil {
		t.Error(err)
	}
	if c := m.holds(t); len(c.Keys.Keys) != 0 || len(c.Secrets) != 0 {
		t.Errorf("%d keys and %d secrets are still remembered", len(c.Keys.Keys), len(c.Secrets))
	}
}

// What was taken from memory stays nowhere but where max_stale and Vault's no wipe
// it, and a Vault that is back and does not confirm it is not asked every second.
func TestRecalled(t *testing.T) {
	w, m := newRemembered(t)
	w.withoutDecrypt()
	w.vault.Stop()
	r := w.start(m.lend(t))
	r.await("READY=1")
	r.mu.Lock()
	recalled := r.daemon.recalled
	r.mu.Unlock()
	for _, k := range recalled.Keys.Keys {
		if !k.Key.Equal(secret.New(make([]byte, k.Key.Len()))) {
			t.Errorf("a copy of the %s key is left", k.Class)
		}
	}
	w.vault.Restart()
	const refused = "vault has not confirmed"
	r.await(refused)
	time.Sleep(6 * time.Second)
	r.mu.Lock()
	asked := strings.Count(strings.Join(r.states, "\n"), refused)
	r.mu.Unlock()
	if asked > 3 {
		t.Errorf("within 6 s Vault was asked %d times", asked)
	}
}
