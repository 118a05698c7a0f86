package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// follow collects request ids until n have come.
func follow(t testing.TB, c FollowConfig, n int, first func()) (ids []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c.Every = time.Millisecond
	err := Follow(ctx, c, func(l Line) error {
		if ids = append(ids, l.RequestID); len(ids) == 1 {
			first()
		}
		if len(ids) == n {
			return ErrStop
		}
		return nil
	})
	if err != nil || len(ids) != n {
		t.Fatalf("%d of %d lines, %v", len(ids), n, err)
	}
	return ids
}

// Every line is handed out once and in order while the log grows, rotates, and is
// closed and opened again; it need not be there at first.
func TestFollow(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.Now, c.RotateSize = nil, minRotateSize
	const n = 900
	done, followed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for life := range 3 {
			l, err := Open(context.Background(), c)
			for i := range n / 3 {
				if err == nil {
					err = l.Write(lookup(strconv.Itoa(life*n/3 + i)))
				}
				if err == nil && life+i == 0 {
					<-followed // nothing is closed before it is followed
				}
			}
			if err = errors.Join(err, l.Close()); err != nil {
				t.Error(err)
			}
		}
	}()
	ids := follow(t, FollowConfig{Path: path, Last: 1}, n, func() { close(followed) })
	<-done
	closed, err := closedSegments(path)
	if err != nil || len(closed) < 3 {
		t.Errorf("only %d segments were closed, %v", len(closed), err)
	}
	for i, id := range ids {
		if id != strconv.Itoa(i) {
			t.Fatalf("line %d is of request %s", i, id)
		}
	}
}

// The last ones come first, as many as are asked for.
func TestFollowLast(t *testing.T) {
	path := logPath(t)
	l := mustOpen(t, testConfig(path))
	for i := range 20 {
		mustWrite(t, l, lookup(strconv.Itoa(i)))
	}
	if ids := follow(t, FollowConfig{Path: path, Last: 3}, 3, func() {}); ids[0] != "17" || ids[2] != "19" {
		t.Errorf("%q", ids)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := Follow(ctx, FollowConfig{Path: path, Last: 1, Every: time.Millisecond}, func(Line) error { cancel(); return nil })
	if err != nil {
		t.Errorf("ended from outside: %v", err)
	}
	ours := errors.New("marker")
	if err := Follow(t.Context(), FollowConfig{Path: path, Last: 1}, func(Line) error { return ours }); err != ours {
		t.Errorf("%v", err)
	}
	mustClose(t, l)
}

// What is no log, or lacks a segment that was not read yet, is an error.
func TestFollowBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("no log\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Follow(t.Context(), FollowConfig{Path: path}, func(Line) error { return nil }); err == nil {
		t.Error("anything is followed")
	}
}
