package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
)

// TestBackupStream: whole, refused, cut off, and broken at the caller's end.
func TestBackupStream(t *testing.T) {
	want := bytes.Repeat([]byte("row"), 100_000)
	whole := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(want) })
	var got bytes.Buffer
	if n, err := whole.AdminStoreBackup(t.Context(), &got); err != nil || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("whole: %d bytes, %v", n, err)
	}
	if n, err := whole.AdminStoreBackup(t.Context(), fullDisk{}); !errors.Is(err, errFull) || n != 0 {
		t.Errorf("a full disk: %d bytes, %v", n, err)
	}
	refused := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(503)
		_, _ = io.WriteString(w, `{"statusCode":503,"error":"store_unavailable","message":"no","requestId":"id"}`)
	})
	if n, err := refused.AdminStoreBackup(t.Context(), io.Discard); client.CodeOf(err) != api.StoreUnavailable || n != 0 {
		t.Errorf("refused: %v", err)
	}
	cut := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(want)
		panic(http.ErrAbortHandler)
	})
	if _, err := cut.AdminStoreBackup(t.Context(), io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	nobody := open(t, filepath.Join(t.TempDir(), "none"))
	if _, err := nobody.AdminStoreBackup(t.Context(), io.Discard); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

var errFull = errors.New("no space left")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

// slow takes its time with each write.
type slow time.Duration

func (s slow) Write(b []byte) (int, error) {
	<-time.After(time.Duration(s))
	return len(b), nil
}

// TestBackupSilence: the timeout is for what the daemon does not send, neither for
// the whole nor for what the caller's disk takes.
func TestBackupSilence(t *testing.T) {
	const timeout = 200 * time.Millisecond
	path := filepath.Join(t.TempDir(), "s")
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	serveAt(t, path, func(w http.ResponseWriter, r *http.Request) {
		for range 5 {
			_, _ = w.Write(make([]byte, 1000))
			_ = http.NewResponseController(w).Flush()
			<-time.After(timeout / 2)
		}
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	})
	c, err := client.New(client.Config{Socket: path, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	n, err := c.AdminStoreBackup(t.Context(), io.Discard)
	if n != 5000 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent after %d bytes: %v", n, err)
	}
	end := filepath.Join(t.TempDir(), "e")
	serveAt(t, end, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 200_000)) })
	c2, err := client.New(client.Config{Socket: end, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c2.Close)
	if n, err := c2.AdminStoreBackup(t.Context(), slow(2*timeout)); n != 200_000 || err != nil {
		t.Errorf("a slow disk: %d bytes, %v", n, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.AdminStoreBackup(gone, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
