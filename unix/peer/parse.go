package peer

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// status is what is taken from a /proc/PID/status.
type status struct {
	nested bool   // more than one pid: it lives in a pid namespace below ours
	euid   uint32 // in our user namespace
}

// parseStatus reads "NSpid", one pid for each namespace from ours down to the
// process's own (since Linux 4.1), and "Uid": real, effective, saved and file
// system user (proc_pid_status(5)). The kernel escapes newlines in the name, so
// that no caller can write a line of its own; a line that comes twice is an error
// all the same.
func parseStatus(text []byte) (status, error) {
	var s status
	var uids, pids int
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			n := len(bytes.Fields(rest))
			if n == 0 || !numbers(rest) {
				return status{nested: true}, errors.New("the NSpid line has no pids")
			}
			s.nested, pids = n > 1, pids+1
		}
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			fields := bytes.Fields(rest)
			if len(fields) != 4 || !numbers(rest) {
				return status{nested: true}, errors.New("the Uid line has not four users")
			}
			n, err := strconv.ParseUint(string(fields[1]), 10, 32)
			if err != nil {
				return status{nested: true}, errors.New("the effective user is no number")
			}
			s.euid, uids = uint32(n), uids+1
		}
	}
	if pids != 1 || uids != 1 {
		return status{nested: true}, fmt.Errorf("it has %d NSpid and %d Uid lines, not one of each", pids, uids)
	}
	return s, nil
}

func numbers(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && c != '\t' && c != ' ' && c != '\n' {
			return false
		}
	}
	return true
}

// parseStart reads the start time, field 22 of /proc/PID/stat, in clock ticks
// since boot (proc_pid_stat(5)). The second field is a name that the process
// chose, in parentheses, with any bytes in it: what counts is behind the last one.
func parseStart(text []byte) (uint64, error) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return 0, errors.New("it names no program")
	}
	const want = 22 - 3 // the first field behind the name is the third
	fields := bytes.Fields(text[end+1:])
	if len(fields) <= want {
		return 0, errors.New("it has no start time")
	}
	n, err := strconv.ParseUint(string(fields[want]), 10, 64)
	if err != nil {
		return 0, errors.New("its start time is no number")
	}
	return n, nil
}

// unitOf finds the system manager's unit in a /proc/PID/cgroup (cgroups(7)). Two
// lines can have it: "0::PATH" of the unified hierarchy and
// "N:name=systemd:PATH" of systemd's own where the rest is older. A path "/" says
// nothing; two that say something must agree. "" and no error: a process that is
// in no unit, or a system without systemd.
func unitOf(cgroup []byte) (string, error) {
	var paths []string
	seen := map[string]bool{}
	for line := range strings.Lines(string(cgroup)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			return "", errors.New("a line of the cgroup file has not three fields")
		}
		unified := parts[0] == "0" && parts[1] == ""
		if !unified && parts[1] != "name=systemd" {
			continue
		}
		if seen[parts[1]] || !strings.HasPrefix(parts[2], "/") {
			return "", errors.New("a hierarchy is there twice, or its path is none")
		}
		if seen[parts[1]] = true; parts[2] != "/" {
			paths = append(paths, parts[2])
		}
	}
	return agreed(paths)
}

func agreed(paths []string) (unit string, err error) {
	for i, path := range paths {
		u, err := unitInPath(path)
		if err != nil {
			return "", err
		}
		if i > 0 && u != unit {
			return "", errors.New("two hierarchies name different units")
		}
		unit = u
	}
	return unit, nil
}

// unitInPath takes the first part that is no slice, from the top: what a user's
// own manager, or a unit with a delegated subtree, has made below its unit can
// have any name, and is not looked at.
func unitInPath(path string) (string, error) {
	for part := range strings.SplitSeq(path[1:], "/") {
		if len(part) > len(".slice") && strings.HasSuffix(part, ".slice") {
			continue
		}
		unit := strings.TrimPrefix(part, "_") // systemd's escape of names that cgroups reserve (cg_escape)
		if stem, ok := cutSuffix(unit, ".service", ".scope"); !ok || stem == "" {
			return "", nil
		}
		if !unitName(unit) {
			return "", errors.New("a unit has a name that systemd would not give")
		}
		return unit, nil
	}
	return "", nil
}

func cutSuffix(s string, suffixes ...string) (string, bool) {
	for _, suffix := range suffixes {
		if stem, ok := strings.CutSuffix(s, suffix); ok {
			return stem, true
		}
	}
	return "", false
}

// unitName: at most 255 characters of those that systemd.unit(5) allows. Escapes
// ("\x2d") stay as they are, which is how systemd prints them.
func unitName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if ('a' > c || c > 'z') && ('A' > c || c > 'Z') && ('0' > c || c > '9') && strings.IndexByte(`:-_.\@`, c) < 0 {
			return false
		}
	}
	return len(s) <= 255
}

// invocationID: what systemd links to is 32 hexadecimal digits, or not believed.
func invocationID(s string) string {
	if len(s) != 32 || strings.Trim(s, "0123456789abcdef") != "" {
		return ""
	}
	return s
}
