package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// fullLoad is callers who exchange one-time session tokens, and others who look
// users up, while the disk fills.
type fullLoad struct {
	*diskCase
	client rootCaller

	over     chan struct{} // closed: no new finish events
	overRead chan struct{} // closed: no more lookups
	all      sync.WaitGroup

	stored, looked, again atomic.Int64
	full                  atomic.Bool // the disk is
	notStored, notLooked  first       // the first refusals
	fromReserve           atomic.Int64
	unused                atomic.Int64 // bytes of the audit log's reserve at the first refused lookup

	mu      sync.Mutex
	events  []sto
	refused map[string]int // exchanges, by code
	unclear map[string]int // by code
}

// first is closed when something happens for the first time.
type first struct {
	once sync.Once
	done chan struct{}
}

func (f *first) happened(then func()) { f.once.Do(func() { then(); close(f.done) }) }

func startFullLoad(c *diskCase) *fullLoad {
	l := &fullLoad{
		diskCase: c, client: c.root("public"), over: make(chan struct{}), overRead: make(chan struct{}),
		notStored: first{done: make(chan struct{})}, notLooked: first{done: make(chan struct{})},
		refused: map[string]int{}, unclear: map[string]int{},
	}
	for range 64 {
		l.all.Go(l.exchanges)
	}
	for range 4 {
		l.all.Go(l.lookups)
	}
	return l
}

