package server_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/peer"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

// leaveBehind is a process that connects, leaves the connection to a child and
// exits. The child waits for its stdin to end, asks for each path, and prints the
// answers.
func leaveBehind(role string) int {
	f := strings.Fields(role)
	if f[0] == "use" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		conn := os.NewFile(3, "connection")
		in := bufio.NewReader(conn)
		for _, path := range f[1:] {
			_, _ = io.WriteString(conn, request("GET", path, ""))
			status, err := floodAnswer(in)
			if err != nil {
				return 4
			}
			_ = json.NewEncoder(os.Stdout).Encode(status)
		}
		return 0
	}
	conn, err := net.Dial("unix", f[1])
	if err != nil {
		return 3
	}
	file, err := conn.(*net.UnixConn).File()
	if err != nil {
		return 3
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stdin, cmd.Stdout = []string{"SERVER_TEST_ROLE=use " + strings.Join(f[2:], " ")}, os.Stdin, os.Stdout
	cmd.ExtraFiles = []*os.File{file}
	if cmd.Start() != nil {
		return 5
	}
	return 0
}

// TestLeftBehind: once the process that connected has exited, its connection is
// good for what everybody of that user may have, and for nothing that only it may.
func TestLeftBehind(t *testing.T) {
	for name, reader := range map[string]peer.Reader{"peer pidfd": {}, "before 6.5": {WithoutPeerPIDFD: true}} {
		t.Run(name, func(t *testing.T) {
			binary := callerBinary(t)
			b := startBare(t, func(c *server.Config) {
				c.Peers = reader
				rule := policy.Rule{Name: "worker", Users: []uint32{33}, Contained: true, Apps: []policy.App{clienttest.DefaultApp}, Grants: []api.Grant{api.GrantLookup, api.GrantAccessToken}}
				p, err := policy.New(policy.Config{Rules: []policy.Rule{rule}, Apps: []policy.App{clienttest.DefaultApp}, Ceilings: clienttest.Ceilings()})
				if err != nil {
					t.Fatal(err)
				}
				c.Policy = p
			})
			b.open()
			reachable(t, b.socket)
			cmd := exec.Command(binary)
			cmd.Dir, cmd.Env = "/", []string{"SERVER_TEST_ROLE=leave " + b.socket + " /v1/users/h /v1/users/h/access-token /v1/users/h"}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 33, Gid: 33}}
			toChild, stdin, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, fromChild, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stdin, cmd.Stdout, cmd.Stderr = toChild, fromChild, os.Stderr
			if err := cmd.Run(); err != nil { // returns when the process that connected is reaped
				t.Fatal(err)
			}
			_, _, _ = toChild.Close(), fromChild.Close(), stdin.Close()
			var got []int
			for dec := json.NewDecoder(stdout); ; {
				var status int
				if dec.Decode(&status) != nil {
					break
				}
				got = append(got, status)
			}
			_ = stdout.Close()
			t.Logf("of a process that has exited: lookup %v, access-token, lookup again", got)
			if len(got) != 3 || got[0] != 200 || got[1] != 403 || got[2] != 200 {
				t.Errorf("got %v, want 200, 403, 200", got)
			}
		})
	}
}

// reachable lets every user connect to a socket in a directory of the test's.
func reachable(t *testing.T, socket string) {
	t.Helper()
	dir := filepath.Dir(socket) // t.TempDir, two levels of the test's own
	for name, mode := range map[string]os.FileMode{socket: 0o666, dir: 0o755, filepath.Dir(dir): 0o755} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
}
