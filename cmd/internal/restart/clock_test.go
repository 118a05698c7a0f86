package restart

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault"
)

// TestClocksGoOn: what is remembered is as long ago as it really is, whatever
// happened to the wall clock.
func TestClocksGoOn(t *testing.T) {
	for name, jump := range map[string]time.Duration{"none": 0, "forwards": 1000 * time.Hour, "backwards": -1000 * time.Hour} {
		m := newMachine()
		c := sample(m, 1, 1)
		body := encoded(c, m.moment())
		m.pass(10 * time.Minute)
		m.wall = m.wall.Add(jump)
		got := mustDecode(t, body, m.moment())
		for what, x := range map[string]struct {
			got  time.Time
			want time.Duration
		}{
			"login":     {got.Vault.Since, -70 * time.Minute},
			"expiry":    {got.Vault.Expires, 50 * time.Minute},
			"last word": {got.Vault.LastWord, -10*time.Minute - 3*time.Second},
			"secret":    {got.Secrets[0].Since, -11 * time.Minute},
			"confirmed": {got.Secrets[0].Confirmed, -10*time.Minute - time.Second},
		} {
			if off := x.got.Sub(m.wall); off != x.want {
				t.Errorf("jump %s: %s is %v from now, not %v", name, what, off, x.want)
			}
		}
		if !got.Anchor.Time.Equal(c.Anchor.Time) {
			t.Errorf("jump %s: the anchor's time changed", name)
		}
	}
}

// TestJumpBeforeSave: readings of the process's own monotonic clock are not led
// astray by the wall clock either.
func TestJumpBeforeSave(t *testing.T) {
	word := time.Now() // with its monotonic reading, as the daemon's clock has it
	later := word.Add(time.Minute)
	m := moment{boot: "b", since: time.Hour, now: later}
	got := m.in(m.out(word))
	if later.Sub(got) != time.Minute {
		t.Errorf("%v ago", later.Sub(got))
	}
}

// TestNothingWasHeardInTheFuture: a clock that was ahead when Vault spoke does not
// make its word last longer.
func TestNothingWasHeardInTheFuture(t *testing.T) {
	m := newMachine()
	ahead := m.wall.Add(time.Hour)
	c := sample(m, 1, 1)
	c.Vault.LastWord, c.Vault.Since = ahead, ahead
	c.Secrets[0].Since, c.Secrets[0].Confirmed = ahead, ahead
	got := mustDecode(t, encoded(c, m.moment()), m.moment())
	for _, at := range []time.Time{got.Vault.LastWord, got.Vault.Since, got.Secrets[0].Since, got.Secrets[0].Confirmed} {
		if !at.Equal(m.wall) {
			t.Errorf("%v from now", at.Sub(m.wall))
		}
	}
}

func TestFarTimes(t *testing.T) {
	m := newMachine()
	for _, at := range []time.Time{time.Unix(math.MinInt32, 0), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)} {
		c := Contents{Vault: vault.Memory{Expires: at}}
		got := mustDecode(t, encoded(c, m.moment()), m.moment()).Vault.Expires
		if got.IsZero() || got.After(m.wall) != at.After(m.wall) {
			t.Errorf("%v became %v", at, got)
		}
	}
}

func TestOtherBoots(t *testing.T) {
	m := newMachine()
	body := encoded(sample(m, 1, 1), m.moment())
	earlier := m.moment()
	earlier.since--
	other, none := m.moment(), m.moment()
	other.boot, none.boot = "marker-other-boot", ""
	unknown := encoded(sample(m, 1, 1), none)
	for name, c := range map[string]struct {
		body []byte
		m    moment
		want error
	}{
		"other boot":          {body, other, errBoot},
		"unknown boot":        {body, none, errBoot},
		"unknown both times":  {unknown, none, errBoot},
		"before it was saved": {body, earlier, errClock},
	} {
		got, err := decode(c.body, c.m)
		if !errors.Is(err, c.want) || !got.Vault.Token.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
}
