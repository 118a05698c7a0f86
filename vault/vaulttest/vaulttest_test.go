package vaulttest

import (
	"net/http"
	"os"
	"syscall"
	"testing"
)

// TestLeavesNothing: a test's server is gone when the test is, and so are its
// files.
func TestLeavesNothing(t *testing.T) {
	var dir string
	var pid int
	t.Run("server", func(t *testing.T) {
		s := StartStorage(t)
		s.Must(http.MethodPost, "sys/mounts/kept", map[string]string{"type": "kv"})
		s.Restart()
		if _, ok := s.Must(http.MethodGet, "sys/mounts", nil)["kept/"]; !ok {
			t.Error("a restart forgets")
		}
		dir, pid = s.dir, s.process.pid
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("files are left")
	}
	if syscall.Kill(pid, 0) == nil {
		t.Error("the process is left")
	}
}
