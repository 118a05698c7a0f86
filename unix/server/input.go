package server

import (
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// maxID is the longest humanId, clientId or clientUserId in bytes. Those seen
// in the wild have 32 to 40; an e-mail address has at most 254.
const maxID = 1024

// fieldSet says which fields a body must have.
type fieldSet uint8

const (
	fieldHuman fieldSet = 1 << iota
	fieldToken
	fieldClientUser // which names the user here: administrators alone
	fieldSeen
)

// input is what a request asks for, after it was checked.
type input struct {
	app         user.ClientID // "" until authorize settles it
	human       user.HumanID  // "": expected names the user, or state many
	session     secret.Text
	expected    user.ClientUserID // from X-Client-User-Id, or the query where that is allowed
	expectedSet bool
	bodyUser    value // clientUserId of a body
	state       value // of a list
	seen        string
	question    *question // of an administrator; nil elsewhere
}

// value is a field that may be absent.
type value struct {
	text string
	set  bool
}

// fields are the fields that we know, wherever they stand.
type fields struct {
	humanID, clientID, sessionToken, clientUserID, state, seen value
}

func (f *fields) named(name string) *value {
	switch name {
	case "humanId":
		return &f.humanID
	case "clientId":
		return &f.clientID
	case "sessionToken":
		return &f.sessionToken
	case "clientUserId":
		return &f.clientUserID
	case "state":
		return &f.state
	case "seen":
		return &f.seen
	}
	return nil
}

// secretNames are never accepted, in any case and anywhere.
var secretNames = []string{"clientSecret", "client_secret", "accessToken", "access_token", "refresh_token"}

// isSecretName looks at each word of a name: user.accessToken, a[clientSecret]
// and " access_token" are attempts to send one as well.
func isSecretName(name string) bool {
	for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if slices.ContainsFunc(secretNames, func(s string) bool { return strings.EqualFold(word, s) }) {
			return true
		}
	}
	return false
}

// fault is why an input is refused; nil: it is not.
type fault struct {
	code    api.Code
	message string // "": the code's own
}

func bad(message string) *fault { return &fault{api.BadRequest, message} }

func (f *fault) reply() (bool, reply) {
	if f == nil {
		return true, reply{}
	}
	r := refuse(f.code)
	if f.message != "" {
		r.message = f.message
	}
	return false, r
}

// understand reads query, header and body.
func (q *call) understand() (bool, reply) {
	if q.route.ask != nil {
		return q.understandQuestion()
	}
	query, f := parseQuery(q.r.URL.RawQuery)
	if f != nil {
		return f.reply()
	}
	q.in.app = user.ClientID(query.clientID.text)
	if query.clientID.set && !validID(query.clientID.text) {
		return bad("clientId is empty, too long, or no plain text").reply()
	}
	if f := q.checkUnread(); f != nil {
		return f.reply()
	}
	if q.route.clientUser {
		if f := q.readClientUser(); f != nil {
			return f.reply()
		}
	}
	switch {
	case q.route.fields != 0:
		return q.understandBody(query)
	case q.route.human:
		return q.checkNaming().reply()
	case q.route.path == "/v1/admin/users/candidates":
		return q.checkCandidates().reply()
	case q.route.clientUser:
		return q.selectUsers(query).reply()
	}
	return true, reply{}
}

// checkUnread refuses what the endpoint would ignore although it may have been
// meant to choose an app or a user.
func (q *call) checkUnread() *fault {
	if q.route.allApps && q.in.app != "" {
		return bad("this endpoint is about all apps: leave clientId out")
	}
	if q.route.fields == 0 && q.r.ContentLength != 0 {
		return bad("this endpoint takes no body")
	}
	if q.route.fields&fieldClientUser != 0 && len(q.r.Header[api.HeaderClientUserID]) > 0 {
		return bad("the header " + api.HeaderClientUserID + " is not read here: send clientUserId in the body")
	}
	if q.route.grant == "" {
		return nil
	}
	for _, name := range []string{api.HeaderClientID, api.HeaderHumanID} {
		if len(q.r.Header[name]) > 0 {
			return bad("the header " + name + " is not read here: send clientId in the query or body, and the humanId in the path or body")
		}
	}
	return nil
}

func (q *call) understandBody(query fields) (bool, reply) {
	body, ok, rep := q.readBody()
	if !ok {
		return false, rep
	}
	defer clear(body)
	q.in.session = withhold(body)
	in, f := parseBody(q.r.Header, body, q.route.fields)
	if f == nil {
		f = q.take(in, query)
	}
	return f.reply()
}

// take checks the fields of a body and keeps them.
func (q *call) take(in, query fields) *fault {
	if in.clientID.set {
		if query.clientID.set {
			return bad("clientId stands in the query and in the body: send it once")
		}
		if !validID(in.clientID.text) {
			return bad("clientId is empty, too long, or no plain text")
		}
		if q.route.allApps {
			return bad("this endpoint is about all apps: leave clientId out")
		}
		q.in.app = user.ClientID(in.clientID.text)
	}
	wants := q.route.fields
	if wants&fieldHuman != 0 {
		if !validID(in.humanID.text) {
			return bad("humanId is missing, empty, too long, or no plain text; names are exact, case included")
		}
		q.in.human = user.HumanID(in.humanID.text)
	}
	if wants&fieldToken != 0 {
		return q.takeSession(in)
	}
	return q.takeAdmin(in, wants)
}

