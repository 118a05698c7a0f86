package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

func init() {
	children["older"] = older
	children["filtered"] = filtered
	children["skips"] = skips
}

// kernels are what other kernels, and service managers that forbid, answer.
var kernels = map[string]kernel{
	"Linux 6.1":                {landlock: func() (int, error) { return 2, nil }, seccomp: seccompWorks},
	"Linux 5.13":               {landlock: func() (int, error) { return 1, nil }, seccomp: seccompWorks},
	"no Landlock":              {landlock: func() (int, error) { return -1, unix.ENOSYS }, seccomp: seccompWorks},
	"Landlock switched off":    {landlock: func() (int, error) { return -1, unix.EOPNOTSUPP }, seccomp: seccompWorks},
	"Landlock forbidden":       {landlock: func() (int, error) { return -1, unix.EPERM }, seccomp: seccompWorks},
	"no seccomp":               {landlock: running.landlock, seccomp: func() error { return errors.New("the kernel has no seccomp filters") }},
	"neither, in a small cage": {landlock: func() (int, error) { return -1, unix.EPERM }, seccomp: func() error { return errors.New("seccomp(2) is not permitted") }},
}

// older enters on one of kernels and tries one thing of each part.
func older(o order) report {
	parts, err := enter(o.Profile, kernels[o.Args["kernel"]])
	return report{Parts: parts, Error: text(err), Got: map[string]string{
		LandlockFiles: errnoOf(read(args(o.Args).in("other", "file"))),
		LandlockTCP:   errnoOf(dial(args(o.Args).port("forbidden"), unix.AF_INET, 0)),
		Seccomp:       errnoOf(exec.Command("/bin/true").Run()),
	}}
}

// TestRequireNamesThePart: with require a part that is missing is the error, by name
// and with why, and nothing is taken; with auto the rest is taken.
func TestRequireNamesThePart(t *testing.T) {
	for name, want := range map[string]struct {
		first, why string // what require says
		on         []string
	}{
		"Linux 6.1":                {LandlockTCP, "ABI 2 is older than 4 (Linux 6.7)", []string{LandlockFiles, Seccomp}},
		"Linux 5.13":               {LandlockFiles, "ABI 1 is older than 2 (Linux 5.19)", []string{Seccomp}},
		"no Landlock":              {LandlockFiles, "no Landlock", []string{Seccomp}},
		"Landlock switched off":    {LandlockFiles, "lsm=", []string{Seccomp}},
		"Landlock forbidden":       {LandlockFiles, "not permitted", []string{Seccomp}},
		"no seccomp":               {Seccomp, "no seccomp filters", []string{LandlockFiles, LandlockTCP}},
		"neither, in a small cage": {LandlockFiles, "not permitted", nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := battlefield(t)
			o.Child, o.Args["kernel"] = "older", name
			o.Profile.Mode = Require
			r := run(t, o, false)
			if !strings.Contains(r.Error, want.first+" is missing: ") || !strings.Contains(r.Error, want.why) {
				t.Errorf("require says %q, want %q and %q", r.Error, want.first, want.why)
			}
			for part, got := range r.Got {
				if got != "" {
					t.Errorf("require failed and has taken %s: %s", part, got)
				}
			}
			o.Profile.Mode = Auto
			r = run(t, o, false)
			if r.Error != "" {
				t.Errorf("auto fails: %s", r.Error)
			}
			expect(t, r, want.on)
		})
	}
}

// expect compares what the parts say, and what was refused, with on.
func expect(t *testing.T, r report, on []string) {
	t.Helper()
	want := map[string]bool{}
	for _, name := range on {
		want[name] = true
	}
	for _, p := range r.Parts {
		if p.On != want[p.Name] || p.On != (p.Why == "") {
			t.Errorf("part %+v, want on = %v", p, want[p.Name])
		}
		refused := r.Got[p.Name] != ""
		// A program cannot be run either where no file may be executed.
		if byFiles := p.Name == Seccomp && want[LandlockFiles]; refused != p.On && !byFiles {
			t.Errorf("part %s: on %v, refused %v (%s)", p.Name, p.On, refused, r.Got[p.Name])
		}
	}
	if len(r.Parts) != 3 {
		t.Errorf("parts: %+v", r.Parts)
	}
}

