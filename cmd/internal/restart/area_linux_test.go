package restart

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keeper is a service manager: it holds descriptors of its own by name.
type keeper struct {
	t     testing.TB
	files map[string][]*os.File
	fail  error
	kept  int
}

func newKeeper(t testing.TB) *keeper {
	k := &keeper{t: t, files: map[string][]*os.File{}}
	t.Cleanup(func() {
		k.fail = nil
		for name := range k.files {
			_ = k.Drop(name)
		}
	})
	return k
}

func duplicate(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func (k *keeper) Keep(name string, f *os.File) error {
	if k.fail != nil {
		return k.fail
	}
	k.kept++
	k.files[name] = append(k.files[name], duplicate(k.t, f))
	return nil
}

func (k *keeper) Drop(name string) error {
	if k.fail != nil {
		return k.fail
	}
	for _, f := range k.files[name] {
		_ = f.Close()
	}
	delete(k.files, name)
	return nil
}

// back is what the next process inherits; nil when nothing is kept.
func (k *keeper) back() *os.File {
	k.t.Helper()
	files := k.files[Name]
	if len(files) > 1 {
		k.t.Fatalf("%d descriptors are kept under one name", len(files))
	}
	if len(files) == 0 {
		return nil
	}
	return duplicate(k.t, files[0])
}

// start opens an area as a process does that was just started.
func start(t testing.TB, m *machine, k *keeper, change ...func(*Config)) *Area {
	t.Helper()
	c := Config{Instance: "main", Inherited: k.back(), Keep: k.Keep, Drop: k.Drop, Now: m.Now, Boot: m.Boot}
	for _, f := range change {
		f(&c)
	}
	a, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func save(t testing.TB, a *Area, c Contents) {
	t.Helper()
	if off := a.Off(); off != "" {
		t.Fatalf("it is off: %s", off)
	}
	if err := a.Save(c); err != nil {
		t.Fatal(err)
	}
}

// finds expects the area to hold c.
func finds(t testing.TB, a *Area, c Contents) {
	t.Helper()
	got, ok := a.Load()
	if !ok || !equal(got, c) || a.Missing() != "" {
		t.Errorf("it holds %t %+v (%s)", ok, bare(got), a.Missing())
	}
	got.Wipe()
}

// lost expects the area to hold nothing, to say why, and to be wiped.
func lost(t testing.TB, a *Area, why string) {
	t.Helper()
	if c, ok := a.Load(); ok || !strings.Contains(a.Missing(), why) {
		t.Errorf("it holds %t %+v, and says %q, not %q", ok, bare(c), a.Missing(), why)
	}
	if a.region != nil && !zero(a.region.bytes) {
		t.Error("it was not wiped")
	}
}

func TestRestart(t *testing.T) {
	m, k := newMachine(), newKeeper(t)
	first := start(t, m, k)
	lost(t, first, "nothing was kept")
	for n := 1; n < 6; n++ {
		save(t, first, sample(m, n, 3))
	}
	want := sample(m, 5, 3)
	finds(t, first, want)
	first.Close()
	first.Close()
	if err := first.Save(want); err != nil || first.Off() == "" {
		t.Errorf("after Close: %v, %q", err, first.Off())
	}
	second := start(t, m, k)
	if k.kept != 1 || !second.region.secret {
		t.Errorf("kept %d times, memfd_secret %t", k.kept, second.region.secret)
	}
	finds(t, second, want)
	finds(t, second, want) // it stays
	m.pass(time.Minute)
	want = sample(m, 6, 1)
	save(t, second, want)
	second.Close()
	finds(t, start(t, m, k), want)
}

// TestNothingIsLeftBehind: what was replaced or wiped is not in the area any more,
// and a caller's Wipe of what Load gave leaves the area alone.
func TestNothingIsLeftBehind(t *testing.T) {
	m, k := newMachine(), newKeeper(t)
	a := start(t, m, k)
	save(t, a, sample(m, 111, 20))
	save(t, a, sample(m, 222, 1))
	if bytes.Contains(a.region.bytes, []byte("-111")) || !bytes.Contains(a.region.bytes, []byte("marker-client-secret-222")) {
		t.Error("what was replaced is still there, or what replaced it is not")
	}
	c, _ := a.Load()
	c.Wipe()
	finds(t, a, sample(m, 222, 1))
	a.Wipe()
	lost(t, a, "wiped")
	save(t, a, sample(m, 333, 1))
	finds(t, a, sample(m, 333, 1))
	a.Wipe()
	a.Close()
	lost(t, start(t, m, k), "")
}

func TestWhatIsNotOurs(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*machine, *Config)
		why    string
	}{
		"boot":     {func(m *machine, _ *Config) { m.boot = "marker-next-boot" }, "another boot"},
		"clock":    {func(m *machine, _ *Config) { m.since -= time.Second }, "later than now"},
		"instance": {func(_ *machine, c *Config) { c.Instance = "other" }, "another instance"},
	} {
		m, k := newMachine(), newKeeper(t)
		a := start(t, m, k)
		save(t, a, sample(m, 1, 1))
		a.Close()
		var log bytes.Buffer
		b := start(t, m, k, func(o *Config) {
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			c.change(m, o)
		})
		lost(t, b, c.why)
		if !strings.Contains(log.String(), "restart memory wiped") || strings.Contains(log.String(), "marker") {
			t.Errorf("%s: it logs %q", name, &log)
		}
		lost(t, b, c.why) // and it stays so
	}
}

