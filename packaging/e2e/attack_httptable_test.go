package e2e

import (
	"fmt"
	"net/url"
	"strings"
)

// table is what is tried. Where the worker asks on the private socket, it is one
// that may have the token, by the right request.
func (h *httpAttacks) table() []httpAttack {
	return slicesOf(h.wrongCaller(), h.adminOnes(), h.wrongPaths(), h.targets(), h.smuggled(), h.headers(), h.bodies(), h.noHTTP(), h.exchanges())
}

func slicesOf(tables ...[]httpAttack) (all []httpAttack) {
	for _, t := range tables {
		all = append(all, t...)
	}
	return all
}

func (h *httpAttacks) wrongCaller() []httpAttack {
	access, user := h.accessPath(), h.userPath()
	exchange := sto{shop, h.victim, h.fresh}.json()
	ofClub := strings.Replace(access, shop, club, 1)
	everyGroup := []uint32{publicGID, privateGID, adminGID}
	row := func(attempt string, uid uint32, listener, bytes, want string) httpAttack {
		return httpAttack{"caller", attempt, uid, everyGroup, listener, bytes, want}
	}
	return []httpAttack{
		row("access token through the public socket", workerUID, "public", closing("GET", access, ""), "403 not_granted"),
		row("access token by a rule without that grant", webUID, "private", closing("GET", access, ""), "403 not_granted"),
		row("access token of another app", workerUID, "private", closing("GET", ofClub, ""), "403 not_granted"),
		row("access token of an app that does not exist", workerUID, "private", closing("GET", access+"-none", ""), "403 not_granted"),
		row("grant of one rule, app of another", webUID, "private", closing("GET", strings.Replace(user, shop, club, 1), ""), "403 not_granted"),
		row("app of one rule, socket of another", webUID, "public", closing("GET", ofClub, ""), "403 not_granted"),
		row("access-token taken for lookup", workerUID, "private", closing("GET", user, ""), "403 not_granted"),
		row("access-token taken for exchange", workerUID, "private", closing("POST", tokens, exchange, jsonType), "403 not_granted"),
		row("a proxy rule taken for access-token", webUID, "private", closing("GET", "/v1/human/profile", "", "X-Human-Id: "+h.victim, "X-Client-Id: "+club), "404 not_found"),
		row("another uid: lookup", strangerUID, "public", closing("GET", user, ""), "403 unknown_caller"),
		row("another uid: access token", strangerUID, "private", closing("GET", access, ""), "403 unknown_caller"),
		row("another uid: exchange", strangerUID, "public", closing("POST", tokens, exchange, jsonType), "403 unknown_caller"),
		row("another uid: any path", strangerUID, "private", closing("GET", "/nowhere", ""), "403 unknown_caller"),
		{"caller", "a uid without the socket's group", strangerUID, []uint32{strangerUID}, "private", closing("GET", access, ""), "no connection"},
	}
}

func (h *httpAttacks) adminOnes() (out []httpAttack) {
	everyGroup := []uint32{publicGID, privateGID, adminGID}
	for _, e := range [][2]string{
		{"GET", "/v1/admin/status"}, {"GET", "/v1/admin/users?state=indeterminate"}, {"GET", "/v1/admin/policy/who-can?grant=access-token"},
		{"GET", "/v1/admin/audit/find?requestId=" + strings.Repeat("0", 32)}, {"POST", "/v1/admin/reload"}, {"POST", "/v1/admin/store/backup"},
		{"POST", "/v1/admin/secrets/check"},
	} {
		path, _, _ := strings.Cut(e[1], "?")
		out = append(out, httpAttack{"admin", path + " through an app's socket", webUID, nil, "private", closing(e[0], e[1], ""), "403 not_granted"})
	}
	status := closing("GET", "/v1/admin/status", "")
	return append(out,
		httpAttack{"admin", "admin endpoint through the public socket by root", 0, nil, "public", status, "403 unknown_caller"},
		httpAttack{"admin", "admin socket by an app", webUID, nil, "admin", status, "no connection"},
		httpAttack{"admin", "admin socket by an app with its group", webUID, everyGroup, "admin", status, "403 not_granted"},
		httpAttack{"admin", "admin socket by another uid with its group", strangerUID, everyGroup, "admin", status, "403 unknown_caller"},
		httpAttack{"admin", "access token through the admin socket", workerUID, everyGroup, "admin", closing("GET", h.accessPath(), ""), "403 not_granted"},
	)
}

