package server

import (
	"errors"
	"net/http"
	"os"
	"strconv"
)

// Some requests are refused before any handler, by net/http: what is no HTTP, whose
// head is too large or does not come, or wants what there is not. They cost their
// callers nothing and have no request id, so each uid's are counted in notes, by
// status. A connection on which nothing is sent has asked for nothing.

// notHTTP is what such notes have for an outcome.
const notHTTP = "not http"

// refusedUnseen counts an answer of net/http's own. It writes one to its connection
// and none of ours is under way.
func (c *conn) refusedUnseen(answer []byte) {
	c.answering = true // by net/http, which closes the connection after it
	status := 0
	if at := len("HTTP/1.1 "); len(answer) >= at+3 {
		status, _ = strconv.Atoi(string(answer[at : at+3]))
	}
	c.noteUnseen(status)
}

// overdue counts a head that was begun, and not there in time: net/http drops the
// connection, with an answer or none.
func (c *conn) overdue(err error) {
	if c.begun && !c.answering && errors.Is(err, os.ErrDeadlineExceeded) {
		c.answering = true
		c.noteUnseen(http.StatusRequestTimeout)
	}
}

func (c *conn) noteUnseen(status int) {
	s := c.server
	s.refusals.keep(noteKey{uid: c.caller.UID, status: status, unseen: true, starting: s.services.Load() == nil}, counted{n: 1, listener: c.listener})
}
