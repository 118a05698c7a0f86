package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Every format below is one version byte (0x01) and then
//
//	enc(f1, f2, …) = each field as bytes behind its big-endian uint32 length
//
// with a fixed number of fields, nothing after the last, and exactly one
// encoding for each value: decoding refuses what encoding would not have
// written.
//
//	int      8 bytes, big-endian
//	seconds  int64 as 8 bytes: seconds since 1970 in UTC, ≥ 0
//	flag     1 byte, 0 or 1
//
//	users row value    enc(public envelope, private envelope)
//	public plaintext   enc(clientId, humanId, clientUserId, publicToken,
//	                   seconds createdAt, seconds updatedAt, int arrival, int doubt)
//	private plaintext  enc(accessToken, seconds expiresAt); 0: no expiry known
//	index plaintext    enc(preferred, row ids); preferred is 1 byte, the place of
//	                   the row that an administrator chose, 0xFF: none; row ids are
//	                   1 to 255 ids of 32 bytes, all different, in the order of
//	                   their coming; later ones are not named
//	session plaintext  enc(outcome, failure, row id, seconds finishedAt); outcome
//	                   and failure are the words of package user
//	intent plaintext   enc(requestId, rule, clientId, humanId, sessionToken,
//	                   expected, flag expectedSet, bodyUserId, flag bodyUserIdSet,
//	                   int receivedAt, int incarnation, int arrival); receivedAt in
//	                   nanoseconds since 1970, 0: unset
//	mark value         in clear, without enc: 0x01, then 0x01 for indeterminate
//
// doubt is the arrival number of the latest exchange that may have replaced the
// tokens at Human API without an answer. The state is not stored: a record
// is indeterminate exactly when doubt > arrival. So an earlier exchange that is
// committed late still stores its tokens, but does not hide the doubt.
//
// An intent's row revision is its arrival number; a mark's is always 1.
//
// 255 row ids are enough, because an entry is ambiguous from the second on and
// only says so until an administrator chooses, and whoever chooses reads the list.
// Nothing is taken out of an entry, so that a full one stays ambiguous. A user
// beyond it is found by humanId, but cannot be chosen.
const formatVersion = 0x01

const (
	noneChosen   = 0xFF
	maxIndexRows = 0xFF
	markRevision = 1
)

var markIndeterminate = []byte{formatVersion, 0x01}

var errFormat = errors.New("not in the format of this version")

// record is the public plaintext.
type record struct {
	user.Public // State is derived
	doubt       uint64
}

func (r *record) derive() {
	r.State = user.Active
	if r.doubt > r.Arrival {
		r.State = user.Indeterminate
	}
}

type indexEntry struct {
	preferred byte
	rows      []seal.RowID
}

// full reports whether it takes no more: a user may then be missing from it.
func (e indexEntry) full() bool { return len(e.rows) == maxIndexRows }

// ambiguous reports whether it says only that it cannot say.
func (e indexEntry) ambiguous() bool { return e.preferred == noneChosen && len(e.rows) > 1 }

type session struct {
	outcome  user.Outcome
	failure  user.Failure
	row      seal.RowID
	finished time.Time
}

// pack writes the version and the fields into one allocation, so that no other
// copy of a secret is left behind by growing.
func pack(fields ...[]byte) []byte {
	size := 1
	for _, f := range fields {
		size += 4 + len(f)
	}
	out := append(make([]byte, 0, size), formatVersion)
	for _, f := range fields {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}

// unpack cuts b into as many fields as fields holds. They point into b.
func unpack(b []byte, fields [][]byte) error {
	if len(b) < 1 || b[0] != formatVersion {
		return fmt.Errorf("%w: version", errFormat)
	}
	b = b[1:]
	for i := range fields {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
			return fmt.Errorf("%w: field %d is cut off", errFormat, i)
		}
		n := binary.BigEndian.Uint32(b)
		fields[i], b = b[4:4+n:4+n], b[4+n:]
	}
	if len(b) != 0 {
		return fmt.Errorf("%w: bytes after the end", errFormat)
	}
	return nil
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func yes(set bool) []byte {
	if set {
		return []byte{1}
	}
	return []byte{0}
}

func seconds(t time.Time) []byte {
	if t.IsZero() || t.Unix() < 0 {
		return number(0)
	}
	return number(uint64(t.Unix()))
}

// reader takes typed fields and keeps the first thing that was wrong.
type reader struct{ err error }

func (r *reader) wrong(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", errFormat, what)
	}
}

