package config

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// overflowID is what the kernel shows for a uid or gid that it cannot map
// (user_namespaces(7), /proc/sys/kernel/overflowuid). It belongs to nobody in
// particular, so no rule may name it.
const overflowID = 65534

// accounts maps names to numbers, from a file in the format of passwd(5) or
// group(5).
type accounts struct {
	file string
	ids  map[string]uint32
	err  error
}

func readAccounts(path, fallback string) accounts {
	if path == "" {
		path = fallback
	}
	a := accounts{file: path}
	f, err := os.Open(path)
	if err != nil {
		a.err = fmt.Errorf("read %s: %w", path, err)
		return a
	}
	defer f.Close()
	a.ids, a.err = parseAccounts(f)
	return a
}

// parseAccounts reads name:password:number:… lines. Lines of another shape are
// passed over, as the C library does; the first of two equal names counts.
func parseAccounts(r io.Reader) (map[string]uint32, error) {
	ids := map[string]uint32{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, int(MiB))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 4 || fields[0] == "" {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if _, twice := ids[fields[0]]; err == nil && !twice {
			ids[fields[0]] = uint32(id)
		}
	}
	return ids, lines.Err()
}

// id resolves a name or number.
func (a accounts) id(account Account) (uint32, error) {
	if account.text == "" {
		return 0, fmt.Errorf("an empty name is nobody")
	}
	if n, err := strconv.ParseUint(account.text, 10, 32); err == nil {
		if n == 1<<32-1 { // (uid_t)-1 means "no change" to chown(2) and setuid(2)
			return 0, fmt.Errorf("%d is not an id", n)
		}
		return mapped(uint32(n))
	}
	if a.err != nil {
		return 0, a.err
	}
	id, known := a.ids[account.text]
	if !known {
		return 0, fmt.Errorf("%q is not in %s", account.text, a.file)
	}
	return mapped(id)
}

func mapped(id uint32) (uint32, error) {
	if id == overflowID {
		return 0, fmt.Errorf("%d is the kernel's overflow id: it stands for everybody without a mapping, and matches nothing", id)
	}
	return id, nil
}
