package vault

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Every request has a connection of its own, which ends with the answer. That
// costs a TLS handshake for each of the few requests a minute that there are, and
// buys that all memory that has seen one is known, and cleared before the next:
// net/http and HTTP/2 keep headers as strings, and answers in buffers that nobody
// can reach. For the same reason the request is written here.
//
// BUG: what crypto/tls derives the connection's keys from cannot be cleared: who
// has recorded the connection and then reads this process's memory, before it was
// used for something else, can read it.

const (
	readBuffer  = 4 << 10  // bytes
	firstBody   = 8 << 10  // bytes of a body of which the size is not told
	maxRaw      = 4 << 20  // bytes of an answer as it comes, its head and the framing of its body included
	maxInterim  = 5        // answers of 1xx before the answer
	maxRequest  = 2 << 20  // bytes of a body that we send
	maxHeadSent = 16 << 10 // bytes
)

// traced is a connection that remembers where it was read into, so that it can be
// cleared: below TLS that is where records are decrypted in place.
type traced struct {
	net.Conn
	into [][]byte
}

func (t *traced) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if n > 0 {
		t.into = append(t.into, b[:n])
	}
	return n, err
}

// wipe clears it. Nobody may read from the connection any more.
func (t *traced) wipe() {
	for _, b := range t.into {
		clear(b)
	}
	t.into = nil
}

// framed is a connection that carries TLS, and gives no read more than the rest of
// a record's header or of its payload (RFC 8446, section 5.1). So crypto/tls never
// moves what it has of a payload to a larger buffer, and decrypts it where it was
// read to.
type framed struct {
	net.Conn
	header [5]byte
	have   int // of header
	left   int // of the payload
}

func (f *framed) Read(b []byte) (int, error) {
	if f.left > 0 {
		n, err := f.Conn.Read(b[:min(len(b), f.left)])
		f.left -= n
		return n, err
	}
	n, err := f.Conn.Read(b[:min(len(b), len(f.header)-f.have)])
	f.have += copy(f.header[f.have:], b[:n])
	if f.have == len(f.header) {
		f.have, f.left = 0, int(binary.BigEndian.Uint16(f.header[3:]))
	}
	return n, err
}

// hop is one request and its answer.
type hop struct {
	conn   net.Conn // TLS, or with http the same as below
	below  *traced  // under TLS
	above  *traced  // over TLS
	cancel func() bool
}

// open connects. Whoever opened a hop closes it, also after an error of others.
func (t *transport) open(ctx context.Context, req *http.Request) (*hop, error) {
	raw, err := t.dial(ctx, "tcp", hostPort(req))
	if err != nil {
		return nil, err
	}
	h := &hop{below: &traced{Conn: raw}}
	h.cancel = context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) }) // ends what waits
	h.conn = h.below
	if req.URL.Scheme == "https" {
		h.below.Conn = &framed{Conn: raw}
		conn := tls.Client(h.below, t.tls)
		h.conn = conn
		if err := conn.HandshakeContext(ctx); err != nil {
			h.close()
			return nil, err
		}
	}
	h.above = &traced{Conn: h.conn}
	return h, nil
}

func (h *hop) close() {
	h.cancel()
	_ = h.conn.Close() // the answer is here, or is not wanted any more
	h.below.wipe()
	if h.above != nil {
		h.above.wipe()
	}
}

func hostPort(req *http.Request) string {
	port := req.URL.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[req.URL.Scheme]
	}
	return net.JoinHostPort(req.URL.Hostname(), port)
}

