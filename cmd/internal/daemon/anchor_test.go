package daemon

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/vault"
)

// What is at or ahead of its anchor is served; everything else is named.
func TestBehind(t *testing.T) {
	here := stand{
		keys: keyring.Info{
			Exists: true, StoreID: [16]byte{1}, Incarnation: 2, Generation: 5, Version: 9, Digest: [32]byte{7},
		},
		position: 100,
	}
	there := vault.Anchor{
		StoreID: hex.EncodeToString(here.keys.StoreID[:]), Incarnation: 2, Generation: 5,
		KeyringDigest: hex.EncodeToString(here.keys.Digest[:]), StorePosition: 100,
		AuditSegment: 1, AuditSequence: 50, AuditHead: strings.Repeat("ab", 32),
	}
	for name, c := range map[string]struct {
		here  func(*stand)
		there func(*vault.Anchor)
		none  bool // no anchor in Vault
		lacks bool // the log has not the anchor's line
		want  string
	}{
		"just there":                    {},
		"ahead":                         {there: func(a *vault.Anchor) { a.StorePosition, a.Generation, a.KeyringDigest = 90, 4, strings.Repeat("0", 64) }},
		"a later incarnation":           {there: func(a *vault.Anchor) { a.Incarnation, a.Generation, a.StorePosition = 1, 99, 999 }},
		"nothing at all":                {here: func(s *stand) { *s = stand{unused: true} }, none: true},
		"a first start that was cut":    {here: func(s *stand) { s.keys.Generation, s.unused = 1, true }, none: true},
		"an anchor without a log":       {there: func(a *vault.Anchor) { a.AuditSegment, a.AuditSequence, a.AuditHead = 0, 0, "" }, lacks: true},
		"used, and no anchor":           {none: true, want: "no anchor"},
		"unused but later, no anchor":   {here: func(s *stand) { s.unused = true }, none: true, want: "no anchor"},
		"no store":                      {here: func(s *stand) { *s = stand{unused: true} }, want: "no store here"},
		"another store":                 {there: func(a *vault.Anchor) { a.StoreID = strings.Repeat("0", 32) }, want: "another one"},
		"an earlier incarnation":        {there: func(a *vault.Anchor) { a.Incarnation = 3 }, want: "incarnation 2"},
		"an older keyring":              {there: func(a *vault.Anchor) { a.Generation = 6 }, want: "generation 5"},
		"another keyring":               {there: func(a *vault.Anchor) { a.KeyringDigest = strings.Repeat("0", 64) }, want: "not the one"},
		"an older store":                {there: func(a *vault.Anchor) { a.StorePosition = 101 }, want: "change 100"},
		"an older log":                  {lacks: true, want: "lacks line 50"},
		"an older log, later incarnate": {there: func(a *vault.Anchor) { a.Incarnation = 1 }, lacks: true, want: "lacks line 50"},
		"a head that is none":           {there: func(a *vault.Anchor) { a.AuditHead = "ab" }, want: "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			s, a := here, there
			if c.here != nil {
				c.here(&s)
			}
			if c.there != nil {
				c.there(&a)
			}
			reasons, err := s.behind(a, !c.none, func(p audit.Position) (bool, error) {
				if p.Sequence != 50 || p.Segment != 1 || p.Head[31] != 0xab {
					t.Errorf("the log is asked for %d, %d", p.Segment, p.Sequence)
				}
				return !c.lacks, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			switch got := strings.Join(reasons, "; "); {
			case c.want == "" && got != "":
				t.Errorf("found: %s", got)
			case !strings.Contains(got, c.want):
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
	failing := errors.New("marker: the log cannot be read")
	if _, err := here.behind(there, true, func(audit.Position) (bool, error) { return false, failing }); !errors.Is(err, failing) {
		t.Errorf("a log that cannot be read is not said: %v", err)
	}
}

// The kernel takes any bytes as the machine's name, and an anchor does not.
func TestHost(t *testing.T) {
	for name, want := range map[string]string{"shop-1.internal": "shop-1.internal", "bücher\n": "b?cher?", "\xff": "?"} {
		if got := printableASCII(name); got != want {
			t.Errorf("%q became %q, want %q", name, got, want)
		}
	}
}
