package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/sandbox"
)

// kernel is what the machine is asked. Tests answer for others.
type kernel struct {
	pidfd, peerPidfd, secretmem func() error
	sandbox                     func() []sandbox.Part
	synced                      func() (bool, error)
	free                        func(dir string) (bytes uint64, fs [2]int32, err error)
}

const newerKernel = "boot a newer kernel (uname -r)"

func (e *exam) kernelFeatures(context.Context) Finding {
	var t tally
	k, mode := e.kernel, e.cfg.Sandbox.Mode
	if err := k.pidfd(); err != nil {
		t.add(bad(newerKernel, "pidfd_open: %v: no caller's unit can be told (Linux 5.3 has it)", err))
	}
	without := []string{}
	if err := k.peerPidfd(); err != nil {
		without = append(without, "SO_PEERPIDFD (Linux 6.5): units are read without proof")
	}
	if err := k.secretmem(); err != nil && e.cfg.Sandbox.RestartMemory != "off" {
		t.add(warn("boot with secretmem.enable=1 on the kernel's command line", "memfd_secret: %v: root can read the keys, and nothing outlives a restart", err))
	}
	for _, p := range e.parts() {
		switch {
		case p.On || mode == "off":
		case mode == "require":
			t.add(bad(newerKernel, "%s: %s, and sandbox.mode = \"require\"", p.Name, p.Why))
		case p.Name == sandbox.LandlockTCP:
			without = append(without, p.Name+": "+p.Why)
		default:
			t.add(warn(newerKernel, "%s: %s", p.Name, p.Why))
		}
	}
	if mode == "off" {
		t.add(warn(`set sandbox.mode = "auto" and systemctl restart tokenvault`, "sandbox.mode = \"off\": the daemon takes nothing from itself"))
	}
	fine := good("pidfd, Landlock, seccomp and memfd_secret are there")
	if len(without) > 0 {
		fine.Text += "; without " + strings.Join(without, ", ")
	}
	return t.worst(fine)
}

// parts is what the running daemon took from itself, else what this kernel has.
func (e *exam) parts() []sandbox.Part {
	if e.status == nil || len(e.status.Sandbox) == 0 {
		return e.kernel.sandbox()
	}
	var out []sandbox.Part
	for _, p := range e.status.Sandbox {
		out = append(out, sandbox.Part(p))
	}
	return out
}

// How far the clocks may be apart before it is said, and before it is a failure:
// tokens and certificates are judged by them.
const (
	clockWarn = 5 * time.Second
	clockFail = time.Minute
)

func (e *exam) clock(context.Context) Finding {
	const cure = "timedatectl set-ntp true"
	var t tally
	synced, err := e.kernel.synced()
	if err == nil && !synced {
		t.add(warn(cure, "nothing keeps this machine's clock right"))
	}
	fine := good("the kernel's clock is kept right")
	if e.cfg != nil && !e.contact.Clock.IsZero() {
		apart := e.Now().Sub(e.contact.Clock).Abs()
		switch apart -= e.contact.Took + time.Second; { // Vault tells whole seconds
		case apart > clockFail:
			t.add(bad(cure, "Vault's clock and this machine's are %v apart", apart.Round(time.Second)))
		case apart > clockWarn:
			t.add(warn(cure, "Vault's clock and this machine's are %v apart", apart.Round(time.Second)))
		}
		fine.Text += ", and agrees with Vault's"
	}
	if err != nil && len(t.list) == 0 && fine.Text == "" {
		return unknown("%v", err)
	}
	return t.worst(fine)
}

// space holds what is free against the reserves.
func (e *exam) space(context.Context) Finding {
	var t tally
	if e.status != nil && len(e.status.Disk) > 0 {
		t.add(bad("df -h "+filepath.Dir(e.cfg.Store.Path)+" "+filepath.Dir(e.cfg.Audit.Path), "the daemon: %s", strings.Join(e.status.Disk, "; ")))
		return t.worst(Finding{})
	}
	type place struct {
		dir  string
		need config.Size
	}
	left := map[[2]int32]uint64{}
	var texts []string
	for _, p := range []place{{filepath.Dir(e.cfg.Store.Path), e.cfg.Store.Reserve}, {filepath.Dir(e.cfg.Audit.Path), e.cfg.Audit.Reserve}} {
		bytes, fs, err := e.kernel.free(p.dir)
		if err != nil {
			continue // "files and modes" says that it is missing
		}
		left[fs] += uint64(p.need)
		texts = append(texts, fmt.Sprintf("%s has %s", p.dir, mib(bytes)))
		switch need := left[fs]; {
		case bytes < need:
			t.add(bad("df -h "+p.dir, "%s has %s free, and %s are the reserves", p.dir, mib(bytes), mib(need)))
		case bytes < 4*need:
			t.add(warn("df -h "+p.dir, "%s has %s free: little above the reserves of %s", p.dir, mib(bytes), mib(need)))
		}
	}
	if len(texts) == 0 {
		return unknown("the directories are not there yet")
	}
	return t.worst(good("%s free", strings.Join(texts, ", ")))
}

func mib(bytes uint64) string { return fmt.Sprintf("%d MiB", bytes>>20) }
