package vaulttest

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDiesWithTheTestBinary kills a test binary that runs a server.
func TestDiesWithTheTestBinary(t *testing.T) {
	const child = "VAULTTEST_CHILD_PID_FILE"
	if file := os.Getenv(child); file != "" {
		s := Start(t)
		must(t, os.WriteFile(file, []byte(strconv.Itoa(s.process.pid)), 0o600))
		<-t.Context().Done() // until it is killed
		return
	}
	file := t.TempDir() + "/pid"
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiesWithTheTestBinary$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), child+"="+file, "TMPDIR="+t.TempDir())
	must(t, cmd.Start())
	var pid int
	within(t, func() bool {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid != 0
	})
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	within(t, func() bool { return syscall.Kill(pid, 0) != nil })
}

func within(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(startTimeout); !done(); time.Sleep(pollEvery) {
		if time.Now().After(end) {
			t.Fatal("not in time")
		}
	}
}