func TestDamagedSlots(t *testing.T) {
	for name, damage := range map[string]func(*region){
		"one bit of the body":   func(r *region) { r.slots()[1][100] ^= 1 },
		"one bit of the sum":    func(r *region) { r.slots()[1][slotSize(int(r.slots()[1][23])|int(r.slots()[1][22])<<8)-1] ^= 1 },
		"another version":       func(r *region) { r.slots()[1][11] = 2 },
		"random everywhere":     func(r *region) { copy(r.bytes, bytes.Repeat([]byte("garbage"), firstSize/7)) },
		"an impossible length":  func(r *region) { copy(r.slots()[1][20:], []byte{0xff, 0xff, 0xff, 0xff}) },
		"only the other's head": func(r *region) { copy(r.slots()[0], r.slots()[1][:50]); clear(r.slots()[1]) },
	} {
		m, k := newMachine(), newKeeper(t)
		a := start(t, m, k)
		save(t, a, sample(m, 1, 1))
		damage(a.region)
		a.Close()
		b := start(t, m, k)
		t.Run(name, func(t *testing.T) { lost(t, b, "damaged") })
		save(t, b, sample(m, 2, 1))
		finds(t, b, sample(m, 2, 1))
	}
}

// TestEveryCut: a Save that stopped after any byte it wrote leaves the contents
// before it, or its own.
func TestEveryCut(t *testing.T) {
	m, k := newMachine(), newKeeper(t)
	a := start(t, m, k)
	before, after := sample(m, 1, 1), sample(m, 2, 1)
	save(t, a, before)
	image := make([]byte, slotSize(measure(after, m.moment())))
	fill(image, a.sequence+1, after, m.moment())
	slots := a.region.slots()
	for n := range len(image) + 1 {
		clear(slots[0])
		copy(slots[0], image[:n])
		b := start(t, m, k)
		want := before
		if n == len(image) {
			want = after
		}
		if c, ok := b.Load(); !ok || !equal(c, want) {
			t.Fatalf("cut after %d of %d bytes: %t %+v", n, len(image), ok, bare(c))
		}
		b.Close()
	}
}

func TestGrow(t *testing.T) {
	m, k := newMachine(), newKeeper(t)
	a := start(t, m, k)
	save(t, a, sample(m, 1, 1))
	old := k.back()
	want := sample(m, 2, 2000)
	save(t, a, want)
	if k.kept != 2 || len(a.region.bytes) <= firstSize {
		t.Errorf("kept %d times, %d bytes", k.kept, len(a.region.bytes))
	}
	finds(t, a, want)
	r, err := adopt(old)
	if err != nil {
		t.Fatal(err)
	}
	if !zero(r.bytes) {
		t.Error("the smaller area was not wiped")
	}
	r.close()
	save(t, a, want)
	a.Close()
	b := start(t, m, k)
	finds(t, b, want)
	if err := b.Save(sample(m, 3, 40000)); err == nil {
		t.Error("it takes what is larger than the largest area")
	}
	finds(t, b, want)
}

func TestGrowThatIsNotKept(t *testing.T) {
	m, k := newMachine(), newKeeper(t)
	a := start(t, m, k)
	save(t, a, sample(m, 1, 1))
	k.fail = errors.New("marker-refusal")
	if err := a.Save(sample(m, 2, 2000)); !errors.Is(err, k.fail) || !strings.Contains(a.Off(), "marker-refusal") {
		t.Errorf("%v, off: %q", err, a.Off())
	}
	k.fail = nil
	lost(t, start(t, m, k), "") // the old area was wiped: it is out of date
}

func TestSaveRefuses(t *testing.T) {
	m, k := newMachine(), newKeeper(t)
	a := start(t, m, k)
	want := sample(m, 1, 1)
	save(t, a, want)
	other := sample(m, 2, 1)
	other.Instance = "other"
	if err := a.Save(other); err == nil {
		t.Error("another instance's contents")
	}
	m.boot = ""
	if err := a.Save(sample(m, 2, 1)); err == nil {
		t.Error("saved in an unknown boot")
	}
	m.boot = newMachine().boot
	finds(t, a, want)
}
