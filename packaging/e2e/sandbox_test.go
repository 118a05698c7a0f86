package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
)

// TestSandboxIsOn: all that this kernel has is on in the daemon that every test here
// runs, in all of its threads, and the status says so.
func TestSandboxIsOn(t *testing.T) {
	w := newWorld(t, options{settings: "[sandbox]\nmode = \"require\"\n"})
	w.exchangeRow(w.finishEvent("human-1", "alice"), "stored")
	var s api.Status
	must(t, json.Unmarshal([]byte(w.cli("", "status", "--json").stdout), &s))
	for _, p := range s.Sandbox {
		t.Logf("figure: sandbox: %s: %v %s", p.Name, p.On, p.Why)
		if !p.On {
			t.Errorf("%s is not on: %s", p.Name, p.Why)
		}
	}
	if len(s.Sandbox) < 6 {
		t.Errorf("only %d parts", len(s.Sandbox))
	}
	t.Logf("figure: key memory: %+v", s.Keys)
	if !s.Keys.Locked || !s.Keys.Hidden || s.Keys.Spilled != 0 {
		t.Errorf("keys are not where they should be: %+v", s.Keys)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", w.daemon.cmd.Process.Pid))
	must(t, err)
	for _, thread := range threads {
		b, err := os.ReadFile(thread)
		if os.IsNotExist(err) {
			continue // it has ended
		}
		must(t, err)
		for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(string(b), want+"\n") {
				t.Errorf("a thread has no %q", want)
			}
		}
	}
	t.Logf("figure: %d threads under seccomp", len(threads))
	if len(threads) == 0 {
		t.Error("no thread was looked at")
	}
}

// TestTransitKeyDeleted: the key that every restart needs is missed while everything
// still works.
func TestTransitKeyDeleted(t *testing.T) {
	w := newWorld(t, options{})
	w.vault.Must("POST", transitKey+"/config", map[string]any{"deletion_allowed": true})
	w.vault.Must("DELETE", transitKey, nil)
	w.await("health to say that the Transit key is gone", func() bool {
		return strings.Contains(w.healthText(), "wraps the store's keys is gone")
	})
	w.exchangeRow(w.finishEvent("human-1", "alice"), "stored")
}
