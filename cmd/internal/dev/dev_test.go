package dev

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// output is a writer that can be awaited.
type output struct {
	mu   sync.Mutex
	text strings.Builder
	news chan struct{}
}

func newOutput() *output { return &output{news: make(chan struct{}, 1)} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.news <- struct{}{}:
	default:
	}
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// directory is what the try-out says that it uses.
func directory(t testing.TB, out string) string {
	t.Helper()
	_, rest, found := strings.Cut(out, "Everything is in ")
	dir, _, ended := strings.Cut(rest, "\n")
	if !found || !ended || !strings.HasPrefix(dir, tempRoot) {
		t.Fatalf("it names no directory: %q", out)
	}
	return dir
}

func TestOnce(t *testing.T) {
	for name, path := range map[string]string{
		"without a vault binary": t.TempDir(),
		"with one":               filepath.Dir(linkVault(t)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", path)
			// None of this may have an effect.
			for _, v := range []string{"VAULT_ADDR", "TOKENVAULT_CONFIG", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "TMPDIR"} {
				t.Setenv(v, "http://192.0.2.1:1")
			}
			out, log := newOutput(), newOutput()
			if err := Run(t.Context(), Config{Once: true, Out: out, Log: log, Version: "test"}); err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			for _, part := range []string{"sessionTokenObject", "publicToken", "without holding any secret", "TV.", "none is in these",
				"an accessToken of 260 characters", "not_granted"} {
				if !strings.Contains(out.String(), part) {
					t.Errorf("%q is not shown", part)
				}
			}
			if stands := strings.Contains(out.String(), "a Vault dev server at"); stands != (name == "with one") {
				t.Errorf("which Vault it was: %q", out)
			}
			if log.String() != "" {
				t.Errorf("the daemon warned: %s", log)
			}
			if _, err := os.Stat(directory(t, out.String())); !os.IsNotExist(err) {
				t.Errorf("the directory is still there: %v", err)
			}
		})
	}
}

// linkVault puts a vault binary, alone, into a directory.
func linkVault(t testing.TB) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "vault")
	if err := os.Symlink(vaulttest.Binary(t), link); err != nil {
		t.Fatal(err)
	}
	return link
}

// It serves until it is stopped, and what it prints to paste is there.
func TestUntilStopped(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, ended := newOutput(), make(chan error, 1)
	go func() { ended <- Run(ctx, Config{Out: out, Log: newOutput()}) }()
	timeout := time.After(time.Minute)
	for !strings.Contains(out.String(), "Serving until Ctrl-C.") {
		select {
		case <-out.news:
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		case <-timeout:
			t.Fatalf("it does not get there: %s", out)
		}
	}
	dir := directory(t, out.String())
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
	for _, part := range []string{"curl -sS --unix-socket " + dir + "/public/api.sock", "/v1/connect/tokens", " status --socket " + dir, " audit verify " + dir} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is not there to paste", part)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// What is printed to paste works in another terminal: the bare name only when it
// is this program there.
func TestProgramName(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	if got := strings.Trim(programName(), "'"); got != self {
		t.Errorf("not on the PATH: %s", got)
	}
	same, other := t.TempDir(), t.TempDir()
	if err := os.Symlink(self, filepath.Join(same, "tokenvault")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "tokenvault"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", same)
	if got := programName(); got != "tokenvault" {
		t.Errorf("on the PATH: %s", got)
	}
	t.Setenv("PATH", other)
	if got := strings.Trim(programName(), "'"); got != self {
		t.Errorf("another program of the name is on the PATH: %s", got)
	}
}
