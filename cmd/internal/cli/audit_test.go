package cli

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/secret"
)

// auditLog makes a closed log of two starts, and returns its public key.
func auditLog(t *testing.T, path string) (key string) {
	t.Helper()
	signer := ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", ed25519.SeedSize)))
	for range 2 {
		log, err := audit.Open(t.Context(), audit.Config{
			Path: path, Instance: "main", Incarnation: 1, Signer: signer, SubjectKey: secret.FromString(strings.Repeat("k", 32)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Write(audit.Event{Kind: audit.Note, Outcome: "started"}); err != nil {
			t.Fatal(err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return hex.EncodeToString(signer.Public().(ed25519.PublicKey))
}

// cutBefore cuts the log off in front of its nth checkpoint.
func cutBefore(t *testing.T, path string, nth int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept [][]byte
	for _, line := range bytes.SplitAfter(text, []byte("\n")) {
		if bytes.Contains(line, []byte(`"kind":"checkpoint"`)) {
			if nth--; nth == 0 {
				break
			}
		}
		kept = append(kept, line)
	}
	if nth != 0 || os.WriteFile(path, bytes.Join(kept, nil), 0o600) != nil {
		t.Fatal("the log has too few checkpoints, or cannot be written")
	}
}

// What no signature covers is never called authentic.
func TestAuditVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		cut    int // 0: not at all
		keyed  bool
		status int
		auth   bool
		tail   uint64
		wants  []string
	}{
		"whole, with the key":         {0, true, exitOK, true, 0, []string{"authentic to line 4\n"}},
		"whole, without":              {0, false, exitOK, false, 0, []string{"nothing is proved to be authentic without --key: anyone could have written this log\n"}},
		"unsigned end, with the key":  {2, true, exitOK, true, 1, []string{"authentic to line 2\n", "1 lines after it are not signed: anyone could have written them\n"}},
		"unsigned end, without":       {2, false, exitOK, false, 1, []string{"1 lines after the last signature are not signed: anyone could have written them\n"}},
		"no signature, with the key":  {1, true, exitFound, false, 2, []string{"NOT authentic: nothing in it is signed with the key"}},
		"no signature, without a key": {1, false, exitOK, false, 2, []string{"anyone could have written this log\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.log")
			key := auditLog(t, path)
			if c.cut > 0 {
				cutBefore(t, path, c.cut)
			}
			args := []string{"audit", "verify"}
			if c.keyed {
				args = append(args, "--key", key)
			}
			text := invoke(t, nil, "", append(args, path)...)
			for _, want := range c.wants {
				if text.status != c.status || !strings.Contains(text.stdout, want) {
					t.Errorf("exit %d, want %q: %s%s", text.status, want, text.stdout, text.stderr)
				}
			}
			answer := invoke(t, nil, "", append(args, "--json", path)...)
			var v verified
			if err := json.Unmarshal([]byte(answer.stdout), &v); err != nil {
				t.Fatal(err)
			}
			if answer.status != c.status || v.Authentic != c.auth || v.Tail != c.tail || (v.AuthenticTo > 0) != c.auth || (v.Problem != "") != (c.status != exitOK) {
				t.Errorf("exit %d: %+v", answer.status, v)
			}
		})
	}
}

// Lines that were unsigned when the daemon started stay unproven.
func TestAuditVerdictAdopted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	auditLog(t, path)
	cutBefore(t, path, 2)
	key := auditLog(t, path)
	r := invoke(t, nil, "", "audit", "verify", "--key", key, path)
	if r.status != exitOK || !strings.Contains(r.stdout, "lines among them were found unsigned when the daemon started: anyone could have written them\n  lines ") {
		t.Errorf("exit %d: %s%s", r.status, r.stdout, r.stderr)
	}
}
