// Package restart keeps what the daemon needs to go on after a restart while Vault
// cannot be reached: in one area of memory that the service manager holds a
// descriptor of, and that is gone with the machine's power.
//
// The area is memfd_secret(2): not even root reads it from outside, it is never
// swapped and stands in no core dump. Where the kernel has none it is off, unless
// the operator accepted memory that root can read. Nothing here is ever written to
// a disk, and no copy is left in the daemon's heap but what Load hands out.
//
// It trusts the kernel and the service manager to give back what was given to them,
// and believes an inherited descriptor only by what the kernel says of it. What is
// in the area it believes only whole, of this boot, of the same instance and of its
// own format; all else it wipes.
//
// BUG: systemd drops a descriptor without a word when FileDescriptorStoreMax= is
// not set for the service (its default is 0): the area then counts as kept, and is
// not there after the restart.
package restart

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/vault"
)

// Name is the area's name in the service manager's store.
const Name = "tokenvault-memory"

// The modes of [Config].Mode.
const (
	Off         = "off"
	Auto        = "auto"         // memfd_secret, or nothing
	UnsafeMemfd = "unsafe-memfd" // where there is no memfd_secret, memory that root can read
)

// Contents is what survives a restart. It is as secret as everything that the
// daemon holds.
type Contents struct {
	Instance      string // as in Config
	Vault         vault.Memory
	Secrets       []vault.SecretMemory
	Keys          keyring.Memory
	Anchor        vault.Anchor // the last one seen in Vault, or written
	AnchorVersion int          // its KV version; 0 = there was none
}

// Wipe clears the secrets.
func (c Contents) Wipe() {
	c.Vault.Wipe()
	for _, s := range c.Secrets {
		s.Wipe()
	}
	c.Keys.Wipe()
}

// Config is what [Open] needs.
type Config struct {
	Instance string // required; what another instance left is wiped
	Mode     string // Off, Auto (default) or UnsafeMemfd

	// Inherited is what the service manager gave back under [Name]; nil: nothing.
	// Open takes it over, and closes it in the end.
	Inherited *os.File
	// Keep has the service manager hold a descriptor under a name until Drop of that
	// name. nil: nobody does, and the area is off. [Keep] and [Drop] are systemd's.
	Keep func(name string, f *os.File) error
	Drop func(name string) error // required with Keep

	Now func() time.Time // default time.Now
	// Boot names the boot that the machine is in, and says how long ago it began,
	// time in which it slept included. Default: the kernel's boot_id and
	// CLOCK_BOOTTIME (proc_sys_kernel(5), clock_gettime(2)).
	Boot func() (id string, since time.Duration)

	Logger *slog.Logger // default: discard
}

func (c *Config) setDefaults() error {
	if c.Mode == "" {
		c.Mode = Auto
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Boot == nil {
		c.Boot = systemBoot
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Mode != Off && c.Mode != Auto && c.Mode != UnsafeMemfd:
		return fmt.Errorf("there is no mode %q", c.Mode)
	case c.Mode != Off && c.Instance == "":
		return errors.New("an Instance is required")
	case (c.Keep == nil) != (c.Drop == nil):
		return errors.New("one of Keep and Drop is missing")
	}
	return nil
}

// Area is the memory that survives. Its methods may be called concurrently. One
// that is off does nothing, without an error.
type Area struct {
	config Config

	mu       sync.Mutex
	region   *region // nil: off
	off      string  // why
	missing  string  // why the last Load gave nothing
	sequence uint64  // of the last slot written
	current  int     // the slot with what is valid now, -1: neither
}

// Open takes up the inherited area, or makes a new one and has it kept. It fails
// only for a Config that is wrong: an area that cannot be had is off, and Off says
// why. What was inherited and is not believed is dropped.
func Open(c Config) (*Area, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("open restart memory: %w", err)
	}
	a := &Area{config: c, current: -1, missing: "nothing was kept by the service manager"}
	a.inherit()
	if c.Mode == Off {
		a.off = "it is switched off"
	} else if a.region == nil {
		a.begin()
	}
	return a, nil
}

// inherit takes over Config.Inherited, or drops it.
func (a *Area) inherit() {
	f := a.config.Inherited
	if f == nil {
		return
	}
	r, err := adopt(f)
	switch {
	case err != nil:
		err = errors.Join(err, f.Close())
	case a.config.Mode == Off || a.config.Mode == Auto && !r.secret:
		clear(r.bytes)
		r.close()
		err = fmt.Errorf("the mode is %s", a.config.Mode)
	default:
		a.region = r
		a.sequence, a.current = newest(r.slots())
		return
	}
	a.missing = "what the service manager kept is not to be used"
	a.config.Logger.Warn("inherited restart memory refused", "error", err)
	if a.config.Drop != nil {
		if err := a.config.Drop(Name); err != nil {
			a.config.Logger.Warn("restart memory not dropped", "error", err)
		}
	}
}

// begin makes a new area.
func (a *Area) begin() {
	if a.config.Keep == nil {
		a.off = "no service manager keeps it"
		return
	}
	if id, _ := a.config.Boot(); id == "" {
		a.off = "the machine does not say which boot it is in"
		return
	}
	r, err := create(max(firstSize, 2*os.Getpagesize()), a.config.Mode == UnsafeMemfd)
	if err != nil {
		a.off = err.Error()
		return
	}
	if err := a.config.Keep(Name, r.file); err != nil {
		r.close()
		a.off = fmt.Sprintf("the service manager does not keep it: %v", err)
		return
	}
	a.region = r
}

// Off says why nothing is remembered, or "" when the area works.
func (a *Area) Off() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.off
}

// Missing says why the last Load gave nothing, in words for an administrator.
func (a *Area) Missing() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.missing
}
