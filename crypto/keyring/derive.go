package keyring

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// Every label under which this package derives something stands here, and they
// are all different: what is derived for one thing is of no use for another.
// A label is part of the format, and never changes its meaning; a new way of
// deriving takes a new label. (The data keys are derived from in crypto/seal,
// under the label that stands there.)
//
//	wrap context     = SHA-256(enc(labelWrap, store id, class, key id))
//	index key/rows     = HKDF(index key, salt = store id, info = enc(labelIndex, "rows"))
//	index key/sessions = HKDF(index key, salt = store id, info = enc(labelIndex, "sessions"))
//	keyring MAC key  = HKDF(index key, salt = store id, info = enc(labelBlob, "mac"))
//	memory MAC key   = HKDF(index key, salt = store id, info = enc(labelBlob, "memory"))
//	MAC of a purpose = HKDF(index key, salt = store id, info = enc(labelMAC, purpose))
//	subject key      = HKDF(audit key, salt = store id, info = enc(labelAudit, "subject"))
//	signer's seed    = HKDF(audit key, salt = store id, info = enc(labelAudit, "ed25519"))
//
// HKDF is HKDF-SHA256 (RFC 5869) with 32 bytes of output, enc is [seal.Enc].
const (
	labelWrap  = "tokenvault/key/1"
	labelIndex = "tokenvault/index/1"
	labelBlob  = "tokenvault/keyring/1"
	labelAudit = "tokenvault/audit/1"
	labelMAC   = "tokenvault/mac/1"
)

// The kinds of ids that row ids are made of.
const (
	kindHuman      = "human"       // a row in the table of users, by humanId
	kindClientUser = "client-user" // the same, for users of the newer flow
	kindIndex      = "cuid"        // an entry of the index by clientUserId
)

// wrapContext is what Transit binds a wrapped key to: a key that is carried to
// another store, class or id does not unwrap there.
func wrapContext(store seal.StoreID, class Class, id seal.KeyID) []byte {
	sum := sha256.Sum256(seal.Enc([]byte(labelWrap), store[:], []byte(class), id[:]))
	return sum[:]
}

// derived holds the index key and the audit key and what is made of them. The two
// themselves are for [Keyring.Memory], for [Keyring.Confirm], which may have to
// wrap them anew, and for [Keyring.MAC].
type derived struct {
	index, audit                secret.Text
	rows, sessions, mac, memory secret.MAC  // of the index key
	subject, seed               secret.Text // of the audit key
}

func (d *derived) wipe() {
	for _, m := range []secret.MAC{d.rows, d.sessions, d.mac, d.memory} {
		m.Wipe()
	}
	for _, t := range []secret.Text{d.index, d.audit, d.subject, d.seed} {
		t.Wipe()
	}
}

// fromIndexKey keeps a copy of key.
func (d *derived) fromIndexKey(key secret.Text, store seal.StoreID) {
	d.index = keep(key)
	d.rows = submac(key, store, labelIndex, "rows", secret.KeepMAC)
	d.sessions = submac(key, store, labelIndex, "sessions", secret.KeepMAC)
	d.mac = submac(key, store, labelBlob, "mac", secret.KeepMAC)
	d.memory = submac(key, store, labelBlob, "memory", secret.KeepMAC)
}

// fromAuditKey keeps a copy of key.
func (d *derived) fromAuditKey(key secret.Text, store seal.StoreID) {
	d.audit = keep(key)
	d.subject = keepAndWipe(subkey(key, store, labelAudit, "subject"))
	d.seed = keepAndWipe(subkey(key, store, labelAudit, "ed25519"))
}

// subkey is for a use that is over soon.
func subkey(key secret.Text, store seal.StoreID, label, what string) secret.Text {
	extracted := secret.Extract(key, store[:])
	defer extracted.Wipe()
	m := secret.NewMAC(extracted)
	defer m.Wipe()
	// HKDF-Expand of 32 bytes is one block (RFC 5869 section 2.3): T(1).
	b := new([sha256.Size]byte)
	defer clear(b[:])
	m.SumInto(b, append(seal.Enc([]byte(label), []byte(what)), 1))
	return secret.New(b[:])
}

func submac(key secret.Text, store seal.StoreID, label, what string, hold func(secret.Text) secret.MAC) secret.MAC {
	sub := subkey(key, store, label, what)
	defer sub.Wipe()
	return hold(sub)
}

func newKey() secret.Text {
	b := new([seal.KeySize]byte)
	defer clear(b[:])
	rand.Read(b[:]) // never fails: the program ends instead (crypto/rand)
	return secret.New(b[:])
}

// clone is a copy on the heap, for whoever wipes it soon.
func clone(t secret.Text) secret.Text { return secret.New(t.Reveal()) }

// keep is a copy in the locked region.
func keep(t secret.Text) secret.Text { return secret.Keep(t.Reveal()) }

func keepAndWipe(t secret.Text) secret.Text {
	defer t.Wipe()
	return keep(t)
}

func (d *derived) signer() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(d.seed.Reveal()) }

func (d *derived) row(kind string, clientID user.ClientID, id string) seal.RowID {
	var room [256]byte // for ids as they are in use
	m := seal.AppendField(room[:0], kind)
	m = seal.AppendField(m, clientID)
	return d.rows.Sum(seal.AppendField(m, id))
}

func (d *derived) session(clientID user.ClientID, token secret.Text) seal.RowID {
	message := seal.Enc([]byte(clientID), token.Reveal())
	defer clear(message)
	return d.sessions.Sum(message)
}

// sum is what Check is, for a key of 32 bytes that is the one remembered.
func (r RememberedKey) sum(mac secret.MAC) [sha256.Size]byte {
	message := seal.Enc([]byte(r.Class), r.ID[:], r.Key.Reveal())
	defer clear(message)
	return mac.Sum(message)
}
