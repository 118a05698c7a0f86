package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// Format 1.
//
// A log is a row of segments, each a file. The active segment is at PATH, segment
// number n, once it is closed, at PATH.n with at least six digits. Segments are
// numbered from 1 without a gap.
//
// A segment is a row of lines. A line is one JSON object, written with these
// fields in this order, without white space, behind which stands one LF:
//
//	seq       number of the line in the whole log, from 1 without a gap
//	time      UTC, "2006-01-02T15:04:05.000000Z"; not monotonic
//	kind      "segment", "checkpoint", or the kind of an event
//	          … the fields of that kind, see below …
//	hash      64 lower-case hex digits
//
//	hash = SHA-256(previous hash, 32 bytes ‖ the line's bytes before the field)
//
// The bytes before the field are all from the opening brace to the comma in front
// of "hash", the comma included. The previous hash is that of the line with the
// number before, over segments too; before line 1 it is 32 zero bytes.
//
// kind "segment" is the first line of every segment, and stands nowhere else:
//
//	format       "tokenvault/audit/1"
//	instance     string, the same in the whole log
//	incarnation  number, never smaller than before
//	segment      number of this segment
//	previous     previous hash, 64 lower-case hex digits
//	publicKey    Ed25519, standard base64; the same in the whole log
//
// kind "checkpoint" stands at most a second after any other line, at the end of
// every closed segment, and at the end of a log that was closed:
//
//	signature  standard base64; Ed25519 over
//	           enc(instance, incarnation, segment, sequence, head)
//
// where sequence and head are number and hash of the line before, enc puts every
// field behind its length as big-endian uint32, numbers are big-endian uint64 and
// head is 32 bytes.
//
// kinds "attempt", "outcome", "note" are events; what is empty or 0 is left out,
// pid and contained are there when uid is:
//
//	requestId listener uid gid groups groupsCut pid unit invocation unproven
//	label contained rule grant app appFrom route subject status error outcome count
//
// groups is an array of 1 to 16 numbers; groupsCut, unproven: true or not there;
// groupsCut only behind 16 groups. (Logs of before groups, groupsCut, invocation,
// unproven, label and appFrom were thought of have none of them, and are this format,
// too.)
//
// Two notes are the log's own, written at its start and before anything else:
//
//	outcome "unsigned"  count lines, all since the last checkpoint, were there
//	                    already: a later checkpoint says nothing about them
//	outcome "cut"       count bytes of a torn end were cut off
//
// Numbers are decimal. In strings only these are escaped: \" \\ \n \r \t, and as
// \u00xx or \u20xx in lower case the other characters below U+0020, U+007F to
// U+009F, U+2028, U+2029 (a terminal shows the file as it is). What was no UTF-8
// is U+FFFD. There is one way to write a line: a reader refuses any other.
//
// A line has at most 16384 bytes, LF included.
const (
	formatName = "tokenvault/audit/1"
	maxLine    = 16 << 10
	maxGroups  = 16
	timeLayout = "2006-01-02T15:04:05.000000Z"

	kindSegment    = "segment"
	kindCheckpoint = "checkpoint"

	groupsCutField = `"groupsCut":true,`
	unprovenField  = `"unproven":true,`

	outcomeUnsigned = "unsigned"
	outcomeCut      = "cut"

	hashField = `"hash":"`
	hashEnd   = "\"}\n"
	// hashLen is the length of a line from the field hash on.
	hashLen = len(hashField) + 2*sha256.Size + len(hashEnd)
)

// header is what the first line of a segment says.
type header struct {
	instance    string
	incarnation uint64
	segment     uint64
	previous    [32]byte
	publicKey   ed25519.PublicKey
}

// appendStart begins a line.
func appendStart(b []byte, seq uint64, t time.Time, kind string) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, `,"time":"`...)
	b = t.UTC().AppendFormat(b, timeLayout)
	b = append(b, `","kind":"`...)
	b = append(b, kind...)
	return append(b, `",`...)
}

// Size is how many bytes the line of e will have at most: all lines are counted as if
// they had numbers of 20 digits.
func (e *Event) Size() int {
	var room [1024]byte
	b := appendStart(room[:0], math.MaxUint64, time.Time{}, e.Kind)
	return len(appendEvent(b, e)) + hashLen
}