func isOver(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// exchanges is one caller: each finish event is repeated until it is answered.
func (l *fullLoad) exchanges() {
	for !isOver(l.over) {
		s := l.event("load")
		l.mu.Lock()
		l.events = append(l.events, s)
		l.mu.Unlock()
		for limit := time.Now().Add(40 * time.Second); !l.exchange(s) && time.Now().Before(limit); {
			time.Sleep(100 * time.Millisecond) // callers are told to wait longer
		}
	}
}

// exchange is false when it is to be repeated.
func (l *fullLoad) exchange(s sto) bool {
	a, err := l.client.try("POST", tokens, s.json(), jsonType)
	var body struct{ Error, HumanID, PublicToken string }
	if err != nil || json.Unmarshal([]byte(a.body), &body) != nil {
		l.again.Add(1)
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case a.status == 200:
		l.stored.Add(1)
		if _, public := l.sim.Current(shop, s.humanID); body.HumanID != s.humanID || body.PublicToken != public {
			l.t.Error("mixed up: an answer is not about its user")
		}
		return true
	case a.status == 503:
		l.refused[body.Error]++
		l.notStored.happened(func() {})
		return false
	}
	l.unclear[body.Error]++
	return body.Error == "indeterminate"
}

// lookups is one caller. A small disk is not to be filled by the audit log alone.
func (l *fullLoad) lookups() {
	for ; !isOver(l.overRead); time.Sleep(time.Millisecond) {
		a, err := l.client.try("GET", "/v1/users/"+l.old.humanID+"?clientId="+shop, "")
		switch {
		case err != nil:
			time.Sleep(20 * time.Millisecond) // the daemon was killed
		case a.status == 200:
			l.looked.Add(1)
			if isOver(l.notStored.done) && !isOver(l.notLooked.done) {
				l.fromReserve.Add(1)
			}
		case strings.Contains(a.body, "audit_unavailable"):
			l.notLooked.happened(func() { l.unused.Store(l.reserveLeft()) })
			time.Sleep(20 * time.Millisecond)
		case strings.Contains(a.body, `"starting"`):
			time.Sleep(20 * time.Millisecond)
		default:
			l.t.Errorf("a lookup is answered %d", a.status)
			return
		}
	}
}

// reserveLeft is how much disk the audit log's file has beyond its size.
func (l *fullLoad) reserveLeft() int64 {
	var st syscall.Stat_t
	if err := syscall.Stat(l.path("log/audit.log"), &st); err != nil {
		return -1
	}
	return st.Blocks*512 - st.Size
}

func (l *fullLoad) awaitStored(more int64) {
	l.t.Helper()
	until := l.stored.Load() + more
	l.await("exchanges", func() bool { return l.stored.Load() >= until })
}

// end lets everybody finish, and holds the store against Human API's record.
func (l *fullLoad) end() (doubted int) {
	close(l.over)
	close(l.overRead)
	l.all.Wait()
	l.client.http.CloseIdleConnections()
	l.await("health", func() bool { return l.healthText() == soundHealth })
	lost, twice, spent := 0, 0, 0
	for _, s := range l.events {
		uses := l.sim.Uses(s.sessionToken)
		stored := l.storedOf(s.humanID)
		switch {
		case uses > 1:
			twice++
		case uses == 1 && stored == doubtStored:
			doubted++
		case uses == 1 && stored != tokensStored:
			lost++
		}
		spent += uses
	}
	if lost != 0 || twice != 0 {
		l.t.Errorf("%d session tokens were spent without their tokens stored, %d were used twice", lost, twice)
	}
	l.t.Logf("figure: %d session tokens spent, %d of them without their tokens stored, %d users listed as indeterminate; refused: %v, other answers: %v, no answer: %d", spent, lost, doubted, l.refused, l.unclear, l.again.Load())
	l.stop()
	l.proved()
	return doubted
}

func fullCase(t *testing.T, d disks) *diskCase {
	base := prepareWorld(t, options{mode: humanapitest.OneTime})
	base.setUpVault()
	d.both, d.size = "ext4", 96<<20
	return base.newCase(t, d)
}

// The disk fills under load: no session token is spent without its tokens stored,
// lookups go on while there is a reserve, and all is well again when there is room.
func TestDiskFillsUnderLoad(t *testing.T) {
	l := startFullLoad(fullCase(t, disks{}))
	l.awaitStored(200)
	free := l.fillUp("disk")
	l.await("refused exchanges", func() bool { return isOver(l.notStored.done) })
	l.await("refused lookups", func() bool { return isOver(l.notLooked.done) })
	if left := l.unused.Load(); left < 0 || left >= 16<<10 {
		t.Errorf("a lookup was refused while the audit log had %d bytes of reserve", left)
	}
	l.allRefused()
	t.Logf("figure: on the full disk %d lookups were served out of the audit log's reserve of 2MiB before the first was refused", l.fromReserve.Load())
	free()
	l.comesBack()
	l.awaitStored(200)
	if l.end() != 0 {
		t.Error("users are in doubt although nothing was killed")
	}
}

// awaitRefused waits for that many more exchanges to be refused.
func (l *fullLoad) awaitRefused(more int) {
	l.t.Helper()
	count := func() (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, r := range l.refused {
			n += r
		}
		return n
	}
	until := count() + more
	l.await("more refusals", func() bool { return count() >= until })
}

// allRefused: with the reserve used up nothing reaches Human API.
func (l *fullLoad) allRefused() {
	l.t.Helper()
	l.awaitRefused(128) // what was on the wire has ended
	posts, stored := l.sim.Count(tokens), l.stored.Load()
	l.awaitRefused(256)
	if n, m := l.sim.Count(tokens)-posts, l.stored.Load()-stored; n != 0 || m != 0 {
		l.t.Errorf("with the reserve used up %d exchanges were sent, %d stored", n, m)
	}
	if code := l.root("public").do("GET", "/v1/health", "").status; code != 200 {
		l.t.Errorf("health is answered %d", code)
	}
}

// comesBack measures how long it takes after there is room.
func (l *fullLoad) comesBack() {
	l.t.Helper()
	start, looked, stored := time.Now(), l.looked.Load(), l.stored.Load()
	l.await("lookups", func() bool { return l.looked.Load() > looked })
	lookups := time.Since(start)
	l.await("exchanges", func() bool { return l.stored.Load() > stored })
	exchanges := time.Since(start)
	if exchanges > 5*time.Second {
		l.t.Errorf("exchanges go on %v after there is room", exchanges)
	}
	l.t.Logf("figure: after there was room lookups went on in %v, exchanges in %v", lookups.Round(10*time.Millisecond), exchanges.Round(10*time.Millisecond))
}

// The same, and kill -9 while the disk is full: the next start finds the reserves
// of the last on it.
func TestDiskFillsUnderLoadAndKill(t *testing.T) {
	l := startFullLoad(fullCase(t, disks{reserve: "6MiB"}))
	l.awaitStored(200)
	free := l.fillUp("disk")
	l.await("refused exchanges", func() bool { return isOver(l.notStored.done) })
	l.awaitRefused(192) // what was on the wire has ended
	l.kill()
	l.client.http.CloseIdleConnections()
	l.start()
	looked := l.looked.Load()
	l.await("lookups after kill -9 on the full disk", func() bool { return l.looked.Load() > looked })
	free()
	l.comesBack()
	l.awaitStored(200)
	if l.end() != 0 {
		t.Error("users are in doubt although nothing was on the wire")
	}
}

// With when_full = "unsafe-unrecorded-lookups" lookups never fail, and the log says
// how many it does not have.
func TestDiskFillsUnrecorded(t *testing.T) {
	l := startFullLoad(fullCase(t, disks{whenFull: "unsafe-unrecorded-lookups"}))
	l.awaitStored(200)
	free := l.fillUp("disk")
	l.await("refused exchanges", func() bool { return isOver(l.notStored.done) })
	l.await("the reserve to be used up", func() bool {
		log, err := os.ReadFile(l.path("daemon.log"))
		must(t, err)
		return strings.Contains(string(log), "public reads are answered unrecorded")
	})
	looked := l.looked.Load()
	l.await("unrecorded lookups", func() bool { return l.looked.Load() > looked+1000 })
	l.allRefused()
	free()
	l.comesBack()
	l.awaitStored(50)
	l.await("the note of what was not recorded", func() bool {
		log, err := os.ReadFile(l.path("log/audit.log"))
		must(t, err)
		return strings.Contains(string(log), `"outcome":"unrecorded"`)
	})
	l.end()
	if isOver(l.notLooked.done) {
		t.Error("a lookup was refused")
	}
}
