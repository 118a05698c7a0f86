package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The syncs that one durable request costs while nothing else is under way. A
// commit of bbolt is two fdatasync: of the pages, and of the meta page that
// makes them count.
var (
	commit = []string{"write store", "sync store", "write store", "sync store"}

	syncedExchange = slices.Concat(
		[]string{"request", "write attempt"},
		commit, // the intent
		[]string{"ask Human API"},
		commit, // the row
		[]string{"write outcome", "sync audit", "answer"},
	)
	syncedRead = []string{"request", "write attempt", "write outcome", "sync audit", "answer"}
)

// What must be on the disk is synced before anyone relies on it: the intent
// before Human API is asked, row and audit line before the caller is answered.
// kill -9 keeps the page cache, so only the system calls themselves show it.
func TestSyncsBeforeTheAnswer(t *testing.T) {
	w := prepareWorld(t, options{})
	w.setUpVault()
	w.write("trace", "", daemonUID, 0o600)
	// -D: the daemon is our child and strace is not, so that signals reach it.
	w.start()
	tracer := exec.Command("strace", "-f", "-p", fmt.Sprint(w.daemon.cmd.Process.Pid), "-yy", "-s", "100", "-o", w.path("trace"),
		"-e", "trace=fdatasync,fsync,sync,syncfs,sync_file_range,msync,ftruncate,read,write,writev,pwrite64,pwritev,sendto,sendmsg,openat,io_uring_setup")
	must(t, tracer.Start())
	t.Cleanup(func() { _ = tracer.Wait() })
	w.awaitReady()
	public, private := w.root("public"), w.root("private")
	human := w.sim.NewHumanID()
	exchange := func() {
		public.do("POST", tokens, w.finishEvent(human, "one@example.test").json(), jsonType).want(t, 200, "")
	}
	read := func() { private.do("GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").want(t, 200, "") }
	for range 3 {
		w.checkSyncs("exchange", exchange, syncedExchange)
	}
	for range 2 {
		w.checkSyncs("access token", read, syncedRead)
	}
	w.stop()
	trace, err := os.ReadFile(w.path("trace"))
	must(t, err)
	if strings.Contains(string(trace), "io_uring_setup(") || regexp.MustCompile(`openat\(.*/(state|log)/.*O_D?SYNC`).Match(trace) {
		t.Error("files are synced in a way that this test does not see")
	}
	if t.Failed() {
		return
	}
	t.Log("figure: one exchange: 4 fdatasync of the store (2 commits), 1 of the audit log; one access token: 1 of the audit log; each before it is relied on")
}

// checkSyncs does one request after a quiet moment, and compares the system
// calls between its arrival and its answer.
func (w *world) checkSyncs(name string, request func(), want []string) {
	w.t.Helper()
	// A checkpoint of the audit log that comes in between is another's sync.
	for range 5 {
		from := w.awaitQuiet()
		request()
		got := w.between(from)
		if slices.Contains(got, "write checkpoint") {
			continue
		}
		if !slices.Equal(got, want) {
			w.t.Errorf("%s:\n got %s\nwant %s", name, strings.Join(got, ", "), strings.Join(want, ", "))
		}
		return
	}
	w.t.Errorf("%s: no quiet moment", name)
}

// awaitQuiet waits until the last line of the audit log is a checkpoint that has
// been synced: then nothing is left to be done in the background. It returns
// how much of the trace there is.
func (w *world) awaitQuiet() int {
	w.t.Helper()
	for limit := time.Now().Add(30 * time.Second); time.Now().Before(limit); {
		trace := w.trace()
		// Only what concerns the log: an answer may stand between the two.
		acts := slices.DeleteFunc(actions(trace), func(act string) bool {
			return !strings.HasSuffix(act, "audit") && !slices.Contains(auditKinds, act)
		})
		if n := len(acts); n > 1 && acts[n-1] == "sync audit" && acts[n-2] == "write checkpoint" {
			return len(trace)
		}
		time.Sleep(10 * time.Millisecond) // strace tells nobody
	}
	w.t.Fatal("the audit log does not become quiet")
	return 0
}

