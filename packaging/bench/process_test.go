package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// startChild starts a process, waits for the line with which it says that it is
// ready, and returns it with what it printed before. It ends with the benchmark.
func startChild(b *testing.B, cmd *exec.Cmd, ready string) (process, []string) {
	b.Helper()
	in, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	cmd.Stderr = os.Stderr
	must(b, cmd.Start())
	done := make(chan struct{})
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-done
		_ = cmd.Wait()
	})
	said := make(chan []string, 1)
	go func() {
		defer close(done)
		var all []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			all = append(all, lines.Text())
			if lines.Text() == ready {
				said <- all
			}
		}
		close(said)
	}()
	printed, ok := <-said
	if !ok {
		b.Fatalf("%s ended before it was ready", filepath.Base(cmd.Path))
	}
	return process{cmd.Process.Pid}, printed
}

// process is a child.
type process struct{ pid int }

// cpu is how long it has run on all cores, in user and kernel: what
// /proc/PID/stat counts, in ticks of 10 ms (proc(5)). 0 where there is none.
func (p process) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	kernel, _ := strconv.Atoi(fields[12])
	return time.Duration(user+kernel) * 10 * time.Millisecond
}

// product is a running "tokenvault dev".
type product struct {
	process
	dir, clientID   string
	public, private string // sockets
	simulator       string // address
}

// directApp is a second app of the simulator, for posting to it directly.
const directApp, directSecret = "client-id-of-the-benchmark", "marker-client-secret-of-the-benchmark"

// startProduct starts it; wrap is put before its command line.
func startProduct(b *testing.B, wrap ...string) product {
	b.Helper()
	args := append(wrap, binary(b), "dev")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Dir = []string{"PATH=/nonexistent"}, "/" // no vault on the PATH: keys from inside
	child, printed := startChild(b, cmd, "Serving until Ctrl-C.")
	p := product{process: child}
	for _, line := range printed {
		if dir, ok := strings.CutPrefix(line, "Everything is in "); ok {
			p.dir = dir
		}
	}
	p.configure(b)
	own := dial(b, "tcp", p.simulator)
	own.want(b, post("/sim/secrets", fmt.Sprintf(`{"clientId":%q,"clientSecret":%q}`, directApp, directSecret)), 204)
	return p
}

// configure reads the configuration that the product runs with.
func (p *product) configure(b *testing.B) {
	b.Helper()
	var c struct {
		App []struct {
			ClientID string `toml:"client_id"`
		} `toml:"app"`
		Listener []struct {
			Name string `toml:"name"`
			Path string `toml:"path"`
		} `toml:"listener"`
		HumanAPI struct {
			UserURL string `toml:"user_url"`
		} `toml:"humanapi"`
	}
	text, err := os.ReadFile(filepath.Join(p.dir, "tokenvault.toml"))
	must(b, err)
	must(b, toml.Unmarshal(text, &c))
	p.clientID, p.simulator = c.App[0].ClientID, strings.TrimPrefix(c.HumanAPI.UserURL, "http://")
	for _, l := range c.Listener {
		switch l.Name {
		case "public":
			p.public = l.Path
		case "private":
			p.private = l.Path
		}
	}
}
