package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// machine is a Debian 12 whose PID 1 is systemd, and whose disk outlives a boot.
type machine struct {
	t     *testing.T
	name  string
	root  string // its file system: a layer over the cached one
	share string // what both sides see
}

// TestBoot installs by the README on a real systemd, and then takes Vault away,
// restarts, kills and reboots; measures what the service may do; connects as every
// kind of caller that systemd and namespaces make; and hands over sockets that are
// not what the configuration says.
func TestBoot(t *testing.T) {
	m := newMachine(t)
	m.boot("install.sh")
	m.boot("rebooted.sh")
	m.boot("hardened.sh")
	m.boot("callers.sh")
	m.boot("sockets.sh")
	m.boot("wrapped.sh")
	m.boot("wrapped-rebooted.sh")
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	base := os.Getenv("TOKENVAULT_TEST_ROOTFS")
	vault := os.Getenv("TOKENVAULT_TEST_VAULT")
	if base == "" || vault == "" {
		t.Fatal("TOKENVAULT_TEST_ROOTFS or TOKENVAULT_TEST_VAULT is not set: run packaging/test.sh --install")
	}
	dir, err := os.MkdirTemp("/tmp", "tvboot")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	m := &machine{t: t, name: filepath.Base(dir), root: filepath.Join(dir, "root"), share: filepath.Join(dir, "share")}
	for _, d := range []string{m.root, m.share, filepath.Join(dir, "disk")} {
		must(t, os.Mkdir(d, 0o755))
	}
	// A disk of its own: what is above an overlay must not be an overlay itself.
	must(t, syscall.Mount("tmpfs", filepath.Join(dir, "disk"), "tmpfs", 0, "size=1g"))
	t.Cleanup(func() { must(t, syscall.Unmount(filepath.Join(dir, "disk"), 0)) })
	upper, work := filepath.Join(dir, "disk/upper"), filepath.Join(dir, "disk/work")
	must(t, os.Mkdir(upper, 0o755))
	must(t, os.Mkdir(work, 0o755))
	must(t, syscall.Mount("overlay", m.root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", base, upper, work)))
	t.Cleanup(func() { must(t, syscall.Unmount(m.root, 0)) })
	m.fill()
	return m
}

// fill puts what the machine needs into the share.
func (m *machine) fill() {
	t := m.t
	repo := filepath.Join(m.share, "repo")
	must(t, os.CopyFS(filepath.Join(repo, "packaging/systemd"), os.DirFS("../systemd")))
	config, err := os.ReadFile("../tokenvault.toml")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(repo, "packaging/tokenvault.toml"), config, 0o644))
	for out, what := range map[string]string{"repo/tokenvault": "tokenvault", "humanapi-sim": "humanapi-sim"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(m.share, out), "../../cmd/"+what)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		must(t, cmd.Run())
	}
	files, err := fs.Glob(os.DirFS("testdata/boot"), "*")
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join("testdata/boot", f))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(m.share, f), b, 0o644))
	}
	first := block(t, "sh", "useradd --system")
	_, first, _ = strings.Cut(first, "\n") // the build
	second := strings.NewReplacer(
		"VAULT_TOKEN=…", "VAULT_TOKEN=$(cat /var/lib/vault-test/root)",
		"tokenvault secret put shop", "echo marker-client-secret | tokenvault secret put shop",
		"tokenvault status ", "within 10 tokenvault status ", // nobody types that fast
	).Replace(block(t, "sh", "tokenvault vault setup --apply"))
	must(t, os.WriteFile(filepath.Join(m.share, "readme1.sh"), []byte(first), 0o644))
	must(t, os.WriteFile(filepath.Join(m.share, "readme2.sh"), []byte(second), 0o644))
}

// boot boots the machine, runs a script in it, and halts it.
func (m *machine) boot(script string) {
	m.t.Helper()
	body, err := os.ReadFile(filepath.Join(m.share, script))
	must(m.t, err)
	must(m.t, os.WriteFile(filepath.Join(m.share, "run.sh"), body, 0o644))
	_ = os.Remove(filepath.Join(m.share, "output.log"))
	cmd := exec.Command("bash", "testdata/boot/boot.sh", m.name, m.root, m.share, os.Getenv("TOKENVAULT_TEST_VAULT"))
	err = cmd.Run()
	out, _ := os.ReadFile(filepath.Join(m.share, "output.log"))
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "figure: ") {
			m.t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(m.share, "console.log"))
		m.t.Fatalf("%s: %v\n%s\n--- console\n%s", script, err, tail(out), tail(console))
	}
}

func tail(b []byte) []byte { return b[max(0, len(b)-6000):] }
