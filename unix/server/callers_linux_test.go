package server_test

import (
	"bytes"
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
	"github.com/tokenvault/tokenvault/unix/policy"
)

// TestMain plays a caller when it is told sockets and paths: it asks for each
// and prints the answers, a JSON string each.
func TestMain(m *testing.M) {
	if role := os.Getenv("SERVER_TEST_ROLE"); role != "" {
		if kind, _, _ := strings.Cut(role, " "); kind == "leave" || kind == "use" {
			os.Exit(leaveBehind(role))
		}
		os.Exit(floodRole(role))
	}
	targets := os.Getenv("SERVER_TEST_TARGETS")
	if targets == "" {
		os.Exit(m.Run())
	}
	for target := range strings.FieldsSeq(targets) {
		socket, path, _ := strings.Cut(target, "=")
		conn, err := net.Dial("unix", socket)
		if err != nil {
			os.Exit(3)
		}
		_, _ = io.WriteString(conn, request("GET", path, "", "Connection: close"))
		text, _ := io.ReadAll(conn)
		_ = json.NewEncoder(os.Stdout).Encode(string(text))
	}
	os.Exit(0)
}

// callerBinary copies this test where every user can run it.
func callerBinary(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("this test starts processes of other users, and needs root")
	}
	dir, err := os.MkdirTemp("", "caller")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary := filepath.Join(dir, "caller")
	text, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(binary, text, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Chmod(binary, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// as sends requests from one process of that user: "socket=path" each.
func as(t *testing.T, binary string, attr *syscall.SysProcAttr, targets ...string) (statuses []string, bodies [][]byte) {
	t.Helper()
	cmd := exec.Command(binary)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", []string{"SERVER_TEST_TARGETS=" + strings.Join(targets, " ")}, attr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("call as another user: %v", err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var text string
		if err := dec.Decode(&text); err != nil {
			t.Fatal(err)
		}
		head, rest, _ := strings.Cut(text, "\r\n\r\n")
		statuses, bodies = append(statuses, strings.Fields(head)[1]), append(bodies, []byte(rest))
	}
	return statuses, bodies
}

// TestCallers: real processes of other users, in and out of a group, in and out
// of another pid namespace.
func TestCallers(t *testing.T) {
	rule := func(name string, r policy.Rule) policy.Rule {
		r.Name, r.Apps, r.Grants = name, []policy.App{clienttest.DefaultApp}, []api.Grant{api.GrantLookup}
		return r
	}
	s := clienttest.Start(t, clienttest.Config{Rules: []policy.Rule{
		rule("by-user", policy.Rule{Users: []uint32{33}}), rule("by-group", policy.Rule{Groups: []uint32{61}}),
		rule("contained", policy.Rule{Users: []uint32{35}, Contained: true}), rule("overflow", policy.Rule{Users: []uint32{65534}}),
	}})
	for _, dir := range []string{s.Dir, filepath.Dir(s.Dir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	binary := callerBinary(t)
	for _, c := range []struct {
		uid      uint32
		groups   []uint32
		new      bool // in a pid namespace of its own
		rule     string
		adminToo string
	}{
		{33, nil, false, "by-user", "403"}, {33, nil, true, "", "403"}, {34, nil, false, "", "403"}, {34, []uint32{61}, false, "by-group", "403"},
		{35, nil, false, "contained", "403"}, {35, nil, true, "contained", "403"}, {65534, nil, false, "", "403"},
		{0, nil, false, "", "200"}, {0, nil, true, "", "403"},
	} {
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid, Groups: c.groups}}
		if c.new {
			attr.Cloneflags = syscall.CLONE_NEWPID
		}
		statuses, bodies := as(t, binary, attr, s.Public+"=/v1/whoami", s.Public+"=/v1/users/x", s.Admin+"=/v1/admin/status")
		var who api.WhoAmI
		if err := json.Unmarshal(bodies[0], &who); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, r := range who.Rights {
			got += r.Rule
		}
		if who.UID != c.uid || who.GID != c.uid || who.Contained != c.new || got != c.rule {
			t.Errorf("uid %d, groups %v, contained %v: got %+v", c.uid, c.groups, c.new, who)
		}
		want := "403"
		if c.rule != "" {
			want = "404" // may look, and there is nobody
		}
		if status := statuses[1]; status != want {
			t.Errorf("uid %d: lookup answered %s, want %s", c.uid, status, want)
		}
		if status := statuses[2]; status != c.adminToo {
			t.Errorf("uid %d, contained %v: admin answered %s, want %s", c.uid, c.new, status, c.adminToo)
		}
	}
}
