package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

const unitName = "tokenvault.service"

// systemdDirs is where systemd looks for units, the strongest first (systemd.unit(5),
// "System Unit Search Path").
var systemdDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// setting is one assignment of a unit or one of its drop-ins.
type setting struct {
	file, section, key, value string
	line                      int
}

func (s setting) String() string { return fmt.Sprintf("%s:%d: %s=%s", s.file, s.line, s.key, s.value) }

// unit is the service's unit with its drop-ins, in the order in which they count.
type unit struct {
	file     string // "": there is none
	settings []setting
}

func readUnit(dirs []string) (u unit) {
	if dirs == nil {
		dirs = systemdDirs
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, unitName)
		if b, err := os.ReadFile(path); err == nil {
			u.file, u.settings = path, parseUnit(path, string(b))
			break
		}
	}
	if u.file == "" {
		return u
	}
	for _, path := range unitDropIns(dirs) {
		if b, err := os.ReadFile(path); err == nil {
			u.settings = append(u.settings, parseUnit(path, string(b))...)
		}
	}
	return u
}

// unitDropIns are in the order of their names; of two with one name the stronger
// directory's counts.
func unitDropIns(dirs []string) []string {
	found := map[string]string{}
	for _, dir := range dirs {
		for _, of := range []string{unitName + ".d", "service.d"} {
			paths, _ := filepath.Glob(filepath.Join(dir, of, "*.conf")) // the pattern is well-formed
			for _, path := range paths {
				if name := filepath.Base(path); found[name] == "" {
					found[name] = path
				}
			}
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, name := range names {
		names[i] = found[name]
	}
	return names
}

// parseUnit reads the format of systemd.syntax(7). A line that is none is passed over.
func parseUnit(file, text string) (out []setting) {
	section, held := "", ""
	for i, line := range strings.Split(text, "\n") {
		line = held + strings.TrimSpace(line)
		held = ""
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case strings.HasSuffix(line, "\\"):
			held = strings.TrimSuffix(line, "\\") + " "
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			if key, value, ok := strings.Cut(line, "="); ok {
				out = append(out, setting{file, section, strings.TrimSpace(key), strings.TrimSpace(value), i + 1})
			}
		}
	}
	return out
}

// all are the assignments that count of a list: an empty one forgets those before.
func (u unit) all(section, key string) (out []setting) {
	for _, s := range u.settings {
		if s.section != section || s.key != key {
			continue
		}
		if s.value == "" {
			out = nil
		}
		out = append(out, s)
	}
	return out
}

func (u unit) last(section, key string) string {
	if all := u.all(section, key); len(all) > 0 {
		return all[len(all)-1].value
	}
	return ""
}

// credentialSource is where systemd reads a credential, and whether it is encrypted
// there; known false: no unit says so.
func (u unit) credentialSource(name string) (path string, encrypted, known bool) {
	for _, key := range []string{"LoadCredential", "LoadCredentialEncrypted"} {
		for _, s := range u.all("Service", key) {
			if of, from, ok := strings.Cut(s.value, ":"); ok && of == name {
				path, encrypted, known = from, key == "LoadCredentialEncrypted", true
			}
		}
	}
	return path, encrypted, known
}

// hardening is what the packaged unit says; each value is the weakest that is taken
// for as strong. A test holds it against packaging/systemd.
var hardening = map[string][]string{
	"NoNewPrivileges": {"yes"}, "ProtectSystem": {"strict"}, "ProtectHome": {"yes", "tmpfs"}, "PrivateTmp": {"yes", "disconnected"},
	"PrivateDevices": {"yes"}, "ProtectHostname": {"yes"}, "ProtectClock": {"yes"}, "ProtectKernelTunables": {"yes"},
	"ProtectKernelModules": {"yes"}, "ProtectKernelLogs": {"yes"}, "ProtectControlGroups": {"yes", "strict", "private"},
	"RestrictNamespaces": {"yes"}, "RestrictRealtime": {"yes"}, "RestrictSUIDSGID": {"yes"}, "LockPersonality": {"yes"},
	"MemoryDenyWriteExecute": {"yes"}, "SystemCallArchitectures": {"native"}, "KeyringMode": {"private"},
	"CapabilityBoundingSet": {""}, "AmbientCapabilities": {""}, "UMask": {"0077"}, "LimitCORE": {"0"}, "MemorySwapMax": {"0"},
}

// lists are the words that the packaged unit gives in settings that add up.
var lists = map[string][]string{
	"SystemCallFilter":        {"@system-service", "~@privileged", "@resources", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "memfd_secret"},
	"RestrictAddressFamilies": {"AF_UNIX", "AF_INET", "AF_INET6"},
	"ReadWritePaths":          nil, "BindPaths": nil,
}

// unitFiles looks for settings that weaken what the packaged unit says.
func (e *exam) unitFiles(context.Context) Finding {
	if e.unit.file == "" {
		return unknown("systemd has no unit %s", unitName)
	}
	const cure = "systemctl edit tokenvault, then systemctl daemon-reload && systemctl restart tokenvault"
	weak := e.unit.weak()
	if len(weak) > 0 {
		return bad(cure, "the sandbox is weaker than packaged: %s", strings.Join(weak, "; "))
	}
	if user := e.unit.last("Service", "User"); user == "" || user == "root" || user == "0" {
		return bad(cure, "%s runs the daemon as root: User= is missing", e.unit.file)
	}
	return good("%s is as strong as packaged", e.unit.file)
}

func (u unit) weak() (out []string) {
	for key, strong := range hardening {
		all := u.all("Service", key)
		if len(all) == 0 {
			out = append(out, key+"= is missing")
		} else if s := all[len(all)-1]; !slices.Contains(strong, plain(s.value)) {
			out = append(out, s.String())
		}
	}
	for key, known := range lists {
		all := u.all("Service", key)
		if len(all) == 0 && known != nil {
			out = append(out, key+"= is missing")
		}
		for _, s := range all {
			for _, word := range strings.Fields(s.value) {
				if !slices.Contains(known, word) {
					out = append(out, s.String())
					break
				}
			}
			if s.value == "" && known != nil && s == all[len(all)-1] {
				out = append(out, s.String())
			}
		}
	}
	slices.Sort(out)
	return out
}

// plain writes a boolean as the packaged unit does.
func plain(value string) string {
	switch strings.ToLower(value) {
	case "1", "y", "t", "true", "on":
		return "yes"
	}
	return value
}
