package cli_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/cmd/internal/cli"
	"github.com/tokenvault/tokenvault/cmd/internal/run"
)

// asProgram makes this test binary the program itself.
const asProgram = "TOKENVAULT_TEST_AS_PROGRAM"

// TestMain lets tests run the program by its real entry, as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "" {
		os.Exit(m.Run())
	}
	run.Main(func(ctx context.Context, io run.IO, args []string) int { return cli.Main(ctx, cli.IO(io), args) })
}

// program builds a command that runs the program in dir, with no environment
// but env.
func program(t testing.TB, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Dir, cmd.Env = dir, append([]string{asProgram + "=1", "HOME=" + dir}, env...)
	return cmd
}

const goodConfig = `
[[app]]
name = "shop"
client_id = "marker"
[[listener]]
name = "public"
group = ""
[[rule]]
name = "web"
users = [33]
apps = ["shop"]
grants = ["exchange"]
rate = { per_second = 200 }
[vault]
address = "https://vault.internal:8200"
`

const badConfig = `[vault]
address = "https://vault.internal:8200"
timeout = 5
colour = "red"
`

func TestProcess(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	idle := strings.Replace(goodConfig, `grants = ["exchange"]`, "grants = [\"exchange\", \"proxy\"]\npaths = [\"/**\"]", 1) + "[store]\npath = \"/dev/null/store.db\"\n"
	for name, text := range map[string]string{"good.toml": goodConfig, "idle.toml": idle, "bad.toml": badConfig, "token": "marker-token"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args           string
		env            []string
		stdin          string
		status         int
		stdout, stderr string // regular expressions; "" = empty
	}{
		{args: "version", stdout: `^tokenvault \S+ .*go1\.\d+`},
		{args: "version --json", stdout: `"version": `},
		{args: "help", stdout: `(?s)Exit status: 0 ok.*serve`},
		{args: "config check --help", stdout: `validate the configuration`},
		{args: "help nonsense", status: 2, stderr: `is not a command\nhint: `},
		{args: "config check --config good.toml", stdout: `^ok: 1 app, 1 listener, 1 rule\n$`},
		{args: "config check --config idle.toml", stdout: `^ok`, stderr: `^note: rule web: grant proxy does nothing in this version\n$`},
		{args: "serve --config idle.toml", status: 1, stderr: `level=WARN.*grant proxy does nothing in this version|"WARN".*grant proxy does nothing in this version`},
		{args: "--config good.toml config check --json", stdout: `"ok": true`},
		{args: "--config bad.toml config check --config good.toml", stdout: `^ok`},
		{args: "config check", env: []string{"TOKENVAULT_CONFIG=good.toml"}, stdout: `^ok`},
		{args: "config check --config bad.toml", status: 5, stderr: `^bad.toml:3: vault.timeout: wants a duration in quotes, such as "5s", not a number
bad.toml:4: vault.colour: is not a key of this version
hint: tokenvault config describe prints every key with its default
$`},
		{args: "config check --json --config bad.toml", status: 5, stdout: `(?s)"ok": false.*"line": 3,\s+"key": "vault.timeout"`, stderr: `^hint: `},
		{args: "config check --config missing.toml", status: 1, stderr: `no such file`},
		{args: "config describe", stdout: `(?s)vault.timeout  \(duration: ns, us, ms, s, m, h\)  default "5s"\n.*audit`},
		{args: "config describe --json", stdout: `"key": "rule\[\].grants"`},
		{args: "serve --config bad.toml", status: 1, stderr: `bad.toml:3: vault.timeout`},
		{args: "whoami --socket none.sock", status: 4, stderr: `\nhint: systemctl status`},
		{args: "whoami", env: []string{"TOKENVAULT_SOCKET=" + dir + "/none.sock"}, status: 4, stderr: dir + "/none.sock"},
		{args: "status --check --socket none.sock", status: 4, stderr: `cannot be reached`},
		{args: "exchange --socket none.sock", stdin: `{"humanId":"h","sessionToken":"marker-session"}`, status: 4, stderr: `cannot be reached`},
		{args: "exchange --socket none.sock", stdin: `marker-session`, status: 1, stderr: `not a sessionTokenObject`},
		{args: "users show --socket none.sock", status: 2, stderr: `either HUMAN_ID or`},
		{args: "users show --socket none.sock -", stdin: "\n", status: 2, stderr: `is empty`},
		{args: "users show --socket none.sock a --client-id b", status: 2, stderr: `options stand before arguments`},
		{args: "secret put --config good.toml shop", stdin: "marker-client-secret", status: 1, stderr: `no Vault token(?s).*hint: give --token-file`},
		{args: "secret put --config good.toml shed", status: 2, stderr: `neither the name nor the client_id`},
		{args: "secret put --config good.toml --token-file token shop", stdin: "two words", status: 1, stderr: `other characters that no clientSecret has`},
		{args: "vault policy", stdout: `path "secret/data/tokenvault/apps/\*"`},
		{args: "vault policy --format sh", stdout: `vault policy write`},
		{args: "vault policy --format yaml", status: 2, stderr: `wants hcl, sh or terraform`},
		{args: "audit verify --key 00", status: 2, stderr: `64 hex digits`},
		{args: "audit verify none.log", status: 5, stdout: `^NOT consistent: none.log`},
		{args: "store check --socket none.sock", status: 4, stderr: `cannot be reached`},
		{args: "reload --socket none.sock", status: 4, stderr: `cannot be reached`},
		{args: "store backup --socket none.sock --output none.backup", status: 4, stderr: `cannot be reached`},
		{args: "store accept --socket none.sock --yes", status: 4, stderr: `cannot be reached`},
		{args: "users list --socket none.sock --state indeterminate", status: 4, stderr: `cannot be reached`},
		{args: "users list --socket none.sock", status: 2, stderr: `needs --state indeterminate`},
		{args: "users prefer --socket none.sock h", status: 2, stderr: `needs --client-user-id`},
		{args: "dev --config good.toml", status: 2, stderr: `takes no configuration`},
	} {
		t.Run(c.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := program(t, dir, c.env, strings.Fields(c.args)...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), &stdout, &stderr
			err := cmd.Run()
			if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
				t.Fatal(err)
			} else if err != nil && exit.ExitCode() != c.status || err == nil && c.status != 0 {
				t.Errorf("%v, want exit %d; stderr %s", err, c.status, &stderr)
			}
			match(t, "stdout", c.stdout, stdout.String())
			match(t, "stderr", c.stderr, stderr.String())
			if strings.Contains(stderr.String(), "marker-session") || strings.Contains(stderr.String(), "marker-client-secret") {
				t.Error("stderr shows a secret")
			}
		})
	}
}

func match(t *testing.T, what, pattern, got string) {
	t.Helper()
	if pattern == "" {
		pattern = `^$`
	}
	if !regexp.MustCompile(pattern).MatchString(got) {
		t.Errorf("%s is %q, want %s", what, got, pattern)
	}
}
