package audit

import (
	"errors"
	"testing"
)

// refusal is a line that costs its caller nothing.
func refusal() Event {
	e := lookup("0123456789abcdef")
	e.Status, e.Error, e.Rule, e.Refusal = 403, "unknown_caller", "", true
	return e
}

// TestRefusalsLeaveAThird: on a full disk a storm of refusals stops where the last
// third of the reserve begins, what is granted goes on in it, and refusals come again
// when there is room.
func TestRefusalsLeaveAThird(t *testing.T) {
	onDisks(t, func(t *testing.T, dir string) {
		const reserve = 512 << 10
		l, c := reserved(t, dir, reserve)
		release := fill(t, dir, 0)
		refused := until(t, l, refusal())
		left := l.Status().Reserve
		if left < reserve/3-maxLine || left > reserve/3 {
			t.Errorf("%d of %d bytes are left by refusals", left, reserve)
		}
		for range 1000 {
			if err := l.Write(refusal()); !errors.Is(err, ErrSpared) || !errors.Is(err, ErrFull) || !errors.Is(err, ErrUnavailable) {
				t.Fatalf("a refusal: %v", err)
			}
		}
		if l.Status().Reserve != left {
			t.Error("refusals go on in the rest")
		}
		if err := l.WriteDurable(t.Context(), refusal()); !errors.Is(err, ErrSpared) {
			t.Errorf("a durable refusal: %v", err)
		}
		granted := writeUntilFull(t, l)
		t.Logf("%d refusals, then %d lookups went into a reserve of %d bytes", refused, granted, reserve)
		if granted < reserve/3/600 {
			t.Errorf("only %d lines", granted)
		}
		if err := l.Write(refusal()); !errors.Is(err, ErrSpared) {
			t.Errorf("with nothing left: %v", err)
		}
		release()
		retryNow(l)
		mustWrite(t, l, refusal())
		if err := l.Low(); err != nil {
			t.Error(err)
		}
		mustClose(t, l)
		mustVerify(t, c.Path)
	})
}

// TestRefusalsWhereNothingIsReserved: without a reserve, or with a whole one,
// refusals are lines as others.
func TestRefusalsWhereNothingIsReserved(t *testing.T) {
	dir := tmpfs(t, "1024")
	l, _ := reserved(t, dir, 0)
	mustWrite(t, l, refusal())
	release := fill(t, dir, 0)
	defer release()
	for n := 0; ; n++ {
		if err := l.Write(refusal()); err != nil {
			wantFull(t, err)
			if errors.Is(err, ErrSpared) {
				t.Error("there is nothing to spare")
			}
			return
		}
	}
}

// TestRefusalsWithoutAllocation: where nothing can be allocated ahead, what is free
// counts.
func TestRefusalsWithoutAllocation(t *testing.T) {
	dir := image(t, 8<<20, "-O", "^has_journal,^extents,^64bit")
	l, _ := reserved(t, dir, 512<<10)
	mustWrite(t, l, refusal())
	for free, want := range map[int64]error{400 << 10: nil, 64 << 10: ErrSpared} {
		release := fill(t, dir, free)
		retryNow(l)
		wantFull(t, l.Low())
		if err := l.Write(refusal()); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%d bytes are free: %v", free, err)
		}
		mustWrite(t, l, lookup("granted"))
		release()
		retryNow(l)
		mustWrite(t, l, refusal())
	}
}
