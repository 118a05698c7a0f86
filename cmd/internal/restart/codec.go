package restart

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault"
)

// The body. A field is a uint32 length and that many bytes; a flag is a byte, 0 or
// 1; an instant is a flag (0: the zero time) and nanoseconds since boot (int64, 0
// with flag 0).
//
//	field    boot id
//	int64    nanoseconds since boot, when it was saved
//	field    instance
//	         Vault session: field token, field secret id, flag renewable,
//	         instants since, expires, last word
//	uint32   number of client secrets, then for each: field client id, field
//	         secret, uint64 KV version, instants since, confirmed
//	16       store id
//	uint32   number of keys, then for each: field class, 16 key id, field key,
//	         32 check
//	         anchor: field store id, uint64 incarnation, generation, field keyring
//	         digest, uint64 store position, audit segment, audit sequence, fields
//	         audit head, audit key, int64 Unix seconds and uint32 nanoseconds of
//	         its time (wall clock: it is for people), field host
//	uint64   KV version of the anchor
//
// Nothing follows. What decodes encodes to the same bytes in the same moment.

// writer writes at out[n:], which has room; without out it only counts.
type writer struct {
	out []byte
	n   int
}

// measure is how many bytes the body has.
func measure(c Contents, m moment) int {
	var w writer
	w.contents(c, m)
	return w.n
}

func (w *writer) raw(b []byte) {
	if w.out != nil {
		copy(w.out[w.n:w.n+len(b)], b)
	}
	w.n += len(b)
}

func (w *writer) uint32(v uint32) { w.raw(binary.BigEndian.AppendUint32(make([]byte, 0, 4), v)) }
func (w *writer) uint64(v uint64) { w.raw(binary.BigEndian.AppendUint64(make([]byte, 0, 8), v)) }

func (w *writer) field(b []byte) {
	w.uint32(uint32(len(b)))
	w.raw(b)
}

func (w *writer) text(s string)        { w.field([]byte(s)) }
func (w *writer) secret(s secret.Text) { w.field(s.Reveal()) }

func (w *writer) flag(b bool) {
	if b {
		w.raw([]byte{1})
		return
	}
	w.raw([]byte{0})
}

func (w *writer) instant(t time.Time, m moment) {
	w.flag(!t.IsZero())
	if t.IsZero() {
		w.uint64(0)
		return
	}
	w.uint64(uint64(m.out(t)))
}

// heard is an instant that cannot lie ahead.
func (w *writer) heard(t time.Time, m moment) { w.instant(m.past(t), m) }

func (w *writer) contents(c Contents, m moment) {
	w.text(m.boot)
	w.uint64(uint64(m.since))
	w.text(c.Instance)
	w.session(c.Vault, m)
	w.uint32(uint32(len(c.Secrets)))
	for _, s := range c.Secrets {
		w.text(string(s.ClientID))
		w.secret(s.Current.Text)
		w.uint64(uint64(s.Current.Version))
		w.heard(s.Since, m)
		w.heard(s.Confirmed, m)
	}
	w.raw(c.Keys.StoreID[:])
	w.uint32(uint32(len(c.Keys.Keys)))
	for _, k := range c.Keys.Keys {
		w.text(string(k.Class))
		w.raw(k.ID[:])
		w.secret(k.Key)
		w.raw(k.Check[:])
	}
	w.anchor(c.Anchor)
	w.uint64(uint64(c.AnchorVersion))
}

func (w *writer) session(v vault.Memory, m moment) {
	w.secret(v.Token)
	w.secret(v.SecretID)
	w.flag(v.Renewable)
	w.heard(v.Since, m)
	w.instant(v.Expires, m)
	w.heard(v.LastWord, m)
}

func (w *writer) anchor(a vault.Anchor) {
	w.text(a.StoreID)
	w.uint64(a.Incarnation)
	w.uint64(a.Generation)
	w.text(a.KeyringDigest)
	w.uint64(a.StorePosition)
	w.uint64(a.AuditSegment)
	w.uint64(a.AuditSequence)
	w.text(a.AuditHead)
	w.text(a.AuditKey)
	w.uint64(uint64(a.Time.Unix()))
	w.uint32(uint32(a.Time.Nanosecond()))
	w.text(a.Host)
}

