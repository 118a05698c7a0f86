package vault

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// childEnv makes the test binary the process whose memory is read.
const childEnv = "TOKENVAULT_TEST_COPIES"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := useVault(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// task is what the child is told; no secret is in it.
type task struct {
	Address, CAFile, TLSServerName, AppsPath, StatePath, TransitKey string

	Auth    AuthConfig
	Wrapped string
	Context []byte
}

// useVault does all that a daemon does, tells when it is done, and when nothing is
// under way any more.
func useVault() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var todo task
	if err := json.Unmarshal(line, &todo); err != nil {
		return err
	}
	c, err := New(Config{
		Address: todo.Address, CAFile: todo.CAFile, TLSServerName: todo.TLSServerName, Auth: todo.Auth,
		AppsPath: todo.AppsPath, StatePath: todo.StatePath, TransitKey: todo.TransitKey,
	})
	if err != nil {
		return err
	}
	c.pace.floor = 500 * time.Millisecond
	s, err := NewSecrets(SecretsConfig{Client: c, Apps: []user.ClientID{app}, Refresh: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := c.Login(ctx); err != nil {
		return err
	}
	var both sync.WaitGroup
	both.Go(func() { _ = c.Run(ctx) })
	both.Go(func() { _ = s.Run(ctx) })
	for range 20 {
		if err := useOnce(ctx, c, s, todo); err != nil {
			return err
		}
	}
	fmt.Println("done", secret.Region().Hidden)
	if _, err := in.ReadBytes('\n'); err != nil {
		return err
	}
	cancel()
	both.Wait()
	runtime.GC()
	fmt.Println("quiet")
	_, _ = io.Copy(io.Discard, in)
	runtime.KeepAlive(s)
	runtime.KeepAlive(c)
	return nil
}

// useOnce asks for the secret and the key as the daemon does, wraps the key again,
// and wipes what it was given.
func useOnce(ctx context.Context, c *Client, s *Secrets, todo task) error {
	given, err := s.ClientSecret(ctx, app)
	if err != nil {
		return err
	}
	given.Text.Wipe()
	if err := c.Revalidate(ctx); err != nil { // whose answer has the token
		return err
	}
	key, err := c.Unwrap(ctx, todo.Wrapped, todo.Context)
	if err != nil {
		return err
	}
	defer key.Wipe()
	_, err = c.Wrap(ctx, key, todo.Context)
	return err
}

// TestCopies counts copies of every secret in the memory of a process that uses
// them, as root reads it: outside the locked region there are none, but for what a
// signal caught in the processor's registers.
func TestCopies(t *testing.T) {
	server := vaulttest.Start(t)
	server.Must("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	server.Must("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	for name, version := range map[string]uint16{"TLS12": tls.VersionTLS12, "TLS13": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) { testCopies(t, newPlace(t, server.For(t)), version) })
	}
}

func testCopies(t *testing.T, p *place, version uint16) {
	p.putRole(map[string]any{"token_ttl": 3, "token_max_ttl": 600})
	// Made here, so that this binary, which the child is too, does not hold them.
	clientSecret, appKey, other := "marker/\"<&>"+rand.Text()+rand.Text(), "marker-app-key"+rand.Text(), rand.Text()
	p.putApp(map[string]any{fieldClientSecret: clientSecret, fieldAppKey: appKey, "of somebody else": other})
	key, salt := []byte(rand.Text() + rand.Text())[:32], []byte("context")
	wrapped, err := p.loggedIn(t).Wrap(t.Context(), secret.New(key), salt)
	if err != nil {
		t.Fatal(err)
	}
	front := newFront(t, p.server.Addr, version)
	child := startChild(t, task{
		Address: front.server.URL, CAFile: front.caFile, TLSServerName: "example.com", Auth: p.config.Auth,
		AppsPath: p.config.AppsPath, StatePath: p.config.StatePath, TransitKey: p.config.TransitKey, Wrapped: wrapped, Context: salt,
	})
	hidden := strings.HasSuffix(child.says(t, "done"), "true")
	eventually(t, "two renewals", func() bool { return front.renewed() >= 2 })
	child.tell(t, "stop")
	child.says(t, "quiet")

	secretID, err := os.ReadFile(p.config.Auth.SecretIDFile)
	if err != nil {
		t.Fatal(err)
	}
	found := child.find(t, map[string][]byte{
		"clientSecret": []byte(clientSecret), "app key": []byte(appKey), "another field": []byte(other), "data key": key,
		"data key in base64": []byte(base64.StdEncoding.EncodeToString(key)),
		"token":              front.token(t), "secret id": bytes.TrimSpace(secretID),
	})
	ceiling := 1 // half a copy in the frame of a signal: see overwriteRegisters
	if !hidden {
		ceiling += 4 // that the region holds
	}
	for what, places := range found {
		t.Logf("%s: %d copies %v (region hidden: %v)", what, len(places), places, hidden)
		if len(places) > ceiling {
			t.Errorf("%s: %d copies in memory, want at most %d", what, len(places), ceiling)
		}
	}
}

// front is TLS before a Vault without it. It sees the token that Vault gives.
type front struct {
	server   *httptest.Server
	caFile   string
	mu       sync.Mutex
	given    []byte
	renewals int
}

func newFront(t *testing.T, address string, version uint16) *front {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{caFile: filepath.Join(t.TempDir(), "ca.pem")}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ModifyResponse = f.look
	f.server = httptest.NewUnstartedServer(proxy)
	f.server.TLS = &tls.Config{MinVersion: version, MaxVersion: version}
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	writeFile(t, f.caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})))
	return f
}

func (f *front) look(resp *http.Response) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var answer struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch path := resp.Request.URL.Path; {
	case strings.HasSuffix(path, "/login") && json.Unmarshal(body, &answer) == nil:
		f.given = []byte(answer.Auth.Token)
	case strings.HasSuffix(path, "/renew-self"):
		f.renewals++
	}
	return nil
}

func (f *front) renewed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.renewals
}

func (f *front) token(t *testing.T) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.given) < 20 {
		t.Fatal("no token was given")
	}
	return f.given
}

// child is the process.
type child struct {
	pid int
	in  io.Writer
	out *bufio.Reader
}

func startChild(t *testing.T, todo task) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{childEnv + "=1"}
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if inErr != nil || outErr != nil {
		t.Fatal(inErr, outErr)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error("the process that uses vault: ", err)
		}
	})
	c := &child{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	line, err := json.Marshal(todo)
	if err != nil {
		t.Fatal(err)
	}
	c.tell(t, string(line))
	return c
}

func (c *child) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

func (c *child) says(t *testing.T, word string) string {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, word) {
		t.Fatalf("wanted %q: %v", word, err)
	}
	return strings.TrimSpace(line)
}

// find returns in which mappings each needle lies, once for every copy.
func (c *child) find(t *testing.T, needles map[string][]byte) map[string][]string {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", c.pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", c.pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	found, read := map[string][]string{}, 0
	for what := range needles {
		found[what] = nil
	}
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || mode[0] != 'r' {
			continue
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, from) // what nobody can read, holds nothing to find
		read += n
		for what, needle := range needles {
			const part = 20 // of a copy that was overwritten by half
			for range max(bytes.Count(b[:n], needle[:part]), bytes.Count(b[:n], needle[len(needle)-part:])) {
				found[what] = append(found[what], strings.Join(strings.Fields(line)[5:], " ")+" "+mode)
			}
		}
	}
	if read < 1<<20 {
		t.Fatalf("only %d bytes of its memory could be read", read)
	}
	return found
}
