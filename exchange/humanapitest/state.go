package humanapitest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// userKey: a humanId is valid for one app.
type userKey struct{ clientID, humanID string }

type person struct {
	clientUserID             string
	accessToken, publicToken string
}

// pretend is in answers of a 2xx that took no effect.
var pretend = person{accessToken: "sim-access-never-issued-" + strings.Repeat("x", 236), publicToken: "sim-public-never-issued-xxxxxxxx"}

type session struct {
	user         userKey
	clientUserID string
	uses         int
	answer       person // of the first use
}

// tag makes the tokens of two servers differ.
func tag() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	return hex.EncodeToString(b[:])
}

// mint makes a value of n characters from obvious words and a count. The mutex
// is held.
func (s *Server) mint(word string, n int) string {
	s.minted++
	head := fmt.Sprintf("sim-%s-%s-%d-", word, s.tag, s.minted)
	return head + strings.Repeat("x", max(n-len(head), 0))
}

// NewHumanID makes the id of a user that does not exist yet. NewSession takes
// any other id as well.
func (s *Server) NewHumanID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mint("human", 32)
}

// NewSession is a user's finish event in the popup: it returns the session
// token that the browser would hold. A new user exists from here on, and has a
// publicToken. The app need not exist.
func (s *Server) NewSession(clientID, humanID, clientUserID string) (sessionToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := userKey{clientID, humanID}
	if _, ok := s.users[key]; !ok {
		s.users[key] = &person{clientUserID: clientUserID, publicToken: s.mint("public", 32)}
	}
	token := s.mint("session", 32)
	s.sessions[token] = &session{user: key, clientUserID: clientUserID}
	return token
}

// EndSession makes a session token unknown, as if it had expired.
func (s *Server) EndSession(sessionToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sessionToken)
}

// Current returns the tokens that are valid now; "" for what there is none of.
func (s *Server) Current(clientID, humanID string) (accessToken, publicToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.users[userKey{clientID, humanID}]; ok {
		return p.accessToken, p.publicToken
	}
	return "", ""
}

// Uses returns how often a session token took effect or was answered again.
func (s *Server) Uses(sessionToken string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.sessions[sessionToken]; ok {
		return x.uses
	}
	return 0
}

// RotateSecret gives an app another secret, or makes a new app. The old secret
// is refused from now on. An empty secret removes the app.
func (s *Server) RotateSecret(clientID, clientSecret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if clientSecret == "" {
		delete(s.apps, clientID)
		return
	}
	s.apps[clientID] = clientSecret
}

// SetMode changes what becomes of session tokens that are used again.
func (s *Server) SetMode(m Mode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Mode = m
}

// use spends a session token, or refuses to.
func (s *Server) use(in map[string]string) (person, refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.sessions[in["sessionToken"]]
	switch {
	case !ok || x.user != userKey{in["clientId"], in["humanId"]}:
		return person{}, refusal{s.cfg.RefusedStatus, "Invalid session token"}
	case x.uses > 0 && s.cfg.Mode == OneTime:
		return person{}, refusal{s.cfg.RefusedStatus, "Session token was used before"}
	}
	x.uses++
	if x.uses > 1 && s.cfg.Mode == Repeatable {
		return x.answer, refusal{}
	}
	p := person{clientUserID: x.clientUserID, accessToken: s.mint("access", 260), publicToken: s.mint("public", 32)}
	*s.users[x.user] = p
	x.answer = p
	return p, refusal{}
}

// look returns a known user, or refuses to.
func (s *Server) look(in map[string]string) (person, refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.users[userKey{in["clientId"], in["humanId"]}]
	if !ok {
		return person{}, refusal{404, "User not found"}
	}
	return *p, refusal{}
}

// known reports whether the app exists and the secret is its own.
func (s *Server) known(clientID, clientSecret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	want, ok := s.apps[clientID]
	return ok && want == clientSecret
}
