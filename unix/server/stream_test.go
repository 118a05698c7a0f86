package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

const backupPath = "/v1/admin/store/backup"

// streamed posts for a backup and reads what comes until it ends; err is nil only
// for an answer that was ended by the server.
func streamed(t *testing.T, b *bare) (res *http.Response, body []byte, err error) {
	t.Helper()
	conn := dial(t, b.socket)
	if _, err := io.WriteString(conn, request("POST", backupPath, "")); err != nil {
		t.Fatal(err)
	}
	if res, err = http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "POST"}); err != nil {
		return nil, nil, err
	}
	body, err = io.ReadAll(res.Body)
	return res, body, err
}

func TestBackupIsStreamed(t *testing.T) {
	row := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	w := &worker{backup: func(_ context.Context, w io.Writer) error {
		for range 500 {
			if _, err := w.Write(row); err != nil {
				return err
			}
		}
		return nil
	}}
	b := startWorker(t, w, nil)
	b.open()
	res, body, err := streamed(t, b)
	if err != nil || res.StatusCode != 200 || !bytes.Equal(body, bytes.Repeat(row, 500)) {
		t.Fatalf("%v, %d bytes", err, len(body))
	}
	if res.Header.Get("Content-Type") != "application/octet-stream" || res.Header.Get("Cache-Control") != "no-store" ||
		len(res.Header.Get(api.HeaderRequestID)) != 32 || res.ContentLength != -1 {
		t.Errorf("headers: %v", res.Header)
	}
	if got := strings.Join(b.f.steps, ", "); got != "durable attempt, durable outcome" || b.f.events[1].Status != 200 || b.f.events[1].Rule != "ops" {
		t.Errorf("on record: %s", got)
	}
}

// TestBackupThatFails: before the first byte a fault is told, later the stream is
// cut off, so that nobody takes it for a whole one.
func TestBackupThatFails(t *testing.T) {
	cause := error(user.Fail(user.StoreUnavailable, "marker-of-a-cause"))
	for name, c := range map[string]struct {
		backup  func(io.Writer) error
		durable error // of the outcome alone
		told    api.Code
		record  api.Code
	}{
		"at once":             {func(io.Writer) error { return cause }, nil, api.StoreUnavailable, api.StoreUnavailable},
		"nothing written":     {func(io.Writer) error { return nil }, nil, api.Internal, api.Internal},
		"after a word":        {func(w io.Writer) error { _, _ = io.WriteString(w, "word"); return cause }, nil, "", api.StoreUnavailable},
		"after much":          {func(w io.Writer) error { _, _ = w.Write(make([]byte, 1<<20)); return cause }, nil, "", api.StoreUnavailable},
		"a panic":             {func(w io.Writer) error { _, _ = w.Write(make([]byte, 1<<20)); panic("marker") }, nil, "", api.Internal},
		"outcome not on disk": {func(w io.Writer) error { _, err := w.Write(make([]byte, 1<<20)); return err }, errors.New("full"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := &worker{}
			b := startWorker(t, w, nil)
			b.open()
			w.backup = func(_ context.Context, to io.Writer) error {
				b.f.mu.Lock()
				b.f.durable = c.durable
				b.f.mu.Unlock()
				return c.backup(to)
			}
			if c.told != "" {
				a := b.postTo(t, backupPath, "")
				if a.wantCode(t, c.told); bytes.Contains(a.body, []byte("marker")) {
					t.Error("the cause is told")
				}
			} else if res, body, err := streamed(t, b); err == nil {
				t.Errorf("a whole answer: %d, %d bytes", res.StatusCode, len(body))
			}
			b.stop()
			<-b.done
			if last := b.f.events[len(b.f.events)-1]; c.durable == nil && (last.Kind != "outcome" || last.Error != string(c.record)) {
				t.Errorf("on record is %s %q", last.Kind, last.Error)
			}
		})
	}
}

// waiting is a backup that has begun and waits for its caller's patience to end.
func waiting(begun chan struct{}) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		_, _ = w.Write(make([]byte, 1<<16))
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}
}

// TestOneBackupAtATime, and one whose caller leaves ends.
func TestOneBackupAtATime(t *testing.T) {
	begun := make(chan struct{})
	w := &worker{backup: waiting(begun)}
	b := startWorker(t, w, nil)
	b.open()
	conn := dial(t, b.socket)
	_, _ = io.WriteString(conn, request("POST", backupPath, ""))
	<-begun
	b.postTo(t, backupPath, "").wantCode(t, api.RateLimited)
	_ = conn.Close()
	await(t, "its end", func() bool { return b.server.Busy() == 0 })
	w.backup = func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "x"); return err }
	if _, body, err := streamed(t, b); err != nil || string(body) != "x" {
		t.Errorf("afterwards: %v", err)
	}
}

// TestDrainCutsABackup: it is not waited for longer than for anything else.
func TestDrainCutsABackup(t *testing.T) {
	begun := make(chan struct{})
	w := &worker{backup: waiting(begun)}
	b := startWorker(t, w, nil)
	b.server.SetDrain(500 * time.Millisecond)
	b.open()
	cut := make(chan error, 1)
	go func() {
		_, _, err := streamed(t, b)
		cut <- err
	}()
	<-begun
	b.stop()
	if err := <-cut; err == nil {
		t.Error("the stream has an end")
	}
	if err := <-b.done; err != nil {
		t.Fatal(err)
	}
	if last := b.f.events[len(b.f.events)-1]; last.Error != string(api.Draining) {
		t.Errorf("on record is %q", last.Error)
	}
}
