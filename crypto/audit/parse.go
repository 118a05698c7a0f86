package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// errFormat is returned when a line is not one that this package would write.
var errFormat = errors.New("the line is not in the format of the log")

// record is a parsed line.
type record struct {
	seq       uint64
	time      time.Time
	kind      string
	event     Event  // of an event
	header    header // of kind segment
	signature []byte // of kind checkpoint
	body      []byte // the bytes that the hash covers, shared with the line
	hash      [32]byte
}

// parseLine reads one line, LF included. It looks at the line alone: whether the
// hash is right is chain's business.
func parseLine(line []byte) (record, error) {
	body, hash, ok := splitHash(line)
	if !ok {
		return record{}, errFormat
	}
	r := record{body: body, hash: hash}
	c := cursor{rest: body}
	c.start(&r)
	switch r.kind {
	case kindSegment:
		c.header(&r.header)
	case kindCheckpoint:
		r.signature = c.base64("signature", ed25519.SignatureSize)
	case Attempt, Outcome, Note:
		c.event(&r.event)
	default:
		c.bad = true
	}
	if c.bad || len(c.rest) != 0 || !bytes.Equal(r.appendBody(make([]byte, 0, len(body)+64)), body) {
		return record{}, errFormat
	}
	return r, nil
}

// appendBody writes r again. Whatever the cursor is lenient about shows here.
func (r *record) appendBody(b []byte) []byte {
	b = appendStart(b, r.seq, r.time, r.kind)
	switch r.kind {
	case kindSegment:
		return appendHeader(b, r.header)
	case kindCheckpoint:
		return appendSignature(b, r.signature)
	}
	return appendEvent(b, &r.event)
}

func splitHash(line []byte) (body []byte, hash [32]byte, ok bool) {
	if len(line) > maxLine || len(line) < hashLen {
		return nil, hash, false
	}
	body, tail := line[:len(line)-hashLen], line[len(line)-hashLen:]
	tail, ok1 := bytes.CutPrefix(tail, []byte(hashField))
	tail, ok2 := bytes.CutSuffix(tail, []byte(hashEnd))
	return body, hash, ok1 && ok2 && decodeHash(&hash, string(tail))
}

func decodeHash(hash *[32]byte, s string) bool {
	if len(s) != 2*len(hash) || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.Decode(hash[:], []byte(s))
	return err == nil
}

// cursor eats fields from the front. Once bad, it stays bad.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) start(r *record) {
	c.need(c.literal("{"))
	r.seq = c.number("seq")
	t, err := time.Parse(timeLayout, c.text("time"))
	c.need(err == nil)
	r.time = t
	r.kind = c.text("kind")
}

func (c *cursor) header(h *header) {
	c.need(c.text("format") == formatName)
	h.instance = c.text("instance")
	h.incarnation = c.number("incarnation")
	h.segment = c.number("segment")
	c.need(decodeHash(&h.previous, c.text("previous")))
	h.publicKey = c.base64("publicKey", ed25519.PublicKeySize)
}

func (c *cursor) event(e *Event) {
	e.RequestID = c.text("requestId")
	e.Listener = c.text("listener")
	e.UID, e.GID = c.id("uid"), c.id("gid")
	e.Groups = c.groups()
	e.GroupsCut = c.literal(groupsCutField)
	e.PID = int32(c.integer("pid", 32))
	e.Unit = c.text("unit")
	e.Invocation = c.text("invocation")
	e.Unproven = c.literal(unprovenField)
	e.Label = c.text("label")
	if c.literal(`"contained":true,`) {
		e.Contained = true
	} else {
		c.literal(`"contained":false,`)
	}
	e.Rule = c.text("rule")
	e.Grant = c.text("grant")
	e.App = c.text("app")
	e.AppFrom = c.text("appFrom")
	e.Route = c.text("route")
	e.Subject = c.text("subject")
	e.Status = int(c.integer("status", 64))
	e.Error = c.text("error")
	e.Outcome = c.text("outcome")
	e.Count = int(c.integer("count", 64))
}

