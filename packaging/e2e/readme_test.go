package e2e

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// block returns the README's code block of that language which contains part.
func block(t testing.TB, language, part string) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	must(t, err)
	for _, b := range strings.Split(string(readme), "```"+language+"\n")[1:] {
		if code, _, _ := strings.Cut(b, "```"); strings.Contains(code, part) {
			return code
		}
	}
	t.Fatalf("the README has no %s block with %q", language, part)
	return ""
}

const readmeSocket = "/run/tokenvault/public/api.sock"

// The README's Python, Node and curl work as they are written, but for the path
// of the socket and the sessionTokenObject.
func TestReadmeCallers(t *testing.T) {
	w := newWorld(t, options{})
	here := w.socket("public")
	python := strings.ReplaceAll(block(t, "python", "requests_unixsocket"), url.QueryEscape(readmeSocket), url.QueryEscape(here))
	js := strings.ReplaceAll(block(t, "js", "socketPath"), readmeSocket, here)
	_, builtin, _ := strings.Cut(js, "// Node, built in\n")
	curl := strings.ReplaceAll(strings.ReplaceAll(block(t, "sh", "curl --unix-socket"), readmeSocket, here), "alice%40example.com", "readme%40example.test")
	for name, command := range map[string]func(sto) *exec.Cmd{
		"python": func(s sto) *exec.Cmd {
			return script(t, "/usr/bin/python3", "session_token_object = "+s.json()+"\n"+python+"\nprint(r.text)\n", w.path("caller.py"))
		},
		"node": func(s sto) *exec.Cmd {
			return script(t, "node", "const http = require('http'), sessionTokenObject = "+s.json()+", done = r => r.pipe(process.stdout);\n"+builtin, w.path("caller.js"))
		},
		"curl": func(s sto) *exec.Cmd {
			before, rest, _ := strings.Cut(curl, `-d '`)
			_, after, _ := strings.Cut(rest, `'`)
			return script(t, "/bin/sh", before+`-d '`+s.json()+`'`+after, w.path("caller.sh"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			human := w.sim.NewHumanID()
			cmd := command(w.finishEvent(human, "readme@example.test"))
			cmd.SysProcAttr = asUser(webUID, publicGID)
			out := runCommand(t, cmd, "")
			_, public := w.sim.Current(shop, human)
			if out.code != 0 || !strings.Contains(out.stdout, fmt.Sprintf("%q", public)) {
				t.Errorf("exit %d, and no publicToken:\n%s", out.code, out.stderr)
			}
		})
	}
}

func script(t testing.TB, interpreter, text, path string) *exec.Cmd {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
	cmd := exec.Command(interpreter, path)
	cmd.Dir, cmd.Env = filepath.Dir(path), []string{"PATH=" + os.Getenv("PATH")}
	return cmd
}

// The configuration that the README starts from is right but for what an
// administrator makes beside it: the sockets' groups.
func TestReadmeConfiguration(t *testing.T) {
	text, err := os.ReadFile("../tokenvault.toml")
	must(t, err)
	w := &world{t: t, dir: t.TempDir(), config: filepath.Join(t.TempDir(), "tokenvault.toml")}
	withGroups := strings.ReplaceAll(string(text), "[[listener]]", "[[listener]]\ngroup = \"0\"")
	must(t, os.WriteFile(w.config, []byte(withGroups), 0o644))
	w.must("", "config", "check")
}
