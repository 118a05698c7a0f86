package vaulttest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

// version is the one that the test script builds.
const version = "1.21.0"

// oldest is the first minor version of Vault 1 that a binary on the PATH may be.
const oldest = 18

// Binary returns the path of a Vault binary: $TOKENVAULT_TEST_VAULT, else a
// vault on the PATH that is recent enough, else the one that
// packaging/test.sh --install has built. Without one the test is skipped, and says
// so; with CI=true it fails.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("TOKENVAULT_TEST_VAULT"); path != "" {
		return path
	}
	if path, err := exec.LookPath("vault"); err == nil && recent(path) {
		return path
	}
	cache, err := os.UserCacheDir()
	if err == nil {
		path := filepath.Join(cache, "tokenvault", "vault-"+version, "vault")
		if _, err = os.Stat(path); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("this test needs a HashiCorp Vault binary, and CI must have one (%v)", err)
	}
	t.Skipf("this test needs a HashiCorp Vault binary: run packaging/test.sh --install, or set TOKENVAULT_TEST_VAULT (%v)", err)
	return ""
}

var versionLine = regexp.MustCompile(`^Vault v([0-9]+)\.([0-9]+)\.`)

func recent(path string) bool {
	out, err := exec.Command(path, "version").Output()
	parts := versionLine.FindSubmatch(out)
	if err != nil || parts == nil {
		return false
	}
	major, _ := strconv.Atoi(string(parts[1]))
	minor, _ := strconv.Atoi(string(parts[2]))
	return major > 1 || major == 1 && minor >= oldest
}

// process is a child that dies with the test binary.
type process struct {
	pid    int
	done   chan struct{} // closed when it has ended and was waited for
	handle *os.Process
	output *log
}

// startProcess starts the child and waits for it on one thread of its own: the
// kernel sends a parent's death signal when the thread that forked ends.
func startProcess(binary string, args []string, dir string) (*process, error) {
	p := &process{done: make(chan struct{}), output: &log{}}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := exec.Command(binary, args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, p.output, p.output
		cmd.Env = []string{"HOME=" + dir, "PATH=/usr/bin:/bin", "TMPDIR=" + dir}
		cmd.SysProcAttr = dieWithParent()
		err := cmd.Start()
		if err == nil {
			p.pid, p.handle = cmd.Process.Pid, cmd.Process
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed: how it ended says nothing
			close(p.done)
		}
	}()
	return p, <-started
}

func (p *process) kill() { _ = p.handle.Kill() } // fails only when it has ended already

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// log keeps the first output of the process, for the message when it does not
// start. Later output may be about requests, and is dropped.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxLog = 4 << 10

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(b[:min(len(b), maxLog-l.buf.Len())])
	return len(b), nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// httpClient ignores the environment's proxies.
func httpClient(t testing.TB, certificate *TLS) *http.Client {
	t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if certificate != nil {
		pem, err := os.ReadFile(certificate.CAFile)
		must(t, err)
		config.RootCAs, config.ServerName = x509.NewCertPool(), certificate.ServerName
		config.RootCAs.AppendCertsFromPEM(pem)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
}
