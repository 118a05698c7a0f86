package server_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

const (
	floodIdlers  = 4    // users with idle connections
	floodIdle    = 2000 // of them in all: half never sent anything, half were answered once
	floodCallers = 64   // users that ask without a pause, over their rule's rate
	floodFirst   = 3000 // the first of their uids
	floodRSS     = 60 << 20
	floodAsks    = 1500 // lookups of the well-behaved caller, quiet and in the flood
)

// floodRole plays one of the crowd when TestMain is told so: "idle N SOCKET" or
// "ask SOCKET", and writes a line when it is at work.
func floodRole(role string) int {
	f := strings.Fields(role)
	if f[0] == "idle" {
		return floodIdler(f)
	}
	conn, err := net.Dial("unix", f[1])
	if err != nil {
		return 3
	}
	in := bufio.NewReader(conn)
	fmt.Println("ready")
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }()
	for {
		_, _ = io.WriteString(conn, request("GET", "/v1/users/x", ""))
		if _, err := floodAnswer(in); err != nil {
			return 4
		}
	}
}

func floodIdler(f []string) int {
	n, _ := strconv.Atoi(f[1])
	kept := 0
	for i := range n {
		conn, err := net.Dial("unix", f[2])
		if err != nil {
			return 3
		}
		if i%2 == 0 {
			_, _ = io.WriteString(conn, request("GET", "/v1/health", ""))
			if status, err := floodAnswer(bufio.NewReader(conn)); err != nil || status != 200 {
				return 4
			}
		}
		floodKept = append(floodKept, conn)
		kept++
	}
	fmt.Println("ready", kept)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

var floodKept []net.Conn // so that no finalizer closes them

func floodAnswer(in *bufio.Reader) (status int, err error) {
	length := 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		switch {
		case first:
			status, _ = strconv.Atoi(string(line[9:12]))
		case bytes.HasPrefix(line, []byte("Content-Length: ")):
			length, _ = strconv.Atoi(strings.TrimSpace(string(line[16:])))
		case len(line) == 2:
			_, err := in.Discard(length)
			return status, err
		}
	}
}

// floodServer is this test again, in a process of its own, whose memory is the
// server's.
func floodServer(t *testing.T) {
	rules := []policy.Rule{{Name: "good", Users: []uint32{0}, Apps: []policy.App{clienttest.DefaultApp}, Grants: []api.Grant{api.GrantLookup}}}
	var crowd []uint32
	for i := range uint32(floodIdlers + floodCallers) {
		crowd = append(crowd, floodFirst+i)
	}
	rules = append(rules, policy.Rule{Name: "crowd", Users: crowd, Apps: []policy.App{clienttest.DefaultApp}, Grants: []api.Grant{api.GrantLookup}, PerSecond: 1, Burst: 1})
	s := clienttest.Start(t, clienttest.Config{
		Rules: rules, Limits: server.Limits{Connections: 2304, HeaderTimeout: time.Minute}, // room for all of them, and for as long as it takes
	})
	for _, dir := range []string{s.Dir, filepath.Dir(s.Dir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("serving", s.Public, s.Private)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// crew starts processes and ends them with the test.
type crew struct {
	t      *testing.T
	binary string
}

func (c crew) start(cmd *exec.Cmd) (pid int, first []string, stop func()) {
	c.t.Helper()
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	stop = func() { _ = in.Close(); _, _ = io.Copy(io.Discard, out); _ = cmd.Wait() }
	c.t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.t.Fatalf("a process of the crowd does not start: %v", err)
	}
	return cmd.Process.Pid, strings.Fields(line), stop
}

func (c crew) play(uid uint32, role string) {
	c.t.Helper()
	cmd := exec.Command(c.binary)
	cmd.Dir, cmd.Env = "/", []string{"SERVER_TEST_ROLE=" + role, "GOMAXPROCS=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	c.start(cmd)
}

// behave is what a well-behaved caller sees: the 99th percentile of its lookups.
func behave(t *testing.T, socket string) time.Duration {
	t.Helper()
	conn := dial(t, socket)
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	took := make([]time.Duration, floodAsks)
	for i := range took {
		start := time.Now()
		_, _ = io.WriteString(conn, request("GET", "/v1/users/x", ""))
		status, err := floodAnswer(in)
		if err != nil || status != 404 {
			t.Fatalf("the well-behaved caller gets %d, %v", status, err)
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// rss is resident memory of a process now, and at most so far (proc_pid_status(5)).
func rss(t *testing.T, pid int) (now, most int) {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch f[0] {
		case "VmRSS:":
			now, _ = strconv.Atoi(f[1])
		case "VmHWM:":
			most, _ = strconv.Atoi(f[1])
		}
	}
	return now << 10, most << 10
}

// raced: the race detector takes several times the memory.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// TestFloodOfProcesses: 2,000 idle connections and 64 callers over their limit.
// The figures are of one machine with everything on it,
// the crowd too, so the better of a few attempts counts for the time.
func TestFloodOfProcesses(t *testing.T) {
	if os.Getenv("SERVER_TEST_FLOODED") != "" {
		floodServer(t)
		return
	}
	c := crew{t, callerBinary(t)}
	cmd := exec.Command(c.binary, "-test.run=^TestFloodOfProcesses$")
	cmd.Env = append(os.Environ(), "SERVER_TEST_FLOODED=1")
	pid, sockets, _ := c.start(cmd)
	public, private := sockets[1], sockets[2]
	quiet := behave(t, public)
	before, _ := rss(t, pid)
	for i := range uint32(floodIdlers) {
		c.play(floodFirst+i, fmt.Sprintf("idle %d %s", floodIdle/floodIdlers, []string{public, private}[i%2]))
	}
	idle, _ := rss(t, pid)
	callers := uint32(floodCallers)
	if raced() {
		callers = 8 // each takes a second to start
	}
	for i := range callers {
		c.play(floodFirst+floodIdlers+i, "ask "+public)
	}
	best := 0.0
	for attempt := range 5 {
		p99 := behave(t, public)
		ratio := p99.Seconds() / quiet.Seconds()
		now, most := rss(t, pid)
		t.Logf("p99 %v quiet, %v in the flood (%.2f times); memory %d kB at first, %d kB with the idle, %d kB now, %d kB at most", quiet, p99, ratio, before>>10, idle>>10, now>>10, most>>10)
		if most > floodRSS && !raced() {
			t.Fatalf("%d bytes of memory, at most %d", most, floodRSS)
		}
		if best = ratio; attempt > 0 && ratio <= 2 {
			return
		}
	}
	t.Errorf("the well-behaved caller waits %.2f times as long", best)
}
