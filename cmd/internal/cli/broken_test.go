package cli_test

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A failed sync of the store or of the audit log ends the daemon with exit 1,
// and the next start goes on with everything that was acknowledged.
func TestServeFailedSync(t *testing.T) {
	for _, file := range []string{"store.db", "audit.log"} {
		t.Run(file, func(t *testing.T) { failedSync(t, file) })
	}
}

func failedSync(t *testing.T, file string) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("this test fails a sync with strace, which is not installed")
	}
	s := newSite(t)
	s.prepare()
	m := newManager(s)
	cmd := s.command("serve")
	stop := s.daemon(cmd, m)
	m.await("READY=1")
	first := s.object("alice")
	s.run(0, first, "exchange")

	detach := s.failSyncs(cmd.Process.Pid, filepath.Join(s.dir, file))
	s.run(4, s.object("bob"), "exchange") // store_unavailable or audit_unavailable
	m.await("STOPPING=1")
	err := stop()
	detach()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("the daemon's end: %v", err)
	}

	s.daemon(s.command("serve"), m)
	m.await("READY=1")
	s.run(0, first, "exchange")
	s.run(0, "", "store", "check")
}

// object is the sessionTokenObject of a new user's finish event.
func (s *site) object(clientUserID string) string {
	human := s.sim.NewHumanID()
	return fmt.Sprintf(`{"humanId":%q,"clientId":"marker-client-id","sessionToken":%q}`, human,
		s.sim.NewSession("marker-client-id", human, clientUserID))
}

// failSyncs makes every further fdatasync of the file by the process fail.
func (s *site) failSyncs(pid int, file string) (detach func()) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "strace", "-f", "-p", fmt.Sprint(pid), "-o", "/dev/null", "-P", file,
		"-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO")
	words, err := cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("strace is needed to fail a sync (apt-get install strace): %v", err)
	}
	detach = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended with the daemon
		_ = cmd.Wait()
	}
	s.t.Cleanup(detach)
	lines := bufio.NewScanner(words)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "attached") {
			return detach
		}
	}
	s.t.Fatalf("strace does not attach: %v", lines.Err())
	return nil
}
