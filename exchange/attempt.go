package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// What is read of an answer. A real one is under 2 KiB.
const (
	maxHead = 16 << 10
	maxBody = 64 << 10
	// maxWire bounds what a chunked body may take on the wire: a body of maxBody
	// bytes in chunks of one byte is six times as long.
	maxWire = 8 * maxBody
	// maxRetryAfter is as long as the daemon goes on by default ([exchange] give_up).
	maxRetryAfter = time.Hour
)

// answer is a whole, well-formed 2xx.
type answer struct {
	status int
	values map[string][]byte
}

func (a answer) clear() {
	for _, v := range a.values {
		clear(v)
	}
}

// attempt posts fields to path once, and reads wanted from the answer. Every
// error is an *Error. The caller clears the answer.
func (c *Client) attempt(ctx context.Context, path string, wanted []want, fields []field) (answer, error) {
	start := time.Now()
	request, err := encode(c.origin, path, fields)
	if err != nil {
		return answer{}, &Error{Class: NotSent, Err: failure(c.origin, path, err)}
	}
	defer clear(request)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	a, e := c.judge(ctx, request, wanted)
	outcome, status := "answered", a.status
	if e != nil {
		e.Err = failure(c.origin, path, e.Err)
		outcome, status = string(e.Class), e.Status
	}
	c.log.LogAttrs(ctx, slog.LevelDebug, "human api was asked", slog.String("path", path),
		slog.String("result", outcome), slog.Int("status", status), slog.Duration("took", time.Since(start)))
	if e != nil {
		return answer{}, e
	}
	return a, nil
}

// judge makes the attempt, and says what its end means.
func (c *Client) judge(ctx context.Context, request []byte, wanted []want) (answer, *Error) {
	l, err := c.pool.get(ctx)
	if err != nil {
		return answer{}, &Error{Class: NotSent, Err: err}
	}
	var in inbound
	defer in.release()
	sent, err := l.roundTrip(ctx, request, &in)
	c.pool.put(l, err == nil && in.reusable)
	if !sent {
		return answer{}, &Error{Class: NotSent, Err: err}
	}
	if in.status == 0 {
		return answer{}, &Error{Class: Unknown, Err: err}
	}
	class := classify(in.status)
	if class != "" {
		return answer{}, &Error{Class: class, Status: in.status, Err: fmt.Errorf("it answered %d", in.status),
			RetryAfter: c.retryAfter(class, in.header)}
	}
	if err != nil && !errors.Is(err, errTooLarge) {
		return answer{}, &Error{Class: Unknown, Status: in.status, Err: err}
	}
	var values map[string][]byte
	if err == nil {
		values, err = parse(in.body, wanted)
	}
	switch {
	case err == nil:
		return answer{status: in.status, values: values}, nil
	case errors.Is(err, errInvalid):
		class = Invalid
	case in.untilClose && !errors.Is(err, errTooLarge):
		class = Unknown // nothing says that this was the whole of it
	default:
		class = Unreadable
	}
	return answer{}, &Error{Class: class, Status: in.status, Err: err}
}

// classify gives each final status its class; "" is success. What is neither
// success nor Human API's own no is Unknown: 1xx, 5xx, what is not in RFC 9110, a
// redirect, which is never followed, and the words of whatever stands in front
// of it, which may have passed the request on (408 Request Timeout, 421
// Misdirected Request, 425 Too Early).
func classify(status int) Class {
	switch {
	case status >= 200 && status < 300:
		return ""
	case status == http.StatusTooManyRequests:
		return TryLater
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Unauthorized
	case status == http.StatusRequestTimeout, status == http.StatusMisdirectedRequest, status == http.StatusTooEarly:
		return Unknown
	case status >= 400 && status < 500:
		return Refused
	}
	return Unknown
}

// retryAfter reads Retry-After (RFC 9110 section 10.2.3: seconds or an
// HTTP-date) where there is something to wait for. What cannot be read is 0.
func (c *Client) retryAfter(class Class, h http.Header) time.Duration {
	if class != TryLater && class != Unknown {
		return 0
	}
	return parseRetryAfter(h.Get("Retry-After"), c.now())
}

func parseRetryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	if digits := bytes.Trim([]byte(v), "0123456789"); len(digits) == 0 {
		return parseSeconds(v)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// parseSeconds takes digits of any number, and never overflows.
func parseSeconds(digits string) time.Duration {
	var d time.Duration
	for _, r := range digits {
		d = d*10 + time.Duration(r-'0')*time.Second
		if d >= maxRetryAfter {
			return maxRetryAfter
		}
	}
	return d
}