func (h *httpAttacks) wrongPaths() (out []httpAttack) {
	id, app := h.victim, "?clientId="+shop
	for _, p := range [][3]string{
		{"encoded slash", "/v1/users/" + id + "%2Faccess-token", "404 not_found"},
		{"encoded slash, lower case", "/v1/users/" + id + "%2faccess-token", "404 not_found"},
		{"double encoding", "/v1/users/" + id + "%252Faccess-token", "403 not_granted"}, // a humanId with %2F in it, which the worker may not look up
		{"encoded letter", "/v1/users/" + id + "/%61ccess-token", "404 not_found"},
		{"encoded letter in the humanId", "/v1/users/%" + fmt.Sprintf("%02X", id[0]) + id[1:] + "/access-token", "404 not_found"},
		{"half an escape", "/v1/users/" + id + "%2/access-token", "400"},
		{"dot segment", "/v1/users/./" + id + "/access-token", "404 not_found"},
		{"dot dot segment", "/v1/users/x/../" + id + "/access-token", "404 not_found"},
		{"encoded dot dot", "/v1/users/%2e%2e/users/" + id + "/access-token", "404 not_found"},
		{"dot dot out of admin", "/v1/admin/../users/" + id + "/access-token", "404 not_found"},
		{"path parameter", "/v1/users/" + id + ";x=y/access-token;x", "404 not_found"},
		{"upper case", "/V1/USERS/" + id + "/ACCESS-TOKEN", "404 not_found"},
		{"upper case at the end", "/v1/users/" + id + "/Access-Token", "404 not_found"},
		{"empty segment", "/v1/users//" + id + "/access-token", "404 not_found"},
		{"empty first segment", "//v1/users/" + id + "/access-token", "404 not_found"},
		{"slash at the end", "/v1/users/" + id + "/access-token/", "404 not_found"},
		{"backslash", "/v1/users\\" + id + "\\access-token", "404 not_found"},
		{"NUL at the end", "/v1/users/" + id + "/access-token%00", "404 not_found"},
	} {
		out = append(out, httpAttack{"path", p[0], workerUID, nil, "private", closing("GET", p[1]+app, ""), p[2]})
	}
	return out
}

func (h *httpAttacks) targets() (out []httpAttack) {
	access := h.accessPath()
	for _, p := range [][4]string{
		{"absolute form", "GET", "http://localhost" + access, "404 not_found"},
		{"absolute form to another host", "GET", "http://169.254.169.254" + access, "404 not_found"},
		{"absolute form, https", "GET", "https://localhost" + access, "404 not_found"},
		{"authority form", "GET", "localhost:443", "404 not_found"},
		{"no slash", "GET", access[1:], "400"},
		{"asterisk form", "GET", "*", "404 not_found"},
		{"OPTIONS *", "OPTIONS", "*", "404 not_found"},
		{"CONNECT to an authority", "CONNECT", "human-api.example:443", "404 not_found"},
		{"CONNECT to a path", "CONNECT", access, "405 method_not_allowed"},
		{"TRACE", "TRACE", access, "405 method_not_allowed"},
		{"lower-case method", "get", access, "405 method_not_allowed"},
		{"fragment", "GET", access + "#x", "403 not_granted"}, // of an app named so
	} {
		out = append(out, httpAttack{"target", p[0], workerUID, nil, "private", closing(p[1], p[2], ""), p[3]})
	}
	return out
}

