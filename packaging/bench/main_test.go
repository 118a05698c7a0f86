package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// bareEnv names the file that tells a child process to be the floor.
const bareEnv = "TOKENVAULT_BENCH_BARE"

func TestMain(m *testing.M) {
	if file := os.Getenv(bareEnv); file != "" {
		if err := serveBare(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	_ = os.RemoveAll(built.dir)
	os.Exit(code)
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// binary builds the product at its first use, and returns its path.
func binary(tb testing.TB) string {
	tb.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "tv-bench"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(built.dir, "tokenvault"), "../../cmd/tokenvault")
		build.Stderr = os.Stderr
		built.err = build.Run()
	})
	must(tb, built.err)
	return filepath.Join(built.dir, "tokenvault")
}

// bare is what the floor answers every request with, and where.
type bare struct {
	Socket string
	Header http.Header
	Body   []byte
}

// serveBare is the floor: net/http, one handler, the same bytes each time.
func serveBare(file string) error {
	var floor bare
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &floor); err != nil {
		return err
	}
	l, err := net.Listen("unix", floor.Socket)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
		_ = l.Close()
	}()
	fmt.Println("ready")
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for name, values := range floor.Header {
			h[name] = values
		}
		_, _ = w.Write(floor.Body)
	}))
	return nil
}

// startBare starts the floor, which answers as this answer was answered, and
// returns it with its socket.
func startBare(b *testing.B, like response) (process, string) {
	b.Helper()
	dir, err := os.MkdirTemp("/tmp", "tv") // short: it is a socket's
	must(b, err)
	b.Cleanup(func() { must(b, os.RemoveAll(dir)) })
	floor := bare{Socket: filepath.Join(dir, "bare.sock"), Header: like.header(), Body: slices.Clone(like.body)}
	floor.Header.Del("Date") // net/http adds both
	floor.Header.Del("Content-Length")
	text, err := json.Marshal(floor)
	must(b, err)
	file := filepath.Join(dir, "bare.json")
	must(b, os.WriteFile(file, text, 0o600))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bareEnv+"="+file)
	child, _ := startChild(b, cmd, "ready")
	return child, floor.Socket
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
