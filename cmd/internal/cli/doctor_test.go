package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/cmd/internal/doctor"
)

// What an examination looks like: aligned, the words carrying the meaning, each cure
// below its line.
func TestDoctorLines(t *testing.T) {
	results := []doctor.Result{
		{Check: "configuration", Finding: doctor.Finding{State: doctor.OK, Text: "1 app, 3 listeners, 2 rules"}},
		{Check: "files and modes", Finding: doctor.Finding{State: doctor.Fail, Text: "two files are open\x1b[2J", Cures: []string{"chmod 0600 a", "chmod 0600 b"}}},
		{Check: "clock", Finding: doctor.Finding{State: doctor.Warn, Text: "nothing keeps it right", Cures: []string{"timedatectl set-ntp true"}}},
		{Check: "store", Finding: doctor.Finding{State: doctor.Unknown, Text: "it needs files and modes"}},
	}
	var plain, painted strings.Builder
	for _, r := range results {
		plain.WriteString(resultLine(r, len("files and modes"), false))
		painted.WriteString(resultLine(r, len("files and modes"), true))
	}
	golden(t, "doctor.golden", plain.String())
	if strings.Contains(plain.String(), "\x1b") {
		t.Error("a control character of a finding, or a colour, is printed")
	}
	bare := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(painted.String(), "")
	if bare != plain.String() || painted.String() == bare {
		t.Errorf("with colours: %q", painted.String())
	}
}

// Colours are for a terminal only.
func TestDoctorColours(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &program{IO: IO{Stdout: f, Env: func(string) string { return "" }}}
	if p.colours() {
		t.Error("a file is painted")
	}
}

// A machine without anything installed is told so line by line, as text and as JSON,
// and the exit status says that something is wrong.
func TestDoctorOnAnEmptyMachine(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tokenvault.toml")
	for name, content := range map[string]string{"no file": "", "a mistake": "[vault]\ncolour = 1\n"} {
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		socket := filepath.Join(dir, "none")
		text := invoke(t, nil, "", "doctor", "--config", path, "--socket", socket)
		if text.status != exitFound || text.stderr != "" || !strings.HasPrefix(text.stdout, "fail         configuration") || !strings.Contains(text.stdout, "\n"+strings.Repeat(" ", 31)+"-> ") {
			t.Errorf("%s: exit %d, stderr %q\n%s", name, text.status, text.stderr, text.stdout)
		}
		r := invoke(t, nil, "", "--config", path, "doctor", "--json", "--socket", socket)
		var report doctor.Report
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.status != exitFound || r.stderr != "" || report.OK || len(report.Checks) != len(doctor.Names()) {
			t.Errorf("%s: exit %d, %v, stderr %q\n%s", name, r.status, err, r.stderr, r.stdout)
		}
		for _, c := range report.Checks {
			if len(strings.Split(text.stdout, "  "+c.Check+"  ")) < 2 && c.Check != "files and modes" && c.Check != "users and groups" {
				t.Errorf("%s: the text has no line %q", name, c.Check)
			}
		}
	}
}

// inSource finds what doctor tells people to type.
var inSource = regexp.MustCompile(`(?m)["` + "`" + `, ]tokenvault ([a-z][^"` + "`" + `,|\n]*)`)

// Every command that a line names as its cure exists.
func TestCuresAreCommands(t *testing.T) {
	files, err := filepath.Glob("../doctor/*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(source)) {
			for _, m := range inSource.FindAllStringSubmatch(line, -1) {
				if strings.HasPrefix(strings.TrimSpace(line), "//") || strings.Contains(line, `"tokenvault doctor"`) {
					continue
				}
				seen++
				if what := unknownIn(strings.Fields(m[1])); what != "" && strings.ToLower(what) == what {
					t.Errorf("%s: tokenvault %s: there is no %s", filepath.Base(file), m[1], what)
				}
			}
		}
	}
	if seen < 15 {
		t.Errorf("only %d commands were found", seen)
	}
}
