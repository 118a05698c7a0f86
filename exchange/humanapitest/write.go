package humanapitest

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// write sends the answer, spoiled as f says where that is a matter of HTTP. A
// panic with http.ErrAbortHandler is net/http's way to close the connection.
func (s *Server) write(w http.ResponseWriter, r *http.Request, f Fault, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if f.RetryAfter != "" {
		h.Set("Retry-After", f.RetryAfter)
	}
	switch f.Kind {
	case DropBefore, DropAfter:
		panic(http.ErrAbortHandler)
	case NoHTTP, CutHead, Surplus:
		hijacked(w, f.Kind, status, body)
		return
	case Redirect:
		h.Set("Location", cmp.Or(f.Location, "/v1/connect/elsewhere"))
	case HTML:
		h.Set("Content-Type", "text/html; charset=utf-8")
	case BigHeader:
		h.Set("X-Padding", strings.Repeat("x", 1<<20))
	case Endless:
		s.endless(w, r, status)
		return
	}
	length := len(body)
	if f.Kind == Truncated {
		length += 10
	}
	h.Set("Content-Length", strconv.Itoa(length))
	w.WriteHeader(status)
	_, _ = w.Write(body)
	if f.Kind == Truncated {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// endless sends one string until the client has left or the server is closed.
func (s *Server) endless(w http.ResponseWriter, r *http.Request, status int) {
	w.WriteHeader(status)
	part := []byte(`{"padding":"`)
	for {
		if _, err := w.Write(part); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-s.closing:
			panic(http.ErrAbortHandler)
		default:
		}
		part = bytes.Repeat([]byte("x"), 4096)
	}
}

// hijacked sends what net/http would not.
func hijacked(w http.ResponseWriter, kind Kind, status int, body []byte) {
	conn, out, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	switch kind {
	case NoHTTP:
		fmt.Fprint(out, "SIM/9.9 this is no HTTP and names sim-secret-words\r\n\r\n")
	case CutHead:
		fmt.Fprint(out, "HTTP/1.1 200 OK\r\nContent-Type: appli")
	case Surplus:
		fmt.Fprintf(out, "HTTP/1.1 %d OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s"+
			"sim-surplus-bytes", status, len(body), body)
	}
	_ = out.Flush()
}
