package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// Strangers who fill the limits do not get the daemon killed: a refusal is a
// sign of life.
func TestProbeWhileFull(t *testing.T) {
	w := newWorld(t, vaulttest.Start(t))
	w.edit("[store]\n", "[limits]\nconnections_per_uid = 2\nheader_timeout = \"60s\"\n[store]\n")
	r := w.start(func(c *Config) { c.Watchdog = 30 * time.Second })
	r.await("READY=1")
	hold := func(n int) {
		for range n {
			c, err := net.Dial("unix", filepath.Join(w.dir, "public", "api.sock"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	hold(2)
	if err := r.daemon.probe(t.Context()); err != nil {
		t.Errorf("the probe is refused with 429: %v", err)
	}
	hold(70) // more than the server keeps open to refuse
	if err := r.daemon.probe(t.Context()); err != nil {
		t.Errorf("the client sockets are full: %v", err)
	}
}

// No answer, and an answer of somebody else, are no sign of life.
func TestProbeWithoutAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := &daemon{cfg: &config.Config{Listeners: []config.Listener{{Path: path}}}, Config: Config{Watchdog: 600 * time.Millisecond}}
	if err := d.probe(t.Context()); err == nil {
		t.Error("nobody accepts, and the probe is content")
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1024))
			_, _ = c.Write([]byte("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"))
			_ = c.Close()
		}
	}()
	if err := d.probe(t.Context()); err == nil || strings.Contains(err.Error(), "permission") {
		t.Errorf("somebody else answers: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := d.probe(t.Context()); err == nil {
		t.Error("the socket is gone, and the probe is content")
	}
}
