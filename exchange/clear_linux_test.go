package exchange

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// The memory that answers are read into is the reader's whole memory, and is clear
// when an attempt is over, whatever came of it.
func TestReaderIsCleared(t *testing.T) {
	for name, fault := range map[string]humanapitest.Fault{
		"good":    {},
		"surplus": {Kind: humanapitest.Surplus},
		"refused": {Status: 422, Message: markerUpstream},
		"cut":     {Kind: humanapitest.Truncated},
		"page":    {Kind: humanapitest.HTML},
	} {
		t.Run(name, func(t *testing.T) {
			sim := startSim(t, humanapitest.Config{})
			c := newClient(t, Config{UserURL: sim.URL})
			dial := c.pool.dial
			var used *link
			var saw bytes.Buffer
			c.pool.dial = func(ctx context.Context) (*link, error) {
				l, err := dial(ctx)
				if err == nil {
					used = l
					l.limit.from = io.TeeReader(l.limit.from, &saw)
				}
				return l, err
			}
			sim.Misbehave(fault)
			_, _ = c.Tokens(t.Context(), finish(sim))
			if len(used.held) != used.in.Size() || saw.Len() == 0 {
				t.Fatalf("%d bytes of %d are known, and %d were read", len(used.held), used.in.Size(), saw.Len())
			}
			if bytes.Trim(used.held, "\x00") != nil {
				t.Error("the bytes of an answer are still there")
			}
			used.held[0] = 'x'
			used.in.Reset(strings.NewReader("y"))
			if _, err := used.in.ReadByte(); err != nil || used.held[0] != 'y' {
				t.Error("it is not the memory that is read into")
			}
		})
	}
}

// order is what the process in TestCopiesInMemory is told to do.
type order struct {
	URL, CA, Session, Secret string
	Times                    int // each over a connection of its own
}

// runAsClient makes one exchange as the daemon does, wipes what it got, closes
// the connection, and waits. It runs in a process of its own, whose memory
// nobody else's copies are in.
func runAsClient(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return err
	}
	// The secrets come in pieces, so that what brought them is no copy of them.
	join := func(halves string) secret.Text {
		b := bytes.ReplaceAll([]byte(halves), []byte("|"), nil)
		defer clear(b)
		return secret.New(b)
	}
	for range o.Times {
		r := TokensRequest{ClientID: markerApp, HumanID: markerHuman, SessionToken: join(o.Session), ClientSecret: join(o.Secret)}
		if err := exchangeOnce(o, r); err != nil {
			return err
		}
	}
	runtime.GC()
	runtime.GC()
	fmt.Fprintln(out, "done")
	_, err = lines.ReadByte()
	return err
}

func exchangeOnce(o order, r TokensRequest) error {
	defer r.SessionToken.Wipe()
	defer r.ClientSecret.Wipe()
	c, err := New(Config{UserURL: o.URL, CAFile: o.CA, UnsafePlainHTTP: true})
	if err != nil {
		return err
	}
	defer c.Close()
	reply, err := c.Tokens(context.Background(), r)
	reply.AccessToken.Wipe()
	return err
}

// pieces puts a bar into a text, every four bytes.
func pieces(text string) string {
	var b strings.Builder
	for i, r := range text {
		if i%4 == 0 {
			b.WriteByte('|')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// How many copies of its secrets an exchange leaves in the memory of the process,
// read as the owner of a debugger would: over plain HTTP none. Over TLS those stay
// that crypto/tls makes (see the package comment), until their memory is used again.
func TestCopiesInMemory(t *testing.T) {
	for _, c := range []struct {
		over    string
		times   int
		ceiling int
	}{{"plain HTTP", 1, 0}, {"plain HTTP", 20, 0}, {"TLS", 1, 1}, {"TLS", 20, 20}} {
		t.Run(fmt.Sprintf("%s, %d times", c.over, c.times), func(t *testing.T) {
			sim := startSim(t, humanapitest.Config{})
			o := order{URL: sim.URL, Times: c.times}
			if c.over == "TLS" {
				sim, o.URL, o.CA = startTLS(t, nil)
			}
			sim.SetMode(humanapitest.Repeatable)
			session := sim.NewSession(markerApp, markerHuman, markerLocal)
			o.Session, o.Secret = pieces(session), pieces(markerSecret)
			pid, answer := startClient(t, o)
			if answer != "done" {
				t.Fatalf("the client says %q", answer)
			}
			access, _ := sim.Current(markerApp, markerHuman)
			found := copies(t, pid, map[string]string{"clientSecret": markerSecret + "\"", "sessionToken": session, "accessToken": access})
			t.Logf("figure: copies after %d exchanges over %s: clientSecret %d, sessionToken %d, accessToken %d",
				c.times, c.over, found["clientSecret"], found["sessionToken"], found["accessToken"])
			for name, n := range found {
				if n > c.ceiling || n > 1 && name == "accessToken" { // what is received is cleared
					t.Errorf("%d copies of the %s, at most %d are known", n, name, c.ceiling)
				}
			}
		})
	}
}

func startClient(t testing.TB, o order) (pid int, answer string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), runClient+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
		kill.Stop()
	})
	if err := json.NewEncoder(in).Encode(o); err != nil {
		t.Fatal(err)
	}
	answer, _ = bufio.NewReader(out).ReadString('\n')
	return cmd.Process.Pid, strings.TrimSpace(answer)
}

// copies counts texts in all memory of a process that can be read.
func copies(t testing.TB, pid int, texts map[string]string) map[string]int {
	t.Helper()
	maps, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/" + strconv.Itoa(pid) + "/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	found, read := map[string]int{}, 0
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode, rest string
		if n, _ := fmt.Sscanf(line, "%x-%x %s %s", &from, &to, &mode, &rest); n != 4 || !strings.HasPrefix(mode, "rw") {
			continue
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, from) // a mapping without memory behind it cannot be read
		read += n
		for name, text := range texts {
			c := bytes.Count(b[:n], []byte(text))
			found[name] += c
			if c > 0 {
				t.Logf("%d of the %s in %s", c, name, strings.Join(strings.Fields(line)[5:], " "))
			}
		}
	}
	if read < 1<<20 {
		t.Fatalf("only %d bytes of memory could be read", read)
	}
	return found
}