// between waits for the answer and returns what was done from the request to
// it, without the growing of the store's file.
func (w *world) between(from int) []string {
	w.t.Helper()
	for limit := time.Now().Add(30 * time.Second); time.Now().Before(limit); {
		acts := actions(w.trace()[from:])
		// An answer to a request before it may stand in front.
		if first := slices.Index(acts, "request"); first >= 0 {
			if last := slices.Index(acts[first:], "answer"); last >= 0 {
				return withoutGrowth(acts[first : first+last+1])
			}
		}
		time.Sleep(5 * time.Millisecond) // strace tells nobody
	}
	w.t.Fatal("the trace shows no answer")
	return nil
}

// withoutGrowth takes out what bbolt does when the file must grow (it doubles up
// to 16 MiB, then grows by 16 MiB): ftruncate and fsync, before any page is
// written; and makes one of several pages written in a row.
func withoutGrowth(acts []string) (out []string) {
	for i := 0; i < len(acts); i++ {
		switch {
		case acts[i] == "grow store" && i+1 < len(acts) && acts[i+1] == "sync store":
			i++
		case acts[i] == "write store" && len(out) > 0 && out[len(out)-1] == "write store":
		default:
			out = append(out, acts[i])
		}
	}
	return out
}

func (w *world) trace() string {
	w.t.Helper()
	b, err := os.ReadFile(w.path("trace"))
	must(w.t, err)
	return string(b[:strings.LastIndexByte(string(b), '\n')+1])
}

// actions reads a trace. A read or a sync counts when it has ended, all else
// when it begins.
func actions(trace string) (out []string) {
	unfinished := map[string]string{} // by thread: the read or sync it is in
	for line := range strings.Lines(trace) {
		thread, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		if m := resumed.FindString(call); m != "" {
			begun := unfinished[thread]
			delete(unfinished, thread)
			if begun == "" {
				continue
			}
			call = begun + call[len(m):]
		}
		if begun, cut := strings.CutSuffix(call, "<unfinished ...>"); cut && countsAtEnd.MatchString(call) {
			unfinished[thread] = begun
			continue
		}
		switch act := action(call); {
		case strings.HasPrefix(act, "sync "):
			out = append(out, ended(act, call))
		case act != "":
			out = append(out, act)
		}
	}
	return out
}

var (
	resumed = regexp.MustCompile(`^<\.\.\. \w+ resumed>`)
	onFile  = regexp.MustCompile(`^(\w+)\(\d+<([^>]*(?:->[^>]*)?)>`)
	// countsAtEnd: what was read is shown only then, and a sync says only then that it is done.
	countsAtEnd = regexp.MustCompile(`^(read|\w*sync\w*)\(`)
	auditKind   = regexp.MustCompile(`\\"kind\\":\\"(\w+)\\"`)
	auditKinds  = []string{"write attempt", "write outcome", "write note", "write checkpoint", "write segment"}
)

// ended tells a sync that failed from one that did its work.
func ended(act, call string) string {
	if strings.HasSuffix(call, "= 0") {
		return act
	}
	return "failed to " + act
}

// action names a system call on a file or socket that matters, "" for others.
func action(call string) string {
	m := onFile.FindStringSubmatch(call)
	if m == nil {
		if strings.HasPrefix(call, "sync()") || strings.HasPrefix(call, "msync(") {
			return "sync everything"
		}
		return ""
	}
	name, on := m[1], m[2]
	writes := strings.Contains(name, "write") || strings.HasPrefix(name, "send")
	switch {
	case strings.Contains(name, "sync"):
		return "sync " + fileOf(on)
	case name == "ftruncate":
		return "grow " + fileOf(on)
	case writes && strings.HasSuffix(on, "/log/audit.log"):
		if kind := auditKind.FindStringSubmatch(call); kind != nil {
			return "write " + kind[1]
		}
		return "write audit"
	case writes && strings.HasSuffix(on, "/state/store.db"):
		return "write store"
	case writes && strings.HasPrefix(on, "TCP") && strings.Contains(call, `"POST `+tokens+" "):
		return "ask Human API"
	case name == "read" && strings.HasPrefix(on, "UNIX-STREAM") && strings.Contains(call, " HTTP/1.1"):
		return "request"
	case writes && strings.HasPrefix(on, "UNIX-STREAM"):
		return "answer"
	}
	return ""
}

func fileOf(on string) string {
	switch {
	case strings.HasSuffix(on, "/state/store.db"):
		return "store"
	case strings.HasSuffix(on, "/log/audit.log"):
		return "audit"
	}
	return on
}
