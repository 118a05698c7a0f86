package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	floodRole   = "TOKENVAULT_E2E_FLOOD" // makes this test binary one of the crowd
	floodFirst  = 65000                  // the first of the crowd's uids
	floodAskers = 64
	floodAsks   = 2000 // lookups of the well-behaved caller in a round
	floodRounds = 12
	floodMemory = 60 << 20
)

// floodIdle are 2,000 idle connections that the default limits have room for
// together with the callers: of 2048 connections a sixteenth is for callers without a
// rule, and the admin socket's are apart.
var floodIdle = []struct {
	listener  string
	uids, own int
	stranger  bool
}{
	{"public", 2, 460, false}, {"private", 2, 460, false}, {"public", 8, 16, true}, {"admin", 1, 32, false},
}

// floodKept keeps finalizers from closing them.
var floodKept []net.Conn

// init plays one of the crowd, when it is told to: "idle N SOCKET" or "ask 1 SOCKET".
// It writes a line when it is at work, and ends with its standard input.
func init() {
	f := strings.Fields(os.Getenv(floodRole))
	if len(f) != 3 {
		return
	}
	n, _ := strconv.Atoi(f[1])
	var in *bufio.Reader
	for range n {
		conn, err := net.Dial("unix", f[2])
		if err != nil {
			os.Exit(3)
		}
		in = bufio.NewReaderSize(conn, 2048)
		if status, err := floodAsk(conn, in, "/v1/health"); err != nil || status != 200 {
			os.Exit(4)
		}
		floodKept = append(floodKept, conn)
	}
	fmt.Println("ready")
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }()
	for f[0] == "ask" {
		if _, err := floodAsk(floodKept[0], in, "/v1/users/nobody?clientId="+shop); err != nil {
			os.Exit(5)
		}
	}
	select {}
}

// floodAsk sends a request that costs its sender little, and reads the answer.
func floodAsk(conn net.Conn, in *bufio.Reader, path string) (status int, err error) {
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return 0, err
	}
	length := 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		switch {
		case first && len(line) > 12:
			status, _ = strconv.Atoi(string(line[9:12]))
		case bytes.HasPrefix(line, []byte("Content-Length: ")):
			length, _ = strconv.Atoi(strings.TrimSpace(string(line[16:])))
		case len(line) == 2:
			_, err := in.Discard(length)
			return status, err
		}
	}
}

// flood starts processes of this binary, and ends them with the test.
type flood struct {
	w      *world
	binary string
	uid    uint32
	askers []*os.Process
}

// signal stops those who ask, or lets them go on.
func (c *flood) signal(s os.Signal) {
	c.w.t.Helper()
	for _, p := range c.askers {
		must(c.w.t, p.Signal(s))
	}
}

func newFlood(t *testing.T, w *world) *flood {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	text, err := os.ReadFile(self)
	must(t, err)
	c := &flood{w: w, binary: filepath.Join(binaries, "crowd"), uid: floodFirst}
	must(t, os.WriteFile(c.binary, text, 0o755)) // where other users can run it
	return c
}

// play starts one process under a uid of its own.
func (c *flood) play(role string, n int, listener string) {
	c.w.t.Helper()
	cmd := exec.Command(c.binary)
	cmd.Dir, cmd.Env = "/", []string{fmt.Sprintf("%s=%s %d %s", floodRole, role, n, c.w.socket(listener)), "GOMAXPROCS=1"}
	cmd.SysProcAttr = asUser(c.uid, publicGID, privateGID, adminGID)
	c.uid++
	in, err := cmd.StdinPipe()
	must(c.w.t, err)
	out, err := cmd.StdoutPipe()
	must(c.w.t, err)
	must(c.w.t, cmd.Start())
	if role == "ask" {
		c.askers = append(c.askers, cmd.Process)
	}
	c.w.t.Cleanup(func() { _ = in.Close(); _, _ = io.Copy(io.Discard, out); _ = cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		c.w.t.Fatalf("one of the crowd (%s %d) does not start: %v", role, n, err)
	}
}

// behave is a well-behaved caller's 99th percentile.
func behave(t *testing.T, w *world, path string) time.Duration {
	t.Helper()
	conn, err := net.Dial("unix", w.socket("public"))
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	in := bufio.NewReader(conn)
	took := make([]time.Duration, floodAsks)
	for i := range took {
		start := time.Now()
		status, err := floodAsk(conn, in, path)
		if took[i] = time.Since(start); err != nil || status != 200 {
			t.Fatalf("the well-behaved caller gets %d, %v", status, err)
		}
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// resident is what the daemon has in memory, and had at most, in bytes (proc_pid_status(5)).
func (w *world) resident() (now, most int) {
	w.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.daemon.cmd.Process.Pid))
	must(w.t, err)
	for line := range strings.Lines(string(text)) {
		switch f := strings.Fields(line); f[0] {
		case "VmRSS:":
			now, _ = strconv.Atoi(f[1])
		case "VmHWM:":
			most, _ = strconv.Atoi(f[1])
		}
	}
	return now << 10, most << 10
}

// held is how many connections the daemon has on the sockets of its listeners, each
// a line of /proc/net/unix (unix(7)) in state connected.
func (w *world) held() (n int) {
	w.t.Helper()
	text, err := os.ReadFile("/proc/net/unix")
	must(w.t, err)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 8 && f[5] == "03" && strings.HasPrefix(f[7], w.path("run/")) {
			n++
		}
	}
	return n
}