// reader takes fields off the front of a body. After its first error it yields
// zeros. Secrets are copied out of it once, and nothing else of it is kept.
type reader struct {
	rest []byte
	at   moment
	err  error
}

var (
	errMalformed = errors.New("what is there is malformed")
	errBoot      = errors.New("what is there is of another boot")
	errClock     = errors.New("what is there was saved later than now, by the clock since boot")
)

// decode reads a body. On an error it leaves no secret behind.
func decode(body []byte, m moment) (Contents, error) {
	r := reader{rest: body, at: m}
	boot, since := string(r.field()), time.Duration(r.uint64())
	switch {
	case r.err != nil:
		return Contents{}, r.err
	case m.boot == "" || boot != m.boot:
		return Contents{}, errBoot
	case since < 0 || since > m.since:
		return Contents{}, errClock
	}
	c := r.contents()
	if r.err == nil && len(r.rest) != 0 {
		r.err = fmt.Errorf("%w: %d bytes follow", errMalformed, len(r.rest))
	}
	if r.err != nil {
		c.Wipe()
		return Contents{}, r.err
	}
	return c, nil
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = errMalformed
	}
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.fail()
	}
	if r.err != nil {
		return make([]byte, min(max(n, 0), 32))
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) field() []byte       { return r.take(int(r.uint32())) }
func (r *reader) secret() secret.Text { return secret.New(r.field()) }

// number is an int that is not negative.
func (r *reader) number() int {
	n := r.uint64()
	if n > math.MaxInt32 {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) flag() bool {
	b := r.take(1)[0]
	if b > 1 {
		r.fail()
	}
	return b == 1
}

func (r *reader) instant() time.Time {
	there, at := r.flag(), int64(r.uint64())
	off := time.Duration(at) - r.at.since
	switch {
	case !there && at != 0, there && (off < -century || off > century):
		r.fail()
		return time.Time{}
	case !there:
		return time.Time{}
	}
	return r.at.in(at)
}

// heard is an instant that does not lie ahead.
func (r *reader) heard() time.Time {
	t := r.instant()
	if t.After(r.at.now) {
		r.fail()
	}
	return t
}

func (r *reader) contents() Contents {
	c := Contents{Instance: string(r.field()), Vault: r.session()}
	for range r.uint32() {
		if r.err != nil {
			return c
		}
		c.Secrets = append(c.Secrets, vault.SecretMemory{
			ClientID: user.ClientID(r.field()), Current: user.ClientSecret{Text: r.secret(), Version: r.number()},
			Since: r.heard(), Confirmed: r.heard(),
		})
	}
	c.Keys.StoreID = seal.StoreID(r.take(16))
	for range r.uint32() {
		if r.err != nil {
			return c
		}
		c.Keys.Keys = append(c.Keys.Keys, keyring.RememberedKey{
			Class: keyring.Class(r.field()), ID: seal.KeyID(r.take(16)), Key: r.secret(), Check: [32]byte(r.take(32)),
		})
	}
	c.Anchor, c.AnchorVersion = r.anchor(), r.number()
	return c
}

func (r *reader) session() vault.Memory {
	return vault.Memory{
		Token: r.secret(), SecretID: r.secret(), Renewable: r.flag(),
		Since: r.heard(), Expires: r.instant(), LastWord: r.heard(),
	}
}

func (r *reader) anchor() vault.Anchor {
	a := vault.Anchor{
		StoreID: string(r.field()), Incarnation: r.uint64(), Generation: r.uint64(),
		KeyringDigest: string(r.field()), StorePosition: r.uint64(),
		AuditSegment: r.uint64(), AuditSequence: r.uint64(),
		AuditHead: string(r.field()), AuditKey: string(r.field()),
	}
	seconds, nanoseconds := int64(r.uint64()), r.uint32()
	if nanoseconds >= 1e9 {
		r.fail()
	}
	a.Time = time.Unix(seconds, int64(nanoseconds)).UTC()
	a.Host = string(r.field())
	return a
}