// smuggled: the second request, where there is one, has to be refused as if it had
// come alone.
func (h *httpAttacks) smuggled() (out []httpAttack) {
	access := h.accessPath()
	inner := closing("GET", access, "")
	post := func(headers ...string) string { return head("POST", tokens, append(headers, jsonType)...) }
	for _, p := range [][3]string{
		{"Content-Length and Transfer-Encoding", post(fmt.Sprintf("Content-Length: %d", 5+len(inner)), "Transfer-Encoding: chunked") + "0\r\n\r\n" + inner, "400 bad_request, 403 not_granted"},
		{"two Content-Lengths", post("Content-Length: 0", fmt.Sprintf("Content-Length: %d", len(inner))) + inner, "400"},
		{"a list of Content-Lengths", post(fmt.Sprintf("Content-Length: 0, %d", len(inner))) + inner, "400"},
		{"negative Content-Length", post("Content-Length: -1") + inner, "400"},
		{"Content-Length with a sign", post("Content-Length: +2") + "{}", "400"},
		{"folded header line", head("GET", access, "Connection: close", "X: y", " Host: x"), "403 not_granted"},
		{"folded Transfer-Encoding", post("Transfer-Encoding:", " chunked") + "0\r\n\r\n" + inner, "400 bad_request, 403 not_granted"},
		{"bare LF", strings.ReplaceAll(inner, "\r\n", "\n"), "403 not_granted"},
		{"bare CR in a value", head("GET", access, "X: y\rConnection: close"), "400"},
		{"space before the colon", post("Content-Length : 2") + "{}", "400"},
		{"space before the colon of Transfer-Encoding", post("Transfer-Encoding : chunked") + "0\r\n\r\n" + inner, "400"},
		{"Transfer-Encoding: xchunked", post("Transfer-Encoding: xchunked") + "0\r\n\r\n" + inner, "501"},
		{"Transfer-Encoding: identity", post("Transfer-Encoding: identity") + inner, "501"},
		{"Transfer-Encoding: gzip, chunked", post("Transfer-Encoding: gzip, chunked") + "0\r\n\r\n" + inner, "501"},
		{"two Transfer-Encodings", post("Transfer-Encoding: chunked", "Transfer-Encoding: identity") + "0\r\n\r\n" + inner, "501"},
		{"bad chunk size", post("Transfer-Encoding: chunked") + "zz\r\n{}\r\n0\r\n\r\n" + inner, "400 bad_request"},
		{"huge chunk size", post("Transfer-Encoding: chunked") + "fffffffffffffffff\r\n{}\r\n0\r\n\r\n" + inner, "400 bad_request"},
		{"chunk longer than its size", post("Transfer-Encoding: chunked") + "1\r\n{}\r\n0\r\n\r\n" + inner, "400 bad_request"},
		{"body on a GET", head("GET", access, fmt.Sprintf("Content-Length: %d", len(inner))) + inner + inner, "400 bad_request, 403 not_granted"},
		{"pipelined second request", head("GET", "/v1/users/x%2Fy") + inner, "404 not_found, 403 not_granted"},
		{"no Host", "GET " + access + " HTTP/1.1\r\n\r\n", "400"},
		{"two Hosts", head("GET", access, "Host: x"), "400"},
		{"Host of another", strings.Replace(inner, "Host: localhost", "Host: human-api.example", 1), "403 not_granted"},
		{"a path as Host", strings.Replace(inner, "Host: localhost", "Host: "+h.socket("private"), 1), "403 not_granted"},
		{"Host with a slash", strings.Replace(inner, "Host: localhost", "Host: a/b", 1), "400"},
	} {
		out = append(out, httpAttack{"smuggling", p[0], webUID, nil, "private", p[1], p[2]})
	}
	return out
}

func (h *httpAttacks) headers() []httpAttack {
	access, victim := h.accessPath(), cuidHeader+url.PathEscape("marker-victim@example.test")
	byUser := "/v1/users/-?clientId=" + shop
	web := func(attempt, bytes, want string) httpAttack {
		return httpAttack{"header", attempt, webUID, nil, "public", bytes, want}
	}
	worker := func(attempt, bytes, want string) httpAttack {
		return httpAttack{"header", attempt, workerUID, nil, "private", bytes, want}
	}
	return []httpAttack{
		web("two X-Client-User-Id", closing("GET", byUser, "", cuidHeader+"mallory", victim), "400 bad_request"),
		web("two X-Client-User-Id, the same", closing("GET", byUser, "", victim, victim), "400 bad_request"),
		web("X-Client-User-Id beside a humanId", closing("GET", h.userPath(), "", cuidHeader+"mallory"), "400 bad_request"),
		worker("X-Human-Id", closing("GET", access, "", "X-Human-Id: mallory"), "400 bad_request"),
		worker("two X-Human-Id", closing("GET", access, "", "X-Human-Id: mallory", "X-Human-Id: "+h.victim), "400 bad_request"),
		worker("X-Client-Id", closing("GET", access, "", "X-Client-Id: "+club), "400 bad_request"),
		worker("method override", closing("POST", access, "", "X-HTTP-Method-Override: GET", "X-Method-Override: GET"), "405 method_not_allowed"),
		web("path override", closing("GET", "/v1/users/x%2Fy", "", "X-Original-URL: "+access, "X-Rewrite-URL: "+access), "404 not_found"),
		web("a claim to be another uid", closing("GET", access, "", "X-Forwarded-User: 64002", "X-Uid: 64002", "Authorization: Basic cm9vdDo="), "403 not_granted"),
		web("a request id of its own", closing("GET", access, "", "X-Request-Id: "+forgedID), "403 not_granted"),
		web("Upgrade to HTTP/2", closing("GET", access, "", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), "403 not_granted"),
		web("NUL in a value", closing("GET", access, "", "X: a\x00b"), "400"),
		worker("a head beyond its limit", closing("GET", access, "", "X: "+strings.Repeat("a", 64<<10)), "431"),
	}
}