// takeAdmin takes what administrators send: there the clientUserId of the body
// names the user.
func (q *call) takeAdmin(in fields, wants fieldSet) *fault {
	if wants&fieldClientUser != 0 {
		if !validID(in.clientUserID.text) {
			return bad("clientUserId is missing, empty, too long, or no plain text; names are exact, case included")
		}
		q.in.expected, q.in.expectedSet = user.ClientUserID(in.clientUserID.text), true
	}
	if wants&fieldSeen != 0 {
		if !validID(in.seen.text) {
			return bad("seen is missing, empty, too long, or no plain text: it is the word that GET /v1/admin/status shows beside the rollback")
		}
		q.in.seen = in.seen.text
	}
	return nil
}

func (q *call) takeSession(in fields) *fault {
	if in.sessionToken.text == "" {
		return bad("sessionToken is missing or empty; names are exact, case included")
	}
	if in.clientUserID.set && in.clientUserID.text != "" && !validID(in.clientUserID.text) {
		return bad("clientUserId is too long, or no plain text")
	}
	if in.clientUserID.set && q.in.expectedSet && in.clientUserID.text != string(q.in.expected) {
		return &fault{api.UserMismatch, "the clientUserId of the body is not the one that the header " + api.HeaderClientUserID + " names: the session was not used; check who is logged in"}
	}
	if q.in.session.IsZero() {
		q.in.session = secret.FromString(in.sessionToken.text)
	}
	q.in.bodyUser = in.clientUserID
	return nil
}

// setHuman decodes the {humanId} of a path; "-" leaves it to the header.
func (q *call) setHuman(escaped string) (bool, reply) {
	if escaped == "" || escaped == "-" {
		return true, reply{}
	}
	human, err := url.PathUnescape(escaped)
	if err != nil || !validID(human) {
		return bad("the humanId in the path is too long, or no plain text").reply()
	}
	q.in.human = user.HumanID(human)
	return true, reply{}
}

func (q *call) checkNaming() *fault {
	switch {
	case q.in.human == "" && !q.in.expectedSet:
		return bad("with - for the humanId the header " + api.HeaderClientUserID + " must name the user")
	case q.in.human != "" && q.in.expectedSet:
		return bad("the path names a user and so does " + api.HeaderClientUserID + ": send one, or - in the path")
	}
	return nil
}

func (q *call) checkCandidates() *fault {
	if !q.in.expectedSet {
		return bad("the header " + api.HeaderClientUserID + " must name the user")
	}
	return nil
}

// selectUsers takes the one selector of a list.
func (q *call) selectUsers(query fields) *fault {
	selectors := 0
	if q.in.expectedSet {
		selectors++
	}
	if query.clientUserID.set {
		selectors++
		q.in.expected, q.in.expectedSet = user.ClientUserID(query.clientUserID.text), true
		if !validID(query.clientUserID.text) {
			return bad("clientUserId is empty, too long, or no plain text")
		}
	}
	if query.humanID.set && q.route.grant == api.GrantAdminRead {
		selectors++
		q.in.human = user.HumanID(query.humanID.text)
		if !validID(query.humanID.text) {
			return bad("humanId is empty, too long, or no plain text")
		}
	}
	if q.in.state = query.state; query.state.set {
		selectors++
		if query.state.text != string(user.Indeterminate) {
			return bad("state can be indeterminate only")
		}
	}
	if selectors != 1 {
		return bad("say which users: the header " + api.HeaderClientUserID + ", or state=indeterminate, and one of them only")
	}
	return nil
}

// readClientUser reads X-Client-User-Id: percent-encoded UTF-8.
func (q *call) readClientUser() *fault {
	values := q.r.Header[api.HeaderClientUserID]
	if len(values) == 0 {
		return nil
	}
	if len(values) > 1 {
		return bad("the header " + api.HeaderClientUserID + " stands there more than once")
	}
	for i := range len(values[0]) {
		if values[0][i] >= utf8.RuneSelf {
			return bad("the header " + api.HeaderClientUserID + " must be percent-encoded UTF-8")
		}
	}
	id, err := url.PathUnescape(values[0])
	if err != nil || !validID(id) {
		return bad("the header " + api.HeaderClientUserID + " must be percent-encoded UTF-8, not empty, and no control characters")
	}
	q.in.expected, q.in.expectedSet = user.ClientUserID(id), true
	return nil
}

// validID: 1 to maxID bytes of UTF-8 without control characters. U+FFFD stands
// for what could not be decoded, and would let two ids look alike.
func validID(s string) bool {
	if s == "" || len(s) > maxID || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return false
		}
	}
	return true
}