// send writes the request with the token.
func (h *hop) send(req *http.Request, token *heldToken) error {
	b, err := requestBytes(req, token)
	defer clear(b)
	if err != nil {
		return err
	}
	for piece := range slices.Chunk(b, sealedWhole) {
		if _, err := h.conn.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// sealedWhole is the size in which requests are written. In TLS 1.3 crypto/tls
// appends what it is given to a record, and then seals it there, which moves the
// record and leaves what it was given behind, unless there is room for 17 bytes
// more. Of this size and with the header of the record that is the case in a buffer
// that the runtime has just made (485 bytes in 512).
//
// BUG: crypto/tls also takes buffers from a pool, of which one of 485 to 501 bytes,
// from another connection, has no room.
const sealedWhole = 480

// padding is a header that Vault ignores, by which n bytes fill whole pieces.
func padding(n int) string {
	const name, end = "X-Padding: ", "\r\n"
	n += len(name) + len(end)
	return name + strings.Repeat("-", (sealedWhole-n%sealedWhole)%sealedWhole) + end
}

// requestBytes is a request as RFC 9112 writes it. The body is read once, to where
// it is sent from.
func requestBytes(req *http.Request, token *heldToken) ([]byte, error) {
	if req.ContentLength < 0 || req.ContentLength > maxRequest {
		return nil, &noAnswer{why: "the request is too large to be sent"}
	}
	head, err := headBytes(req)
	if err != nil {
		return nil, err
	}
	return token.with(func(token []byte) ([]byte, error) {
		size := len(head) + len("\r\n") + int(req.ContentLength)
		if len(token) > 0 {
			size += len(tokenHeader) + len(token) + len("\r\n")
		}
		pad := padding(size)
		b := append(make([]byte, 0, size+len(pad)), head...)
		b = append(b, pad...)
		if len(token) > 0 {
			b = append(append(append(b, tokenHeader...), token...), "\r\n"...)
		}
		b = append(b, "\r\n"...)
		if req.Body == nil {
			return b, nil
		}
		defer req.Body.Close()
		n, err := io.ReadFull(req.Body, b[len(b):len(b)+int(req.ContentLength)])
		return b[:len(b)+n], err
	})
}

// tokenHeader is the header that carries a token, in Vault's API.
const tokenHeader = "X-Vault-Token: "

// headBytes is the request's head, with neither token nor the empty line. A token
// that vault/api has put in is not sent: it was given none.
func headBytes(req *http.Request) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nAccept-Encoding: identity\r\nUser-Agent: tokenvault\r\n", req.Method, req.URL.RequestURI(), req.URL.Host)
	if req.Body != nil {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", req.ContentLength)
	}
	ours := map[string]bool{"Host": true, "Connection": true, "Accept-Encoding": true, "User-Agent": true, "Content-Length": true, "X-Vault-Token": true}
	if err := req.Header.WriteSubset(&b, ours); err != nil || b.Len() > maxHeadSent {
		return nil, &noAnswer{why: "the request is too large to be sent", cause: err}
	}
	return b.Bytes(), nil
}

// receive reads the answer. Its body is the caller's to clear.
func (h *hop) receive(req *http.Request) (*http.Response, []byte, error) {
	limited := &io.LimitedReader{R: h.above, N: maxHeader}
	r := bufio.NewReaderSize(limited, readBuffer)
	resp, err := answerHead(r, req)
	if err != nil {
		if limited.N <= 0 {
			err = &noAnswer{why: "its answer's head is larger than 64 KiB", busy: true}
		}
		return nil, nil, err
	}
	limited.N += maxRaw
	body, err := readAll(resp.Body, resp.ContentLength)
	if err != nil && limited.N <= 0 {
		err = &noAnswer{why: "its answer is larger than 4 MiB on the wire", busy: true}
	}
	return resp, body, err
}

// errInterim is returned when 1xx does not end.
var errInterim = errors.New("too many answers before the answer")

// answerHead reads up to the answer's head, past those of 1xx.
func answerHead(r *bufio.Reader, req *http.Request) (*http.Response, error) {
	for range maxInterim {
		resp, err := http.ReadResponse(r, req)
		if err != nil || resp.StatusCode >= 200 {
			return resp, err
		}
	}
	return nil, errInterim
}

// readAll reads, in pieces smaller than readBuffer, up to maxAnswer+1 bytes, size of which are told (-1: none), and
// leaves no other copy of them.
func readAll(r io.Reader, size int64) ([]byte, error) {
	if size < 0 {
		size = firstBody
	}
	b := make([]byte, 0, min(size, maxAnswer)+1)
	for len(b) <= maxAnswer {
		if len(b) == cap(b) {
			b = grown(b, min(2*cap(b), maxAnswer+1))
		}
		n, err := r.Read(b[len(b):min(cap(b), len(b)+readBuffer/2)]) // a larger read would go past the buffer
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			clear(b)
			return nil, err
		}
	}
	return b, nil
}

// grown moves b to more room.
func grown(b []byte, room int) []byte {
	more := make([]byte, len(b), room)
	copy(more, b)
	clear(b)
	return more
}