func (r *reader) number(what string, b []byte) uint64 {
	if len(b) != 8 {
		r.wrong(what)
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// maxSeconds is the last second of the year 9999.
const maxSeconds = 253402300799

func (r *reader) seconds(what string, b []byte) time.Time {
	n := r.number(what, b)
	if n > maxSeconds {
		r.wrong(what)
		return time.Time{}
	}
	return time.Unix(int64(n), 0).UTC()
}

func (r *reader) flag(what string, b []byte) bool {
	if len(b) != 1 || b[0] > 1 {
		r.wrong(what)
		return false
	}
	return b[0] == 1
}

func encodeRow(public, private []byte) []byte { return pack(public, private) }

// decodeRow cuts a users row; both envelopes point into value.
func decodeRow(value []byte) (public, private []byte, err error) {
	var f [2][]byte
	if err := unpack(value, f[:]); err != nil {
		return nil, nil, fmt.Errorf("row: %w", err)
	}
	return f[0], f[1], nil
}

func encodeRecord(r record) []byte {
	return pack([]byte(r.ClientID), []byte(r.HumanID), []byte(r.ClientUserID), []byte(r.PublicToken),
		seconds(r.CreatedAt), seconds(r.UpdatedAt), number(r.Arrival), number(r.doubt))
}

func decodeRecord(b []byte) (record, error) {
	var f [8][]byte
	if err := unpack(b, f[:]); err != nil {
		return record{}, fmt.Errorf("public plaintext: %w", err)
	}
	var r reader
	rec := record{Public: user.Public{
		ClientID: user.ClientID(f[0]), HumanID: user.HumanID(f[1]),
		ClientUserID: user.ClientUserID(f[2]), PublicToken: user.PublicToken(f[3]),
		CreatedAt: r.seconds("createdAt", f[4]), UpdatedAt: r.seconds("updatedAt", f[5]),
		Arrival: r.number("arrival", f[6]),
	}, doubt: r.number("doubt", f[7])}
	if r.err != nil {
		return record{}, fmt.Errorf("public plaintext: %w", r.err)
	}
	rec.derive()
	return rec, nil
}

func encodePrivate(p user.Private) []byte {
	return pack(p.AccessToken.Reveal(), seconds(p.ExpiresAt))
}

func decodePrivate(b []byte) (user.Private, error) {
	var f [2][]byte
	if err := unpack(b, f[:]); err != nil {
		return user.Private{}, fmt.Errorf("private plaintext: %w", err)
	}
	var r reader
	p := user.Private{ExpiresAt: r.seconds("expiresAt", f[1])}
	if r.err != nil {
		return user.Private{}, fmt.Errorf("private plaintext: %w", r.err)
	}
	if p.ExpiresAt.Unix() == 0 {
		p.ExpiresAt = time.Time{}
	}
	p.AccessToken = secret.New(f[0])
	return p, nil
}

func encodeIndex(e indexEntry) []byte {
	ids := make([]byte, 0, 32*len(e.rows))
	for _, id := range e.rows {
		ids = append(ids, id[:]...)
	}
	return pack([]byte{e.preferred}, ids)
}

func decodeIndex(b []byte) (indexEntry, error) {
	var f [2][]byte
	if err := unpack(b, f[:]); err != nil {
		return indexEntry{}, fmt.Errorf("index plaintext: %w", err)
	}
	n := len(f[1]) / 32
	if len(f[0]) != 1 || len(f[1])%32 != 0 || n < 1 || n > maxIndexRows {
		return indexEntry{}, fmt.Errorf("index plaintext: %w: row ids", errFormat)
	}
	e := indexEntry{preferred: f[0][0], rows: make([]seal.RowID, 0, n)}
	for id := range slices.Chunk(f[1], 32) {
		if slices.Contains(e.rows, seal.RowID(id)) {
			return indexEntry{}, fmt.Errorf("index plaintext: %w: a row id twice", errFormat)
		}
		e.rows = append(e.rows, seal.RowID(id))
	}
	if e.preferred != noneChosen && int(e.preferred) >= n {
		return indexEntry{}, fmt.Errorf("index plaintext: %w: preferred", errFormat)
	}
	return e, nil
}

func encodeSession(s session) []byte {
	return pack([]byte(s.outcome), []byte(s.failure), s.row[:], seconds(s.finished))
}

func decodeSession(b []byte) (session, error) {
	var f [4][]byte
	if err := unpack(b, f[:]); err != nil {
		return session{}, fmt.Errorf("session plaintext: %w", err)
	}
	var r reader
	s := session{outcome: user.Outcome(f[0]), failure: user.Failure(f[1]), finished: r.seconds("finishedAt", f[3])}
	if !slices.Contains(user.Outcomes, s.outcome) || s.outcome == user.Unsent {
		r.wrong("outcome")
	}
	if len(f[2]) != 32 {
		r.wrong("row id")
	}
	if r.err != nil {
		return session{}, fmt.Errorf("session plaintext: %w", r.err)
	}
	s.row = seal.RowID(f[2])
	return s, nil
}

func encodeIntent(in user.Intent) []byte {
	received := uint64(0)
	if !in.ReceivedAt.IsZero() {
		received = uint64(in.ReceivedAt.UnixNano())
	}
	return pack([]byte(in.RequestID), []byte(in.Rule), []byte(in.ClientID), []byte(in.HumanID), in.SessionToken.Reveal(),
		[]byte(in.Expected), yes(in.ExpectedSet), []byte(in.BodyUserID), yes(in.BodyUserIDSet),
		number(received), number(in.Incarnation), number(in.Arrival))
}

func decodeIntent(b []byte) (user.Intent, error) {
	var f [12][]byte
	if err := unpack(b, f[:]); err != nil {
		return user.Intent{}, fmt.Errorf("intent plaintext: %w", err)
	}
	var r reader
	in := user.Intent{
		RequestID: user.RequestID(f[0]), Rule: string(f[1]),
		ClientID: user.ClientID(f[2]), HumanID: user.HumanID(f[3]),
		Expected: user.ClientUserID(f[5]), ExpectedSet: r.flag("expectedSet", f[6]),
		BodyUserID: user.ClientUserID(f[7]), BodyUserIDSet: r.flag("bodyUserIdSet", f[8]),
		Incarnation: r.number("incarnation", f[10]), Arrival: r.number("arrival", f[11]),
	}
	if n := r.number("receivedAt", f[9]); n != 0 {
		in.ReceivedAt = time.Unix(0, int64(n)).UTC()
	}
	if r.err != nil {
		return user.Intent{}, fmt.Errorf("intent plaintext: %w", r.err)
	}
	in.SessionToken = secret.New(f[4])
	return in, nil
}
