package restart

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// savesFor is set in the environment of a process that saves until it is killed.
const savesFor = "TOKENVAULT_TEST_SAVES_FROM"

func TestMain(m *testing.M) {
	if from, err := strconv.Atoi(os.Getenv(savesFor)); err == nil {
		saveForEver(from)
	}
	os.Exit(m.Run())
}

// saveForEver takes up the area in descriptor 3 and says on stdout what is saved.
func saveForEver(n int) {
	m := newMachine()
	a, err := Open(Config{
		Instance: "main", Now: m.Now, Boot: m.Boot, Inherited: os.NewFile(3, Name),
		Keep: func(string, *os.File) error { return fmt.Errorf("this process is to inherit") },
		Drop: func(string) error { return nil },
	})
	for ; err == nil && a.Off() == ""; n++ {
		if err = a.Save(sample(m, n, 60)); err == nil {
			_, err = fmt.Println(n)
		}
	}
	fmt.Fprintln(os.Stderr, "cannot save:", err)
	os.Exit(1)
}

// killOne starts such a process, kills it at a random moment after its first Save,
// and returns the last number that it said was saved.
func killOne(t *testing.T, k *keeper, from int) int {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), savesFor+"="+strconv.Itoa(from))
	f := k.back()
	defer func() { _ = f.Close() }()
	c.ExtraFiles, c.Stderr = []*os.File{f}, os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	last, fuse := 0, (*time.Timer)(nil)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // what is cut off was not said
		}
		if last, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
			t.Fatal(err)
		}
		if fuse == nil {
			fuse = time.AfterFunc(rand.N(5*time.Millisecond), func() { _ = c.Process.Kill() })
		}
	}
	_ = c.Wait() // killed
	if fuse == nil {
		t.Fatal("it ended before it saved")
	}
	fuse.Stop()
	return last
}

// TestKilledWhileSaving: after every kill what is there is whole, no older than what
// was said to be saved, and one newer at most.
func TestKilledWhileSaving(t *testing.T) {
	const kills = 100
	m, k := newMachine(), newKeeper(t)
	start(t, m, k)
	torn, saves, from := 0, 0, 1
	for i := range kills {
		said := killOne(t, k, from)
		saves += said - from + 1
		a := start(t, m, k)
		for _, slot := range a.region.slots() {
			if !zero(slot) && whole(slot) == 0 {
				torn++
			}
		}
		c, ok := a.Load()
		a.Close()
		n := c.AnchorVersion
		if !ok || n < said || n > said+1 || !equal(c, sample(m, n, 60)) {
			t.Fatalf("kill %d: %d was said to be saved, and %t %d is there (%s)", i, said, ok, n, a.Missing())
		}
		from = n + 1
	}
	t.Logf("%d kills, %d saves, %d slots were found unfinished", kills, saves, torn)
	if torn == 0 {
		t.Error("no kill hit the middle of a Save: the test proves nothing")
	}
}
