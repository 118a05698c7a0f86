package run

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// apps are run in a process of their own: this test binary, told by the
// environment which one to be.
var apps = map[string]App{
	"echo": func(_ context.Context, std IO, args []string) int {
		text, _ := io.ReadAll(std.Stdin)
		fmt.Fprintf(std.Stdout, "%s %q %s", text, args[1:], std.Env("RUN_TEST_MARK"))
		fmt.Fprint(std.Stderr, "to stderr")
		return 7
	},
	"wait": func(ctx context.Context, std IO, _ []string) int {
		fmt.Fprintln(std.Stdout, "ready")
		<-ctx.Done()
		fmt.Fprintln(std.Stdout, "stopping")
		return 3
	},
	"hang": func(ctx context.Context, std IO, _ []string) int {
		fmt.Fprintln(std.Stdout, "ready")
		<-ctx.Done()
		fmt.Fprintln(std.Stdout, "stopping")
		select {}
	},
	"reload": func(ctx context.Context, std IO, _ []string) int {
		events := std.Reload(ctx)
		fmt.Fprintln(std.Stdout, "ready")
		for {
			select {
			case <-events:
				fmt.Fprintln(std.Stdout, "reloaded")
			case <-ctx.Done():
				return 0
			}
		}
	},
}

func TestMain(m *testing.M) {
	if app, ok := apps[os.Getenv("RUN_TEST_APP")]; ok {
		Main(app)
	}
	m.Run()
}

type process struct {
	*exec.Cmd
	out *bufio.Reader
}

// begin starts an app, and ends it with the test.
func begin(t testing.TB, app string, args ...string) process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RUN_TEST_APP="+app, "RUN_TEST_MARK=marker")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return process{cmd, bufio.NewReader(out)}
}

func (p process) expect(t testing.TB, line string) {
	t.Helper()
	if got, err := p.out.ReadString('\n'); got != line+"\n" {
		t.Fatalf("got %q (%v), want %q", got, err, line)
	}
}

func (p process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// end waits for the process; killedBy is 0 when it ended by itself.
func (p process) end(t testing.TB) (status int, killedBy syscall.Signal) {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { _ = p.Process.Kill() })
	defer timer.Stop()
	_ = p.Wait()
	ws := p.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 0, ws.Signal()
	}
	return ws.ExitStatus(), 0
}

func TestStreamsAndStatus(t *testing.T) {
	cmd := exec.Command(os.Args[0], "a b", "c")
	cmd.Env = append(os.Environ(), "RUN_TEST_APP=echo", "RUN_TEST_MARK=marker")
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader("input"), &stderr
	out, _ := cmd.Output()
	if string(out) != `input ["a b" "c"] marker` || stderr.String() != "to stderr" || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("got %q, %q and status %d", out, stderr.String(), cmd.ProcessState.ExitCode())
	}
}

func TestFirstSignalStops(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := begin(t, "wait")
		p.expect(t, "ready")
		p.signal(t, s)
		p.expect(t, "stopping")
		if status, by := p.end(t); status != 3 || by != 0 {
			t.Errorf("%v: status %d, killed by %v", s, status, by)
		}
	}
}

func TestSecondSignalKills(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := begin(t, "hang")
		p.expect(t, "ready")
		p.signal(t, s)
		p.expect(t, "stopping")
		// The default action comes back a moment after the context has ended,
		// and there is no event for that.
		done := make(chan struct{})
		go func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(10 * time.Millisecond):
					_ = p.Process.Signal(s)
				}
			}
		}()
		if _, by := p.end(t); by != s {
			t.Errorf("%v: killed by %v", s, by)
		}
		close(done)
	}
}

func TestReload(t *testing.T) {
	p := begin(t, "reload")
	p.expect(t, "ready")
	for range 3 {
		p.signal(t, syscall.SIGHUP)
		p.expect(t, "reloaded")
	}
	p.signal(t, syscall.SIGTERM)
	if status, by := p.end(t); status != 0 || by != 0 {
		t.Errorf("status %d, killed by %v", status, by)
	}
}

// Who does not ask for reloads ends with its terminal.
func TestHangupEnds(t *testing.T) {
	p := begin(t, "wait")
	p.expect(t, "ready")
	p.signal(t, syscall.SIGHUP)
	if _, by := p.end(t); by != syscall.SIGHUP {
		t.Errorf("killed by %v", by)
	}
}
