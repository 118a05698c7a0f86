package secret

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flags is VmFlags of the mapping that starts at b (proc_pid_smaps(5)).
func flags(t testing.TB, b []byte) string {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(smaps), fmt.Sprintf("\n%08x-", uintptr(unsafe.Pointer(&b[0]))))
	if !found {
		t.Fatal("no mapping starts where the region does")
	}
	_, after, _ = strings.Cut(after, "VmFlags: ")
	line, _, _ := strings.Cut(after, "\n")
	return " " + line + " "
}

func TestRegionOfTheKernel(t *testing.T) {
	for _, c := range []struct {
		hidden bool
		flags  string // lo locked, dd not dumped, wf empty in a child, dc not in a child
	}{{true, "lo dd dc"}, {false, "lo dd wf"}} {
		m := mapRegion(8*4096, c.hidden)
		if len(m.bytes) != 8*4096 || !m.locked || !m.guarded || m.hidden != c.hidden || c.hidden != (m.reason == "") {
			t.Fatalf("hidden %t: %d bytes, locked %t, guarded %t, hidden %t: %s", c.hidden, len(m.bytes), m.locked, m.guarded, m.hidden, m.reason)
		}
		got := flags(t, m.bytes)
		for want := range strings.FieldsSeq(c.flags) {
			if !strings.Contains(got, " "+want+" ") {
				t.Errorf("hidden %t: flags%swithout %s", c.hidden, got, want)
			}
		}
		m.bytes[0], m.bytes[len(m.bytes)-1] = 1, 1
		for _, at := range []int{-1, len(m.bytes)} {
			if !faults((*byte)(unsafe.Add(unsafe.Pointer(&m.bytes[0]), at))) {
				t.Errorf("hidden %t: the byte at %d can be read", c.hidden, at)
			}
		}
	}
}

func faults(at *byte) (did bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { did = recover() != nil }()
	sink = *at
	return false
}

var sink byte

const childEnv = "TOKENVAULT_TEST_REGION"

// TestNothingMayBeLocked is in a child, which gives up the right to lock.
func TestNothingMayBeLocked(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		unlockable(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestNothingMayBeLocked$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("region without a lock")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func unlockable(t *testing.T) {
	runtime.LockOSThread()
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{}); err != nil {
		t.Fatal(err)
	}
	header, sets := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		t.Fatal(err)
	}
	s := Region()
	if s.Locked || s.Hidden || !s.Guarded || s.Bytes != RegionSize || strings.Count(s.Reason, "RLIMIT_MEMLOCK") != 2 {
		t.Fatalf("status %+v", s)
	}
	if k := Keep([]byte("marker-kept")); string(k.Reveal()) != "marker-kept" || Region().Used != cell || !strings.Contains(flags(t, RegionBytes()), " dd ") {
		t.Fatal("it is not kept in the region, or that can be dumped")
	}
	t.Logf("region without a lock: %s", s.Reason)
}

// TestKeptBytesReachTheKernel: hidden memory is hidden from others, and not from this
// process's own system calls.
func TestKeptBytesReachTheKernel(t *testing.T) {
	kept := newRegion(mapRegion(4096, true)).keep([]byte("marker-kept"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.Write(kept.Reveal()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, kept.Len())
	if _, err := r.Read(got); err != nil || string(got) != "marker-kept" {
		t.Errorf("read back: %v, or other bytes", err)
	}
}
