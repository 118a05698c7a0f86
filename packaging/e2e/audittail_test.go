package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestAuditTail follows the log of the real daemon over a restart, as JSON, and ends
// well on Ctrl-C.
func TestAuditTail(t *testing.T) {
	w := newWorld(t, options{})
	cmd := exec.Command(binary, "--config", w.config, "audit", "tail", "--json", "--lines", "1")
	cmd.Env = []string{"HOME=" + w.dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	await := func(what string, is func(l map[string]any) bool) {
		t.Helper()
		for lines.Scan() {
			var l map[string]any
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			if is(l) {
				return
			}
		}
		t.Fatalf("no line tells of %s", what)
	}
	stored := func(l map[string]any) bool {
		return l["kind"] == "outcome" && l["route"] == "POST "+tokens && l["status"] == 200.0
	}
	await("the last line of before", func(map[string]any) bool { return true })
	s := w.connected()
	await("an exchange", stored)
	w.again()
	w.awaitReady()
	await("the start", func(l map[string]any) bool { return l["kind"] == "note" && l["outcome"] == "started" })
	w.connected()
	await("an exchange of the new daemon", stored)
	must(t, cmd.Process.Signal(syscall.SIGINT))
	for lines.Scan() {
		if strings.Contains(lines.Text(), s.humanID) {
			t.Error("a humanId stands in a line")
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
}
