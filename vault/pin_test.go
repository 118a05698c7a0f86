package vault

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// pinOf is the pin of the first certificate in a PEM file.
func pinOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}

// TestPins: a chain must hold one of the keys, and be verified beside that.
func TestPins(t *testing.T) {
	t.Parallel()
	authority := vaulttest.NewAuthority(t)
	files := authority.Server("vault.test")
	server := vaulttest.StartTLS(t, files)
	token := filepath.Join(t.TempDir(), "token")
	writeFile(t, token, server.RootToken)
	foreign := "sha256/" + base64.StdEncoding.EncodeToString(make([]byte, sha256.Size))
	login := func(caFile string, pins ...string) error {
		t.Helper()
		c, err := New(Config{Address: server.Addr, CAFile: caFile, TLSServerName: "vault.test", Pins: pins, Auth: AuthConfig{Method: "token", TokenFile: token}})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Login(t.Context())
		if err != nil && c.Requests() != 0 {
			t.Error("something was sent")
		}
		return err
	}
	for what, pins := range map[string][]string{
		"its own key":         {pinOf(t, files.CertFile)},
		"its authority's key": {pinOf(t, authority.CAFile)},
		"one of two":          {foreign, pinOf(t, files.CertFile)},
	} {
		if err := login(authority.CAFile, pins...); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	want(t, login(authority.CAFile, foreign), ErrUnreachable, "pins")
	want(t, login(vaulttest.NewAuthority(t).CAFile, pinOf(t, files.CertFile)), ErrUnreachable, "no authority")
}

func TestPinForm(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(make([]byte, sha256.Size))
	for _, bad := range []string{"", good, "sha1/" + good, "SHA256/" + good, "sha256/", "sha256/" + good[1:], "sha256/" + good + "=", "sha256/" + strings.Repeat("!", 44), "sha256/" + good[:43] + "\n=", "sha256//" + good} {
		c := Config{Address: "https://vault.test", Pins: []string{"sha256/" + good, bad}, Auth: AuthConfig{Method: "token", TokenFile: "/a"}}
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "vault pins") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	plain := Config{Address: "http://127.0.0.1:1", UnsafePlainHTTP: true, Pins: []string{"sha256/" + good}, Auth: AuthConfig{Method: "token", TokenFile: "/a"}}
	if _, err := New(plain); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("pins over http: %v", err)
	}
}