// TestModes: off takes nothing, auto is the default, an unknown mode is an error.
func TestModes(t *testing.T) {
	here := []string{LandlockFiles, LandlockTCP, Seccomp}
	for _, c := range []struct {
		mode Mode
		on   []string
	}{{Off, nil}, {"", here}, {Auto, here}, {Require, here}} {
		o := battlefield(t)
		o.Child, o.Profile.Mode, o.Args["kernel"] = "older", c.mode, "this one"
		r := run(t, o, false)
		if r.Error != "" {
			t.Errorf("mode %q: %s", c.mode, r.Error)
		}
		expect(t, r, c.on)
		if missing := Missing(r.Parts); (missing == "") != (len(c.on) == 3) {
			t.Errorf("mode %q: missing is %q", c.mode, missing)
		}
	}
	if parts, err := Enter(Profile{Mode: "paranoid"}); err == nil || parts != nil {
		t.Errorf("an unknown mode gives %v, %v", parts, err)
	}
}

func init() { kernels["this one"] = running }

// filtered loads a filter as systemd 252's @system-service is one: without Landlock's
// calls or seccomp(2). Then the real kernel is asked.
func filtered(o order) report {
	names := map[string][]string{
		LandlockFiles: {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"},
		Seccomp:       {"seccomp"},
	}[o.Args["without"]]
	err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: seccomp.Policy{
		DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{{Action: seccomp.ActionErrno, Names: names}},
	}})
	if err != nil {
		return report{Error: err.Error()}
	}
	parts, err := Enter(o.Profile)
	return report{Parts: parts, Error: text(err)}
}

// TestForbiddenByTheServiceManager: a unit whose SystemCallFilter= lacks what the
// sandbox needs is told so, and is not taken for one with a sandbox.
func TestForbiddenByTheServiceManager(t *testing.T) {
	for _, part := range []string{LandlockFiles, Seccomp} {
		o := order{Child: "filtered", Profile: Profile{Mode: Require}, Args: map[string]string{"without": part}}
		r := run(t, o, false)
		if want := part + " is missing: "; !strings.Contains(r.Error, want) || !strings.Contains(r.Error, "not permitted") {
			t.Errorf("require says %q, want %q", r.Error, want)
		}
		o.Profile.Mode = Auto
		if r = run(t, o, false); r.Error != "" || !strings.Contains(Missing(r.Parts), part) {
			t.Errorf("auto says %q, missing %q, want %s", r.Error, Missing(r.Parts), part)
		}
	}
}

// skips enters with paths that are not there, and one that is put there later.
func skips(o order) report {
	parts, err := Enter(o.Profile)
	a := args(o.Args)
	return report{Parts: parts, Error: text(err), Got: map[string]string{
		"make what was not there": errnoOf(os.Mkdir(a.in("other", "absent"), 0o700)),
		"read beside it":          errnoOf(read(a.in("other", "file"))),
		"read the file":           errnoOf(read(a.in("read", "file"))),
	}}
}

// TestMissingPathsStayClosed: a path that is not there gives no right to anything
// around it.
func TestMissingPathsStayClosed(t *testing.T) {
	o := battlefield(t)
	o.Child = "skips"
	o.Profile.Read = append(o.Profile.Read, filepath.Join(o.Args["other"], "absent", "file"))
	o.Profile.Write = append(o.Profile.Write, filepath.Join(o.Args["other"], "absent"))
	r := run(t, o, false)
	if r.Error != "" || r.Got["make what was not there"] != "EACCES" || r.Got["read beside it"] != "EACCES" || r.Got["read the file"] != "" {
		t.Errorf("%q, %v", r.Error, r.Got)
	}
}
