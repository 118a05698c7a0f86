package server

import (
	"errors"
	"net/http"

	"github.com/tokenvault/tokenvault/unix/api"
)

// stream is the body of an answer that is too long to be held. Its first byte
// sends the head: from then on an error cannot be told any more, and is shown by
// a connection that ends before the last chunk (RFC 9112 section 8). Each write
// has the deadline of a connection's writes, and there is none for the whole.
type stream struct{ q *call }

// Write is io.Writer's; it fails when the caller has gone.
func (s *stream) Write(b []byte) (int, error) {
	if !s.q.streaming {
		s.q.streaming = true
		s.q.head(rawType)
		s.q.w.WriteHeader(http.StatusOK)
	}
	return s.q.w.Write(b)
}

// endStream ends the answer when rep is its success, else the connection. net/http
// takes ErrAbortHandler for a wish, and logs nothing.
func (q *call) endStream(rep reply) {
	defer rep.drop()
	if rep.code != "" {
		panic(http.ErrAbortHandler)
	}
}

var errEmptyBackup = errors.New("the backup is empty")

// backup streams. A second one at a time would keep the store from reusing space
// for no reason.
func (q *call) backup() reply {
	if q.server.admin == nil {
		return refuse(api.Starting)
	}
	if !q.server.backingUp.TryLock() {
		return refuse(api.RateLimited).because("a backup is being made already: wait until it is done")
	}
	defer q.server.backingUp.Unlock()
	err := q.server.admin.Backup(q.r.Context(), &stream{q})
	if err == nil && !q.streaming {
		err = errEmptyBackup
	}
	if err != nil {
		return q.fail(err)
	}
	return reply{status: http.StatusOK}
}
