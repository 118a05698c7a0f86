package peer

import (
	"strings"
	"testing"
)

func TestUnitOf(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/shop.service\n":                                              "shop.service",
		"9:name=systemd:/system.slice/shop.service\n8:pids:/x.service\n0::/\n":         "shop.service",
		"1:name=systemd:/\n0::/system.slice/shop.service\n":                            "shop.service",
		"1:name=systemd:/a.slice/shop.service\n0::/a.slice/shop.service/sub\n":         "shop.service",
		"1:name=systemd:/a.slice/other.service\n0::/a.slice/shop.service\n":            "error",
		"1:name=systemd:/docker/x\n0::/a.slice/shop.service\n":                         "error",
		"0::/user.slice/user-1000.slice/user@1000.service/system.slice/shop.service\n": "user@1000.service",
		"0::/user.slice/user-1000.slice/session-3.scope\n":                             "session-3.scope",
		"0::/init.scope\n": "init.scope",
		"0::/system.slice/deleg.service/evil.service\n":                                  "deleg.service",
		"0::/machine.slice/systemd-nspawn@c.service/payload/system.slice/shop.service\n": "systemd-nspawn@c.service",
		"0::/system.slice/docker-0123.scope\n":                                           "docker-0123.scope",
		"0::/system.slice/_cpu.service\n":                                                "cpu.service",
		"0::/system.slice/a\\x2db.service\n":                                             `a\x2db.service`,
		"0::/\n":                                                                         "",
		"0::/docker/0123\n":                                                              "",
		"0::/../../system.slice/shop.service\n":                                          "",
		"0::/system.slice\n":                                                             "",
		"0::/.slice/shop.service\n":                                                      "",
		"0::/.service\n":                                                                 "",
		"0::/_.scope\n":                                                                  "",
		"0::/x.slice/shop.service (deleted)\n":                                           "",
		"0::/x.slice/shop service.service\n":                                             "error",
		"0::/x.slice/shöp.service\n":                                                     "error",
		"0::/" + strings.Repeat("x", 248) + ".service\n":                                 "error",
		"0::/a.service\n0::/b.service\n":                                                 "error",
		"0::a.service\n":                                                                 "error",
		"0::/Shop.SERVICE\n":                                                             "",
		"nonsense\n":                                                                     "error",
		"1:cpu:/x.service\n":                                                             "",
		"1:a,name=systemd:/x.service\n":                                                  "",
		"0:x:/x.service\n":                                                               "",
		"":                                                                               "",
	} {
		got, err := unitOf([]byte(text))
		if err != nil {
			got += "error"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	const uid = "Uid:\t1\t2\t3\t4\n"
	for text, want := range map[string]string{
		uid + "NSpid:\t12\n": "plain", uid + "NSpid:\t12\t1\n": "nested", "Name:\tNSpid:\t1\n" + uid + "NSpid:\t1\t2\n": "nested",
		uid + "NSpid:\n": "error", uid: "error", "NSpid:\t12\n": "error", "": "error", uid + uid + "NSpid:\t12\n": "error",
		uid + "NSpid:\t12\nNSpid:\t12\t1\n": "error", "Uid:\t1\t2\t3\nNSpid:\t1\n": "error", "Uid:\t1\tx\t3\t4\nNSpid:\t1\n": "error",
		"Uid:\t1\t4294967296\t3\t4\nNSpid:\t1\n": "error", uid + "NSpid:\tx\n": "error",
	} {
		s, err := parseStatus([]byte(text))
		got := map[bool]string{true: "nested", false: "plain"}[s.nested]
		if err != nil {
			got = "error"
		} else if s.euid != 2 {
			t.Errorf("%q: effective user %d", text, s.euid)
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// TestParseStart: a program's name may look like the rest of the line.
func TestParseStart(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 1 0 0 0 1 2 3 4 20 0 1 0 777 1000 1\n"
	for _, name := range []string{"cat", ") S 1 1 1 1", "a b\n(c) ", ""} {
		if got, err := parseStart([]byte("12 (" + name + ")" + rest)); err != nil || got != 777 {
			t.Errorf("%q: got %d, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "12 (cat) S 1\n", "12 cat S 1 2 3\n", "1 (c) S 1 2 3 0 -1 4 1 0 0 0 1 2 3 4 20 0 1 0 x 1\n"} {
		if _, err := parseStart([]byte(bad)); err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
}

func TestLabelIsPrintable(t *testing.T) {
	for in, want := range map[string]string{"docker-default (enforce)\n": "docker-default (enforce)", "a\x00b": "a", "x\x1b[1mé": "x?[1m??", "": "", strings.Repeat("l", 500): strings.Repeat("l", 128)} {
		if got := label([]byte(in)); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
	for in, want := range map[string]bool{"0123456789abcdef0123456789abcdef": true, "": false, "0123456789ABCDEF0123456789abcdef": false, "../../etc/passwd": false} {
		if got := invocationID(in); (got != "") != want {
			t.Errorf("%q is taken for %q", in, got)
		}
	}
}

func FuzzStatus(f *testing.F) {
	for _, s := range []string{"Name:\tx\nUid:\t1\t1\t1\t1\nNSpid:\t12\n", "Uid:\t0\t0\t0\t0\nNSpid:\t12\t1\n", "NSpid:\n", "", "Name:\tNSpid:\t1\nNSpid:\t1\t2\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := parseStatus(text); err != nil && !s.nested {
			t.Error("an unreadable status must count as contained")
		}
	})
}

func FuzzStart(f *testing.F) {
	f.Add([]byte("12 (cat) S 1 2 3 0 -1 4194560 1 0 0 0 1 2 3 4 20 0 1 0 777 1000 1\n"))
	f.Add([]byte("12 (c)) ("))
	f.Fuzz(func(t *testing.T, text []byte) {
		before, err := parseStart(text)
		after, again := parseStart(append([]byte("1 (x) S 9 9 "), text...))
		if err == nil && (again != nil || after != before) {
			t.Error("what stands in a name changes the start time")
		}
	})
}

func FuzzUnitOf(f *testing.F) {
	for _, s := range []string{"0::/system.slice/shop.service\n", "9:name=systemd:/a.slice/b.scope\n0::/\n", "0::/docker/x\n", "0::/_.service", "::\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		unit, err := unitOf(text)
		switch {
		case err != nil && unit != "":
			t.Error("an error comes with a unit")
		case unit != "" && (strings.Contains(unit, "/") || len(unit) > 255 || !strings.HasSuffix(unit, ".service") && !strings.HasSuffix(unit, ".scope")):
			t.Errorf("%q is no unit", unit)
		case unit != "" && !strings.Contains(string(text), "/"+unit) && !strings.Contains(string(text), "/_"+unit):
			t.Errorf("%q does not begin a part of the path", unit)
		}
	})
}
