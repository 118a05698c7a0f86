package restart

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/vault"
)

// machine is both clocks of a machine, turned by hand.
type machine struct {
	boot  string
	since time.Duration
	wall  time.Time
}

func newMachine() *machine {
	return &machine{boot: "marker-boot-id", since: 3 * time.Hour, wall: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
}

func (m *machine) Now() time.Time                { return m.wall }
func (m *machine) Boot() (string, time.Duration) { return m.boot, m.since }
func (m *machine) moment() moment                { return moment{boot: m.boot, since: m.since, now: m.wall} }

// pass lets time go by, on both clocks.
func (m *machine) pass(d time.Duration) {
	m.since += d
	m.wall = m.wall.Add(d)
}

// sample is contents in which every part carries n.
func sample(m *machine, n, apps int) Contents {
	now := m.wall
	mark := func(what string) secret.Text { return secret.FromString(fmt.Sprintf("marker-%s-%d", what, n)) }
	c := Contents{
		Instance: "main",
		Vault: vault.Memory{
			Token: mark("vault-token"), SecretID: mark("secret-id"), Renewable: true,
			Since: now.Add(-time.Hour), Expires: now.Add(time.Hour), LastWord: now.Add(-3 * time.Second),
		},
		Keys: keyring.Memory{StoreID: seal.StoreID{1, 2, 3}},
		Anchor: vault.Anchor{
			StoreID: "010203", Incarnation: 2, Generation: uint64(n), KeyringDigest: "marker-digest", StorePosition: 5,
			AuditSegment: 6, AuditSequence: 7, AuditHead: "marker-head", AuditKey: "marker-key",
			Time: now, Host: "marker-host",
		},
		AnchorVersion: n,
	}
	for i := range apps {
		c.Secrets = append(c.Secrets, vault.SecretMemory{
			ClientID:  user.ClientID(fmt.Sprintf("client-%d", i)),
			Current:   user.ClientSecret{Text: mark("client-secret"), Version: n},
			Since:     now.Add(-time.Minute),
			Confirmed: now.Add(-time.Second),
		})
	}
	for i, class := range []keyring.Class{keyring.Public, keyring.Private, keyring.Index} {
		c.Keys.Keys = append(c.Keys.Keys, keyring.RememberedKey{
			Class: class, ID: seal.KeyID{byte(i + 1)}, Key: mark("key-of-32-bytes"), Check: [32]byte{byte(n), byte(n >> 8), byte(i)},
		})
	}
	return c
}

// secrets are the values in c that do not compare.
func secrets(c Contents) []secret.Text {
	out := []secret.Text{c.Vault.Token, c.Vault.SecretID}
	for _, s := range c.Secrets {
		out = append(out, s.Current.Text)
	}
	for _, k := range c.Keys.Keys {
		out = append(out, k.Key)
	}
	return out
}

// bare is c without its secrets.
func bare(c Contents) Contents {
	c.Vault.Token, c.Vault.SecretID = secret.Text{}, secret.Text{}
	c.Secrets = append([]vault.SecretMemory(nil), c.Secrets...)
	for i := range c.Secrets {
		c.Secrets[i].Current.Text = secret.Text{}
	}
	c.Keys.Keys = append([]keyring.RememberedKey(nil), c.Keys.Keys...)
	for i := range c.Keys.Keys {
		c.Keys.Keys[i].Key = secret.Text{}
	}
	return c
}

// equal reports whether two contents are the same, secrets included.
func equal(a, b Contents) bool {
	sa, sb := secrets(a), secrets(b)
	if len(sa) != len(sb) {
		return false
	}
	for i := range sa {
		if !sa[i].Equal(sb[i]) {
			return false
		}
	}
	return reflect.DeepEqual(bare(a), bare(b))
}

func encoded(c Contents, m moment) []byte {
	out := make([]byte, measure(c, m))
	w := writer{out: out}
	w.contents(c, m)
	return out
}

func mustDecode(t testing.TB, body []byte, m moment) Contents {
	t.Helper()
	c, err := decode(body, m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
