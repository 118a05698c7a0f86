package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/unix/api"
)

// drainLimit is how much of a refused body is read, so that a caller who sends
// before it reads gets to see the refusal.
const drainLimit = 4 << 20

// limitBody puts the deadline on the whole body of a request, whoever reads it:
// net/http itself reads the rest of a body without one. It takes the deadline
// off when the body has ended, and then watches for the caller to leave. The end
// of draining is a deadline too, until done is called.
func (q *call) limitBody() (done func() bool) {
	_ = q.conn.SetReadDeadline(time.Now().Add(q.server.limits.BodyTimeout))
	return context.AfterFunc(q.server.cut, func() { _ = q.conn.read.want(q.conn.UnixConn, time.Unix(1, 0)) })
}

// finishBody reads what is left of a body before the answer.
func (q *call) finishBody() {
	if q.r.ContentLength == 0 || q.r.Body == nil {
		return
	}
	if _, err := io.CopyN(io.Discard, q.r.Body, drainLimit); !errors.Is(err, io.EOF) {
		q.close = true // there is more, or it does not come
	}
}

// readBody returns the whole body.
func (q *call) readBody() ([]byte, bool, reply) {
	limit := q.server.limits.Body
	if q.r.ContentLength > limit {
		return nil, false, refuse(api.TooLarge)
	}
	body, err := readAll(io.LimitReader(q.r.Body, limit+1), q.r.ContentLength)
	switch {
	case err != nil && q.server.cut.Err() != nil:
		return nil, false, refuse(api.Draining)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, false, refuse(api.TooSlow)
	case err != nil:
		return nil, false, refuse(api.BadRequest).because("the body ended early")
	case int64(len(body)) > limit:
		return nil, false, refuse(api.TooLarge)
	}
	return body, true, reply{}
}

// parseBody reads JSON or a form, and merges what is nested under
// sessionTokenObject.
func parseBody(h http.Header, body []byte, wants fieldSet) (fields, *fault) {
	form, f := mediaType(h, body)
	if f != nil {
		return fields{}, f
	}
	if len(body) == 0 {
		return fields{}, bad("the body is missing")
	}
	if !utf8.Valid(body) {
		return fields{}, bad("the body is not valid UTF-8")
	}
	c := collector{seen: wants&fieldSeen != 0, flat: wants&(fieldSeen|fieldClientUser) != 0}
	if form {
		f = c.form(string(body))
	} else {
		f = c.json(body, scopeTop, 1)
	}
	if f != nil {
		return fields{}, f
	}
	return c.merge()
}

// mediaType tells a form from JSON, which is also what no Content-Type means.
func mediaType(h http.Header, body []byte) (form bool, f *fault) {
	unsupported := &fault{code: api.UnsupportedMediaType}
	types := h["Content-Type"]
	if len(types) > 1 || len(h["Content-Encoding"]) > 0 {
		return false, unsupported
	}
	if len(types) == 0 {
		return false, nil
	}
	name, params, err := mime.ParseMediaType(types[0])
	if charset, ok := params["charset"]; err != nil || ok && !strings.EqualFold(charset, "utf-8") {
		return false, unsupported
	}
	switch name {
	case "application/json":
		return false, nil
	case "application/x-www-form-urlencoded":
		if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
			unsupported.message = "the body looks like JSON but Content-Type says form: add the header Content-Type: application/json"
			return false, unsupported
		}
		return true, nil
	}
	return false, unsupported
}
