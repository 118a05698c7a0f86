package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/exchange/humanapitest"
)

// wrongAnswers is one in how many answers that is about somebody else.
const wrongAnswers = 64

// upstream stands before the simulator. It takes its time before and after a
// request takes effect, writes down what was issued to whom, and answers a few
// requests by itself, with somebody else's tokens.
type upstream struct {
	t   testing.TB
	sim http.Handler
	url string

	mu     sync.Mutex
	quiet  sync.Cond // open changed
	open   int       // connections
	order  int
	issues map[string]issue // by publicToken, and by accessToken
	last   map[string]issue // by owner, and by session token
	asked  map[string]int   // posts by session token
	acked  map[string]bool  // by session token
	wrong  map[string]bool  // by session token, and by owner: answered with somebody else's tokens
	// story is what happened, by owner; numbers names sessions in it.
	story   map[string][]string
	numbers map[string]int
}

// issue is one pair of tokens; order says when it was made, from 1.
type issue struct {
	owner string
	order int
}

func startUpstream(t testing.TB, sim *humanapitest.Server) *upstream {
	u := &upstream{t: t, sim: sim.Handler(), issues: map[string]issue{}, last: map[string]issue{}, asked: map[string]int{}, acked: map[string]bool{}, wrong: map[string]bool{},
		story: map[string][]string{}, numbers: map[string]int{}}
	u.quiet.L = &u.mu
	s := httptest.NewUnstartedServer(u)
	s.Config.ConnState = u.count
	s.Start()
	t.Cleanup(s.Close)
	u.url = s.URL
	return u
}

func (u *upstream) count(_ net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch state {
	case http.StateNew:
		u.open++
	case http.StateClosed, http.StateHijacked:
		u.open--
		u.quiet.Broadcast()
	}
}

// settle waits until everything that the killed daemon sent has been dealt with.
// A connection of our own stands behind the daemon's in the queue.
func (u *upstream) settle() {
	own := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := own.Get(u.url)
	must(u.t, err)
	must(u.t, resp.Body.Close())
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.open > 0 {
		u.quiet.Wait()
	}
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := new(bytes.Buffer)
	if _, err := body.ReadFrom(r.Body); err != nil {
		return // the daemon was killed while it sent
	}
	pause(r)
	rec := u.carryOut(r, body.Bytes())
	pause(r)
	for name, values := range rec.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()) // the daemon may be gone
}

// pause is the way through the network; who leaves ends it, and what has
// arrived takes effect all the same.
func pause(r *http.Request) {
	select {
	case <-time.After(rand.N(6 * time.Millisecond)):
	case <-r.Context().Done():
	}
}

// carryOut lets the simulator do it, one request after the other.
func (u *upstream) carryOut(r *http.Request, body []byte) *httptest.ResponseRecorder {
	var in, out struct{ HumanID, ClientID, SessionToken, AccessToken, PublicToken string }
	inner := httptest.NewRequest(r.Method, r.URL.Path, bytes.NewReader(body))
	inner.Header = r.Header
	rec := httptest.NewRecorder()
	u.mu.Lock()
	defer u.mu.Unlock()
	if r.URL.Path != tokens {
		u.sim.ServeHTTP(rec, inner)
		return rec
	}
	if json.Unmarshal(body, &in) != nil {
		u.t.Error("Human API is sent something else than JSON")
	}
	if rand.N(wrongAnswers) == 0 {
		u.asked[in.SessionToken]++
		u.tell(in.ClientID+" "+in.HumanID, in.SessionToken, "posted: somebody else")
		u.wrong[in.SessionToken], u.wrong[in.ClientID+" "+in.HumanID] = true, true
		return somebodyElse(in.ClientID, len(u.asked))
	}
	u.sim.ServeHTTP(rec, inner)
	if u.asked[in.SessionToken]++; u.acked[in.SessionToken] {
		u.t.Error("doubled: what was answered is sent to Human API again")
	}
	if rec.Code != 200 || json.Unmarshal(rec.Body.Bytes(), &out) != nil {
		u.tell(in.ClientID+" "+in.HumanID, in.SessionToken, fmt.Sprintf("posted: %d", rec.Code))
		return rec
	}
	i, known := u.issues[out.PublicToken]
	if !known {
		u.order++
		i = issue{in.ClientID + " " + in.HumanID, u.order}
		u.issues[out.PublicToken], u.issues[out.AccessToken], u.last[i.owner] = i, i, i
	}
	u.last[in.SessionToken] = i
	u.tell(i.owner, in.SessionToken, fmt.Sprintf("posted: issue %d", i.order))
	return rec
}

// somebodyElse is a whole answer, about a user who did not ask.
func somebodyElse(clientID string, n int) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	rec.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rec).Encode(map[string]string{
		"humanId": "marker-somebody-else", "clientId": clientID, "clientUserId": "else@example.test",
		"publicToken": fmt.Sprintf("marker-wrong-public-%d", n), "accessToken": fmt.Sprintf("marker-wrong-access-%d", n),
	})
	return rec
}

// tell adds a line to what happened to an owner; a session is a number in it.
func (u *upstream) tell(owner, session, what string) {
	n, known := u.numbers[session]
	if !known {
		n = len(u.numbers) + 1
		u.numbers[session] = n
	}
	u.story[owner] = append(u.story[owner], fmt.Sprintf("session %d %s", n, what))
}

// tale is the end of what happened to an owner, for the message of a failure.
func (u *upstream) tale(owner string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.story[owner]
	return strings.Join(all[max(0, len(all)-24):], ", ")
}

// note is tell for what callers see.
func (u *upstream) note(owner, session, what string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tell(owner, session, what)
}

// wronged tells whether a session token, or an owner, had such an answer.
func (u *upstream) wronged(key string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.wrong[key]
}

func (u *upstream) issue(token string) (issue, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	i, ok := u.issues[token]
	return i, ok
}

// lastOf is the newest issue of an owner or of a session token.
func (u *upstream) lastOf(key string) (issue, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	i, ok := u.last[key]
	return i, ok
}

func (u *upstream) acknowledged(session string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.acked[session] = true
}

func (u *upstream) posts(session string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[session]
}

// again counts the posts of session tokens beyond their first.
func (u *upstream) again() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, posts := range u.asked {
		n += posts - 1
	}
	return n
}
