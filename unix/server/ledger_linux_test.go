package server_test

import (
	"bufio"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/server"
)

// TestGrantedFlood: a caller that may look users up, by a rule without a rate, and
// does nothing else. What it leaves in the audit log, in a file, is
// bounded: for users that are not there by counting, for one that is there by the
// budget of its uid.
func TestGrantedFlood(t *testing.T) {
	const budget = 16 << 10
	s := clienttest.Start(t, clienttest.Config{Limits: server.Limits{AuditPerUID: budget}})
	o := s.NewSession("user@example.com")
	if _, err := s.Client(t, s.Public).Exchange(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		refused    bool
		most       int64
		took       time.Duration
	}{
		{"users that are not there", "/v1/users/nobody", false, 512 << 10, 5 * time.Second},
		{"a user that is there", "/v1/users/" + string(o.HumanID), true, 68*budget + 128<<10, 2 * time.Second},
	} {
		before := sizeOf(t, s.AuditPath)
		asked, told := flooding(t, s.Public, c.path, c.took)
		written := sizeOf(t, s.AuditPath) - before
		t.Logf("figure: %s: %d lookups over 8 connections in %v, %d of them told to wait: %.2f MB in the audit log, at most %.2f",
			c.name, asked, c.took, told, float64(written)/1e6, float64(c.most)/1e6)
		if written > c.most {
			t.Errorf("%s: %d bytes in the audit log, at most %d", c.name, written, c.most)
		}
		if (told > 0) != c.refused {
			t.Errorf("%s: %d were told to wait", c.name, told)
		}
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// flooding asks for path without a pause, and counts what is answered with 429.
func flooding(t *testing.T, socket, path string, took time.Duration) (asked, told int64) {
	var all, over atomic.Int64
	var ended sync.WaitGroup
	end := time.Now().Add(took)
	for range 8 {
		conn := dial(t, socket)
		ended.Go(func() {
			for in := bufio.NewReader(conn); time.Now().Before(end); all.Add(1) {
				_, _ = io.WriteString(conn, request("GET", path, ""))
				status, err := floodAnswer(in)
				if err != nil {
					t.Errorf("no answer: %v", err)
					return
				}
				if status == 429 {
					over.Add(1)
				}
			}
			_ = conn.Close()
		})
	}
	ended.Wait()
	return all.Load(), over.Load()
}