func (h *httpAttacks) bodies() []httpAttack {
	other := "human-of-mallory"
	web := func(attempt, bytes, want string) httpAttack {
		return httpAttack{"body", attempt, webUID, nil, "public", bytes, want}
	}
	post := func(body string, headers ...string) string {
		return closing("POST", tokens, body, append(headers, jsonType)...)
	}
	with := func(more string) string {
		return strings.Replace(sto{shop, h.victim, h.fresh}.json(), "{", "{"+more+",", 1)
	}
	return []httpAttack{
		web("clientSecret", post(with(`"clientSecret":"x"`)), "400 secret_not_accepted"),
		web("nested access_token", post(with(`"a":[{"access_token":1}]`)), "400 secret_not_accepted"),
		web("clientSecret in a form", closing("POST", tokens, sto{shop, h.victim, h.fresh}.form()+"&client_secret=x", formType), "400 secret_not_accepted"),
		web("accessToken in the query", closing("GET", h.userPath()+"&accessToken=x", ""), "400 secret_not_accepted"),
		web("two humanIds", post(with(`"humanId":"mallory"`)), "400 bad_request"),
		web("two clientIds, by case", post(with(`"ClientId":"`+club+`"`)), "400 bad_request"),
		web("another app's clientId", post(sto{club, h.victim, h.fresh}.json()), "403 not_granted"),
		web("clientId in query and body", closing("POST", tokens+"?clientId="+shop, sto{club, h.victim, h.fresh}.json(), jsonType), "400 bad_request"),
		web("a used session under another humanId", post(sto{shop, other, h.session}.json()), "409 session_conflict"),
		web("a body beyond its limit", post(with(`"x":"`+strings.Repeat("a", 70<<10)+`"`)), "413 too_large"),
		web("a chunked body beyond its limit", head("POST", tokens, jsonType, "Connection: close", "Transfer-Encoding: chunked")+fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 70<<10, strings.Repeat(" ", 70<<10)), "413 too_large"),
		web("the victim's clientUserId from a browser, against the header's", post(strings.Replace(sto{shop, h.victim, h.fresh}.json(), "{", `{"clientUserId":"marker-victim@example.test",`, 1), cuidHeader+"mallory"), "409 user_mismatch"),
		web("a compressed body", post("{}", "Content-Encoding: gzip"), "415 unsupported_media_type"),
	}
}

func (h *httpAttacks) noHTTP() []httpAttack {
	row := func(attempt, bytes, want string) httpAttack {
		return httpAttack{"no HTTP", attempt, workerUID, nil, "private", bytes, want}
	}
	target := "GET " + h.accessPath()
	return []httpAttack{
		row("TLS hello", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\r\n\r\n", "400"),
		row("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "404 not_found"),
		row("HTTP/0.9", target+"\r\n\r\n", "400"),
		row("HTTP/9.9", target+" HTTP/9.9\r\nHost: x\r\n\r\n", "505"),
		row("an expectation that nobody meets", closing("GET", h.accessPath(), "", "Expect: the-spanish-inquisition"), "417"),
		row("two spaces in the request line", "GET  "+h.accessPath()+" HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
	}
}

// exchanges are refused by Human API, or for what it answers: the store keeps that
// they were tried.
func (h *httpAttacks) exchanges() (out []httpAttack) {
	victim := cuidHeader + url.PathEscape("marker-victim@example.test")
	for _, p := range [][3]string{
		{"an own session in the victim's login", closing("POST", tokens, h.mallory().json(), jsonType, victim), "409 user_mismatch"},
		{"the victim's session under another humanId", closing("POST", tokens, sto{shop, "human-of-mallory", h.fresh}.json(), jsonType), "422 session_refused"},
	} {
		out = append(out, httpAttack{exchanged, p[0], webUID, nil, "public", p[1], p[2]})
	}
	return out
}

// mallory is a finish event of a user who is not the victim.
func (h *httpAttacks) mallory() sto {
	s := h.finishEvent(h.sim.NewHumanID(), "mallory")
	h.nobody = append(h.nobody, s.humanID)
	return s
}