func floodRules() string {
	var named, askers []string
	uid := floodFirst
	for _, i := range floodIdle {
		for range i.uids {
			if !i.stranger && i.listener != "admin" {
				named = append(named, strconv.Itoa(uid))
			}
			uid++
		}
	}
	for range floodAskers {
		askers = append(askers, strconv.Itoa(uid))
		uid++
	}
	admin := floodFirst + 12
	return defaultRules + fmt.Sprintf(`
[[rule]]
name = "idle"
users = [%s]
apps = ["shop"]
grants = ["lookup"]
[[rule]]
name = "askers"
users = [%s]
apps = ["shop"]
grants = ["lookup"]
rate = { per_second = 1, burst = 1 }
[[rule]]
name = "idle-admin"
users = [%d]
grants = ["admin-read"]
`, strings.Join(named, ","), strings.Join(askers, ","), admin)
}

// TestFlood: with the default limits, 2,000 idle connections and 64 callers over
// their limit leave a well-behaved caller's p99 at most twice what it is on a quiet
// daemon, and the daemon under 60 MB. Everybody shares one machine, so the best of
// some rounds of each counts for the time.
func TestFlood(t *testing.T) {
	w := newWorld(t, options{rules: floodRules(), settings: "[sandbox]\nmode = \"require\""})
	human := w.sim.NewHumanID()
	w.web("public").do("POST", tokens, w.finishEvent(human, "f@example.test").json(), "-H", jsonType).want(t, 200, "")
	path := "/v1/users/" + human + "?clientId=" + shop
	round := func() (all []time.Duration) {
		for range floodRounds {
			all = append(all, behave(t, w, path).Round(time.Microsecond))
		}
		return all
	}
	quiet := round()
	before, _ := w.resident()
	c := newFlood(t, w)
	idle := 0
	for _, i := range floodIdle {
		for range i.uids {
			c.play("idle", i.own, i.listener)
			idle += i.own
		}
	}
	if idle != 2000 || w.held() < idle {
		t.Fatalf("%d idle connections, the daemon has %d", idle, w.held())
	}
	idleMemory, _ := w.resident()
	withIdle := round()
	for range floodAskers {
		c.play("ask", 1, "public")
	}
	flooded := round()
	for more := 0; more < 3 && slices.Min(flooded) > 2*slices.Min(quiet); more++ { // somebody else had the machine: as many of both again
		c.signal(syscall.SIGSTOP)
		quiet = append(quiet, round()...)
		c.signal(syscall.SIGCONT)
		flooded = append(flooded, round()...)
	}
	held := w.held()
	now, most := w.resident()
	ratio := slices.Min(flooded).Seconds() / slices.Min(quiet).Seconds()
	slices.Sort(quiet)
	slices.Sort(flooded)
	t.Logf("figure: flood, default limits: p99 of rounds quiet %v, with %d idle connections %v, with %d callers over their limit too %v: the best of each %.2f times, the medians %.2f times; %d connections held; resident %.1f MB before, %.1f MB with the idle, %.1f MB in the flood, %.1f MB at most",
		quiet, idle, withIdle, floodAskers, flooded, ratio, flooded[len(flooded)/2].Seconds()/quiet[len(quiet)/2].Seconds(), held, mb(before), mb(idleMemory), mb(now), mb(most))
	if held < idle+floodAskers {
		t.Errorf("%d connections are left of %d", held, idle+floodAskers)
	}
	if ratio > 2 {
		t.Errorf("the well-behaved caller waits %.2f times as long", ratio)
	}
	if most >= floodMemory {
		t.Errorf("%d bytes of memory", most)
	}
}

func mb(n int) float64 { return float64(n) / (1 << 20) }
