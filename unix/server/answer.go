package server

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
)

// reply is what a request is answered with. Nothing is written before the
// outcome is on record, so a reply can still be replaced.
type reply struct {
	status  int
	code    api.Code // "" on success
	message string   // of a refusal; "": the code's own
	retry   time.Duration
	final   bool    // a 503 without Retry-After: waiting does not help
	allow   string  // of a 405
	body    *buffer // of a success
}

// buffer is pooled: answers hold tokens, so it is cleared when it is given back.
type buffer struct{ b []byte }

var buffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, 1024)} }}

func newBuffer() *buffer { return buffers.Get().(*buffer) }

func (r *reply) drop() {
	if r.body == nil {
		return
	}
	clear(r.body.b)
	if cap(r.body.b) <= 64<<10 {
		r.body.b = r.body.b[:0]
		buffers.Put(r.body)
	}
	r.body = nil
}

// success takes b over.
func success(b *buffer) reply { return reply{status: http.StatusOK, body: b} }

// marshal is for answers that are asked for rarely.
func marshal(status int, v any) reply {
	b := newBuffer()
	text, err := json.Marshal(v)
	if err != nil { // a type of ours that cannot be encoded
		panic(err)
	}
	b.b = append(b.b, text...)
	return reply{status: status, body: b}
}

// Header values that never change; net/http does not write to them.
var (
	jsonType = []string{"application/json"}
	rawType  = []string{"application/octet-stream"}
	noStore  = []string{"no-store"}
	closing  = []string{"close"}
)

// write answers. It and stream.go are the only places that write to a caller.
func (q *call) write(rep reply) {
	q.finishBody()
	if q.streaming {
		q.endStream(rep)
		return
	}
	h := q.head(jsonType)
	q.conn.limited = rep.status == http.StatusTooManyRequests
	if rep.status == http.StatusTooManyRequests || rep.status == http.StatusServiceUnavailable && !rep.final {
		seconds := (max(rep.retry, time.Second) + time.Second - 1) / time.Second
		h["Retry-After"] = []string{strconv.FormatInt(int64(seconds), 10)}
	}
	if rep.code != "" {
		q.writeRefusal(h, rep)
		return
	}
	if len(rep.body.b) > 1024 {
		h["Content-Length"] = []string{strconv.Itoa(len(rep.body.b))}
	}
	q.w.WriteHeader(rep.status)
	_, _ = q.w.Write(rep.body.b) // a caller that is gone cannot be told
	rep.drop()
}

// head sets what every answer has.
func (q *call) head(contentType []string) http.Header {
	h := q.w.Header()
	h["Content-Type"], h["Cache-Control"], h[api.HeaderRequestID] = contentType, noStore, q.id[:]
	if q.close || q.conn.pathHost || q.server.draining.Load() {
		h["Connection"] = closing
	}
	return h
}

func (q *call) writeRefusal(h http.Header, rep reply) {
	if rep.allow != "" {
		h["Allow"] = []string{rep.allow}
	}
	b := newBuffer()
	b.b = append(b.b, `{"statusCode":`...)
	b.b = strconv.AppendInt(b.b, int64(rep.status), 10)
	b.b = append(b.b, `,"error":"`...)
	b.b = append(b.b, rep.code...)
	b.b = appendField(b.b, `","message":`, rep.message)
	b.b = appendField(b.b, `,"requestId":`, q.id[0])
	b.b = append(b.b, "}\n"...)
	q.w.WriteHeader(rep.status)
	_, _ = q.w.Write(b.b)
	rep.body = b
	rep.drop()
}

// appendUser writes api.User as encoding/json would.
func appendUser(b []byte, p user.Public) []byte {
	b = appendField(b, `{"humanId":`, string(p.HumanID))
	b = appendField(b, `,"publicToken":`, string(p.PublicToken))
	b = appendField(b, `,"clientId":`, string(p.ClientID))
	b = appendField(b, `,"clientUserId":`, string(p.ClientUserID))
	b = appendField(b, `,"state":`, string(p.State))
	b = append(b, `,"createdAt":"`...)
	b = p.CreatedAt.UTC().AppendFormat(b, time.RFC3339)
	b = append(b, `","updatedAt":"`...)
	b = p.UpdatedAt.UTC().AppendFormat(b, time.RFC3339)
	return append(b, `"}`...)
}

// appendUsers writes the beginning of an object with users.
func appendUsers(b []byte, list []user.Public) []byte {
	b = append(b, `{"users":[`...)
	for i, p := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendUser(b, p)
	}
	return append(b, ']')
}

func appendField(b []byte, name, value string) []byte { return appendString(append(b, name...), value) }

// appendString quotes s as encoding/json does.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string always can be
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