// appendEvent adds the fields of an event.
func appendEvent(b []byte, e *Event) []byte {
	b = appendText(b, "requestId", e.RequestID)
	b = appendText(b, "listener", e.Listener)
	b = appendCaller(b, e)
	b = appendText(b, "rule", e.Rule)
	b = appendText(b, "grant", e.Grant)
	b = appendText(b, "app", e.App)
	b = appendText(b, "appFrom", e.AppFrom)
	b = appendText(b, "route", e.Route)
	b = appendText(b, "subject", e.Subject)
	if e.Status != 0 {
		b = appendInt(b, "status", int64(e.Status))
	}
	b = appendText(b, "error", e.Error)
	b = appendText(b, "outcome", e.Outcome)
	if e.Count != 0 {
		b = appendInt(b, "count", int64(e.Count))
	}
	return b
}

func appendCaller(b []byte, e *Event) []byte {
	if e.UID != nil {
		b = appendInt(b, "uid", int64(*e.UID))
	}
	if e.GID != nil {
		b = appendInt(b, "gid", int64(*e.GID))
	}
	b = appendGroups(b, e)
	if e.UID != nil || e.PID != 0 {
		b = appendInt(b, "pid", int64(e.PID))
	}
	b = appendText(b, "unit", e.Unit)
	b = appendText(b, "invocation", e.Invocation)
	if e.Unproven {
		b = append(b, unprovenField...)
	}
	b = appendText(b, "label", e.Label)
	if e.UID != nil || e.Contained {
		b = append(b, `"contained":`...)
		b = strconv.AppendBool(b, e.Contained)
		b = append(b, ',')
	}
	return b
}

// appendGroups adds the first maxGroups groups, and whether there are more.
func appendGroups(b []byte, e *Event) []byte {
	n := min(len(e.Groups), maxGroups)
	if n == 0 {
		return b
	}
	b = append(appendKey(b, "groups"), '[')
	for _, g := range e.Groups[:n] {
		b = append(strconv.AppendUint(b, uint64(g), 10), ',')
	}
	b[len(b)-1] = ']'
	b = append(b, ',')
	if len(e.Groups) > n || e.GroupsCut && n == maxGroups {
		b = append(b, groupsCutField...)
	}
	return b
}

func appendHeader(b []byte, h header) []byte {
	b = appendText(b, "format", formatName)
	b = appendText(b, "instance", h.instance)
	b = append(b, `"incarnation":`...)
	b = strconv.AppendUint(b, h.incarnation, 10)
	b = append(b, `,"segment":`...)
	b = strconv.AppendUint(b, h.segment, 10)
	b = append(b, `,"previous":"`...)
	b = hex.AppendEncode(b, h.previous[:])
	b = append(b, `","publicKey":"`...)
	b = base64.StdEncoding.AppendEncode(b, h.publicKey)
	return append(b, `",`...)
}

func appendSignature(b, signature []byte) []byte {
	b = append(b, `"signature":"`...)
	b = base64.StdEncoding.AppendEncode(b, signature)
	return append(b, `",`...)
}

// seal ends the line b with its hash, which it also returns.
func seal(b []byte, previous [32]byte) ([]byte, [32]byte) {
	hash := lineHash(previous, b)
	b = append(b, hashField...)
	b = hex.AppendEncode(b, hash[:])
	return append(b, hashEnd...), hash
}

func lineHash(previous [32]byte, body []byte) (sum [32]byte) {
	h := sha256.New()
	h.Write(previous[:])
	h.Write(body)
	h.Sum(sum[:0])
	return sum
}

// signedBytes is what a checkpoint signs.
func signedBytes(instance string, incarnation, segment, sequence uint64, head [32]byte) []byte {
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	return enc([]byte(instance), number(incarnation), number(segment), number(sequence), head[:])
}

// enc puts every field behind its length.
func enc(fields ...[]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return b
}

func appendInt(b []byte, key string, n int64) []byte {
	b = appendKey(b, key)
	b = strconv.AppendInt(b, n, 10)
	return append(b, ',')
}

func appendKey(b []byte, key string) []byte {
	b = append(b, '"')
	b = append(b, key...)
	return append(b, `":`...)
}

// appendText adds a string field, unless it is empty.
func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	b = appendKey(b, key)
	b = append(b, '"')
	plain := 0
	for i := 0; i < len(s); {
		if c := s[i]; c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		b = append(b, s[plain:i]...)
		b = appendRune(b, r)
		i += n
		plain = i
	}
	b = append(b, s[plain:]...)
	return append(b, `",`...)
}

func appendRune(b []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r == '\n':
		return append(b, `\n`...)
	case r == '\r':
		return append(b, `\r`...)
	case r == '\t':
		return append(b, `\t`...)
	case r < 0x20, r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029:
		b = append(b, `\u`...)
		return hex.AppendEncode(b, []byte{byte(r >> 8), byte(r)})
	}
	return utf8.AppendRune(b, r)
}
