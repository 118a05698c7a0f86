package config

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span in Go's notation: "500ms", "5s", "1h30m". A bare
// number is refused: it has no unit.
type Duration time.Duration

// UnmarshalText parses Go's notation; a negative one is refused.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return errors.New(`wants a duration such as "500ms", "5s" or "24h"`)
	}
	*d = Duration(v)
	return nil
}

// Std is the value for package time.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String prints without the zero tails of time.Duration: "24h", not "24h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Size is a number of bytes: "64KiB", "256MiB", "2GiB", or "512B".
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

var sizeUnits = []struct {
	name string
	size Size
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}}

// UnmarshalText parses a whole number and a unit. Powers of ten ("MB") are
// refused: people disagree about them.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		digits, found := strings.CutSuffix(string(text), u.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || n > math.MaxInt64/uint64(u.size) {
			break
		}
		*s = Size(n) * u.size
		return nil
	}
	return errors.New(`wants a size such as "64KiB", "256MiB" or "2GiB"`)
}

// String prints in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s >= u.size && s%u.size == 0 {
			return fmt.Sprintf("%d%s", s/u.size, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}

// Mode is a file mode: octal digits in a string.
type Mode os.FileMode

// UnmarshalText parses three octal digits, with or without a leading 0.
func (m *Mode) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 8, 32)
	if err != nil || v > 0o777 || len(text) < 3 {
		return errors.New(`wants octal digits in quotes, such as "0660"`)
	}
	*m = Mode(v)
	return nil
}

// String prints four octal digits.
func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// Account is a user or a group as the file says it: a name or a number. It is
// resolved once, by Load.
type Account struct{ text string }

// UnmarshalText takes a name or a decimal number.
func (a *Account) UnmarshalText(text []byte) error {
	a.text = string(text)
	return nil
}

func (a Account) String() string { return a.text }