func (c *cursor) need(ok bool) {
	if !ok {
		c.bad = true
	}
}

func (c *cursor) literal(s string) bool {
	rest, ok := bytes.CutPrefix(c.rest, []byte(s))
	c.rest = rest
	return ok
}

// key eats the name of a field and its colon; false when another field is next.
func (c *cursor) key(name string) bool {
	n := len(name)
	if len(c.rest) < n+3 || c.rest[0] != '"' || string(c.rest[1:n+1]) != name || c.rest[n+1] != '"' || c.rest[n+2] != ':' {
		return false
	}
	c.rest = c.rest[n+3:]
	return true
}

// bare eats a value that is no string.
func (c *cursor) bare(name string) (string, bool) {
	if !c.key(name) {
		return "", false
	}
	value, rest, ok := bytes.Cut(c.rest, []byte{','})
	c.need(ok)
	c.rest = rest
	return string(value), true
}

func (c *cursor) number(name string) uint64 {
	s, _ := c.bare(name)
	n, err := strconv.ParseUint(s, 10, 64)
	c.need(err == nil)
	return n
}

// integer is 0 when the field is not there.
func (c *cursor) integer(name string, bits int) int64 {
	s, there := c.bare(name)
	if !there {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, bits)
	c.need(err == nil)
	return n
}

func (c *cursor) id(name string) *uint32 {
	s, there := c.bare(name)
	if !there {
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	c.need(err == nil)
	id := uint32(n)
	return &id
}

// groups eats an array of ids.
func (c *cursor) groups() (groups []uint32) {
	if !c.key("groups") {
		return nil
	}
	list, rest, ok := bytes.Cut(c.rest, []byte("],"))
	list, open := bytes.CutPrefix(list, []byte{'['})
	c.need(ok && open)
	c.rest = rest
	for id := range bytes.SplitSeq(list, []byte{','}) {
		n, err := strconv.ParseUint(string(id), 10, 32)
		if err != nil || len(groups) == maxGroups {
			c.bad = true
			return nil
		}
		groups = append(groups, uint32(n))
	}
	return groups
}

func (c *cursor) base64(name string, size int) []byte {
	b, err := base64.StdEncoding.DecodeString(c.text(name))
	c.need(err == nil && len(b) == size)
	return b
}

// text eats a string field; "" when it is not there.
func (c *cursor) text(name string) string {
	if !c.key(name) {
		return ""
	}
	c.need(c.literal(`"`))
	end := 0
	for escaped := false; end < len(c.rest) && (escaped || c.rest[end] != '"'); end++ {
		escaped = !escaped && c.rest[end] == '\\'
	}
	raw := c.rest[:end]
	c.rest = c.rest[end:]
	c.need(c.literal(`",`))
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	return c.unescape(raw)
}

func (c *cursor) unescape(raw []byte) string {
	var s strings.Builder
	for {
		before, after, found := bytes.Cut(raw, []byte{'\\'})
		s.Write(before)
		if !found {
			return s.String()
		}
		var r rune
		if r, raw = unescapeOne(after); r < 0 {
			c.bad = true
			return ""
		}
		s.WriteRune(r)
	}
}

// unescapeOne reads what follows a backslash; -1 when that is no escape of ours.
func unescapeOne(b []byte) (rune, []byte) {
	if len(b) == 0 {
		return -1, nil
	}
	switch b[0] {
	case '"', '\\':
		return rune(b[0]), b[1:]
	case 'n':
		return '\n', b[1:]
	case 'r':
		return '\r', b[1:]
	case 't':
		return '\t', b[1:]
	case 'u':
		if len(b) < 5 {
			return -1, nil
		}
		n, err := strconv.ParseUint(string(b[1:5]), 16, 16)
		if err != nil || utf16.IsSurrogate(rune(n)) {
			return -1, nil
		}
		return rune(n), b[5:]
	}
	return -1, nil
}
