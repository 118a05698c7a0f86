package house

import (
	"go/ast"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// decoders is what reads bytes that somebody else may have made, and the fuzz
// targets that go through it. A decoder without a target is a decision: it says
// why.
var decoders = []struct {
	pkg     string
	what    string
	funcs   string // space-separated; those that read
	targets string // space-separated; of the same package
}{
	{"crypto/seal", "envelopes", "ParseHeader", "FuzzParseHeader FuzzOpen"},
	{"crypto/keyring", "the keyring", "decode parse", "FuzzDecode FuzzOpen"},
	{"crypto/store", "rows", "decodeRow decodeRecord decodePrivate decodeIndex decodeSession decodeIntent", "FuzzFormats"},
	{"crypto/store", "backups", "parseRowHead", "FuzzBackup"},
	{"crypto/store/boltstore", "a damaged file", "inspect readHead", "FuzzDamage"},
	{"crypto/audit", "audit lines", "parseLine decodeHash", "FuzzParseLine FuzzEvent FuzzHolds"},
	{"cmd/internal/config", "the configuration, its rules", "decode UnmarshalText", "FuzzDecode"},
	{"cmd/internal/config", "/etc/passwd and /etc/group", "parseAccounts", "FuzzAccounts"},
	{"cmd/internal/doctor", "units and drop-ins of systemd", "parseUnit", "FuzzUnit"},
	{"cmd/internal/cli", "lines to import", "parseImportLine", "FuzzImportLine"},
	{"cmd/internal/restart", "the restart memory", "decode", "FuzzDecode FuzzSlot"},
	{"unix/policy", "paths and units of rules and callers", "", "FuzzPath FuzzUnit"},
	{"unix/peer", "/proc/PID/{status,stat,cgroup}", "parseStatus parseStart unitOf", "FuzzStatus FuzzStart FuzzUnitOf"},
	{"unix/server", "heads, bodies and queries of callers", "parseBody parseQuery parseParams withhold", "FuzzBody FuzzWorkBody FuzzWithhold FuzzQuery FuzzQuestion FuzzHead FuzzString"},
	{"exchange", "Human API's answers", "parse parseRetryAfter parseSeconds", "FuzzParse FuzzEncode FuzzAnswerOnTheWire FuzzRetryAfter"},
	{"exchange", "addresses and pins", "parsePins", "FuzzPublic FuzzPins"},
	{"vault", "Vault's answers", "parseApp parseEntry decode decodeMember", "FuzzAnswer FuzzFields FuzzUnquoted FuzzMakesSecretIDs"},
	{"vault", "the anchor", "parseAnchor", "FuzzAnchor"},
}

// notFuzzed reads as a decoder by its name, and is not one of hostile bytes.
var notFuzzed = map[string]string{
	"cmd/internal/config decodeError":   "turns the TOML library's error into ours",
	"exchange parseOrigin":              "the operator's URLs",
	"crypto/secret UnmarshalText":       "refuses everything",
	"crypto/secret UnmarshalBinary":     "refuses everything",
	"vault parsePins":                   "the operator's pins; the same as exchange's, which are fuzzed",
	"unix/client/clienttest decode":     "its own wrapped keys, in tests",
	"cmd/internal/dev/insecuredev open": "its own wrapped keys, in the try-out",
}

var readsBytes = regexp.MustCompile(`^(?:parse|decode|unmarshal|Parse|Decode|Unmarshal)(?:[A-Z]|$)`)

// Every decoder has a fuzz target, every target its place in the table, and every
// target a corpus that is kept.
func TestEveryDecoderIsFuzzed(t *testing.T) {
	tr := source(t)
	funcs, targets := map[string]bool{}, map[string]bool{}
	for _, f := range tr.files {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.pkg + " " + fn.Name.Name
			if f.test && strings.HasPrefix(fn.Name.Name, "Fuzz") {
				targets[name] = true
			} else if !f.test {
				funcs[name] = true
			}
		}
	}
	read, named := map[string]bool{}, map[string]bool{}
	for _, d := range decoders {
		for _, fn := range strings.Fields(d.funcs) {
			if read[d.pkg+" "+fn] = true; !funcs[d.pkg+" "+fn] {
				t.Errorf("%s has no function %s: the table of decoders is out of date", d.pkg, fn)
			}
		}
		for _, target := range strings.Fields(d.targets) {
			if named[d.pkg+" "+target] = true; !targets[d.pkg+" "+target] {
				t.Errorf("%s has no %s, which is to go through %s", d.pkg, target, d.what)
			}
		}
	}
	for _, fn := range slices.Sorted(maps.Keys(funcs)) {
		if _, name, _ := strings.Cut(fn, " "); readsBytes.MatchString(name) && !read[fn] && notFuzzed[fn] == "" && !ownTools(fn) {
			t.Errorf("%s decodes something, and stands in no row of the table of decoders", fn)
		}
	}
	for _, target := range slices.Sorted(maps.Keys(targets)) {
		if !named[target] {
			t.Errorf("%s stands in no row of the table of decoders", target)
		}
		pkg, name, _ := strings.Cut(target, " ")
		if kept, _ := os.ReadDir(filepath.Join(tr.root, filepath.FromSlash(path.Join(pkg, "testdata/fuzz", name)))); len(kept) == 0 {
			t.Errorf("%s keeps no corpus in testdata/fuzz/%s", pkg, name)
		}
	}
}

// ownTools are no part of the daemon: the simulator, the tests' servers, the house.
func ownTools(fn string) bool {
	for _, p := range []string{"exchange/humanapitest", "vault/vaulttest", "packaging/", "cmd/humanapi-sim"} {
		if strings.HasPrefix(fn, p) {
			return true
		}
	}
	return false
}
