package keyring

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// rawHKDF is RFC 5869 by hand, for one block of output.
func rawHKDF(key, salt []byte, info string) []byte {
	return rawHMAC(rawHMAC(salt, key), info+"\x01")
}

func rawHMAC(key []byte, message any) []byte {
	h := hmac.New(sha256.New, key)
	switch m := message.(type) {
	case string:
		h.Write([]byte(m))
	case []byte:
		h.Write(m)
	}
	return h.Sum(nil)
}

// TestAsSpecified makes everything that is derived again, with nothing but the
// text of the specification and the keys that went through Transit.
func TestAsSpecified(t *testing.T) {
	k, m, w := fresh(t)
	index, audit := w.wrapped[3], w.wrapped[4]
	store := k.StoreID()
	rows := rawHKDF(index, store[:], "\x00\x00\x00\x12tokenvault/index/1\x00\x00\x00\x04rows")
	sessions := rawHKDF(index, store[:], "\x00\x00\x00\x12tokenvault/index/1\x00\x00\x00\x08sessions")
	mac := rawHKDF(index, store[:], "\x00\x00\x00\x14tokenvault/keyring/1\x00\x00\x00\x03mac")
	subject := rawHKDF(audit, store[:], "\x00\x00\x00\x12tokenvault/audit/1\x00\x00\x00\x07subject")
	seed := rawHKDF(audit, store[:], "\x00\x00\x00\x12tokenvault/audit/1\x00\x00\x00\x07ed25519")

	memory := rawHKDF(index, store[:], "\x00\x00\x00\x14tokenvault/keyring/1\x00\x00\x00\x06memory")
	backup := rawHKDF(index, store[:], "\x00\x00\x00\x10tokenvault/mac/1\x00\x00\x00\x06backup")

	first := k.Memory().Keys[0]
	ofBackup := k.MAC("backup").Sum([]byte("message"))
	human, client, cuid := k.HumanRow("app", "idid"), k.ClientUserRow("app", "idid"), k.IndexRow("app", "idid")
	session := k.SessionRow("app", secret.FromString("idid"))
	for name, c := range map[string]struct{ got, want []byte }{
		"human row":       {human[:], rawHMAC(rows, "\x00\x00\x00\x05human\x00\x00\x00\x03app\x00\x00\x00\x04idid")},
		"client-user row": {client[:], rawHMAC(rows, "\x00\x00\x00\x0bclient-user\x00\x00\x00\x03app\x00\x00\x00\x04idid")},
		"index row":       {cuid[:], rawHMAC(rows, "\x00\x00\x00\x04cuid\x00\x00\x00\x03app\x00\x00\x00\x04idid")},
		"session row":     {session[:], rawHMAC(sessions, "\x00\x00\x00\x03app\x00\x00\x00\x04idid")},
		"check in memory": {first.Check[:], rawHMAC(memory, "\x00\x00\x00\x06public\x00\x00\x00\x10"+string(first.ID[:])+"\x00\x00\x00\x20"+string(w.wrapped[0]))},
		"MAC of backups":  {ofBackup[:], rawHMAC(backup, "message")},
		"subject":         {k.Subject().Reveal(), subject},
		"signer":          {k.Signer(), ed25519.NewKeyFromSeed(seed)},
		"blob's HMAC":     {m.get()[len(m.get())-32:], rawHMAC(mac, m.get()[:len(m.get())-32])},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s is not as specified", name)
		}
	}
}

// TestRowsDiffer: no two things that are named share a name.
func TestRowsDiffer(t *testing.T) {
	k, _, _ := fresh(t)
	seen := map[seal.RowID]string{}
	for name, row := range map[string]seal.RowID{
		"human":           k.HumanRow("app", "id"),
		"other human":     k.HumanRow("app", "Id"),
		"other app":       k.HumanRow("ap", "id"),
		"moved boundary":  k.HumanRow("appi", "d"),
		"empty human":     k.HumanRow("app", ""),
		"empty app":       k.HumanRow("", "app"),
		"nul":             k.HumanRow("app", "id\x00"),
		"composed":        k.HumanRow("app", "\u00e9"),
		"decomposed":      k.HumanRow("app", "e\u0301"),
		"client-user":     k.ClientUserRow("app", "id"),
		"index":           k.IndexRow("app", "id"),
		"session":         k.SessionRow("app", secret.FromString("id")),
		"other session":   k.SessionRow("app", secret.FromString("ie")),
		"session of app":  k.SessionRow("appi", secret.FromString("d")),
		"session of none": k.SessionRow("app", secret.Text{}),
	} {
		if other, ok := seen[row]; ok {
			t.Errorf("%s and %s have one row", name, other)
		}
		seen[row] = name
	}
}

func BenchmarkHumanRow(b *testing.B) {
	k, _, _ := fresh(b)
	b.ReportAllocs()
	for b.Loop() {
		k.HumanRow("2e9574ecd415c99346879d07689ec1c732c11036", "b20c0ba4aeb79fe87f0e5b5ef7e6e5cc")
	}
}

func BenchmarkOpenBox(b *testing.B) {
	k, _, _ := fresh(b)
	id, key, _ := k.Active(Public)
	bind := seal.Binding{Store: k.StoreID(), Purpose: seal.Public, Revision: 1}
	envelope, err := seal.Seal(key, id, bind, make([]byte, 200))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.OpenBox(Public, bind, envelope); err != nil {
			b.Fatal(err)
		}
	}
}
