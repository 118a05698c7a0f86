package exchange

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// field is a member of the request's JSON object. The value is not ours.
type field struct {
	name  string // needs no escaping
	value []byte
}

// encode builds a whole HTTP request in one buffer, which the caller clears:
// no other copy of a value is made. A value that is empty or no UTF-8 is an
// error, because what arrived would not be what was meant.
func encode(o origin, path string, fields []field) ([]byte, error) {
	size := 2
	for _, f := range fields {
		if len(f.value) == 0 {
			return nil, fmt.Errorf("there is no %s to send", f.name)
		}
		if !utf8.Valid(f.value) {
			return nil, fmt.Errorf("the %s to send is not UTF-8", f.name)
		}
		size += len(f.name) + quotedLen(f.value) + 4 // quotes of the name, colon, comma
	}
	size-- // no comma after the last
	head := "POST " + path + " HTTP/1.1\r\nHost: " + o.host +
		"\r\nUser-Agent: tokenvault\r\nAccept: application/json\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(size) + "\r\n\r\n"
	b := make([]byte, 0, len(head)+size)
	b = append(b, head...)
	for i, f := range fields {
		b = append(b, "{,"[min(i, 1)])
		b = append(b, '"')
		b = append(b, f.name...)
		b = append(b, `":`...)
		b = appendQuoted(b, f.value)
	}
	return append(b, '}'), nil
}

// appendQuoted appends v as a JSON string (RFC 8259 section 7): what must be
// escaped is, everything else stands as it is.
func appendQuoted(b, v []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, c := range v {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// quotedLen is the number of bytes that appendQuoted appends.
func quotedLen(v []byte) int {
	n := len(v) + 2
	for _, c := range v {
		switch {
		case c == '"' || c == '\\':
			n++
		case c < 0x20:
			n += 5
		}
	}
	return n
}
