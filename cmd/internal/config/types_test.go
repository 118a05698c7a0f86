package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/vault"
)

func TestNotations(t *testing.T) {
	var d Duration
	for in, want := range map[string]time.Duration{"5s": 5 * time.Second, "168h": 168 * time.Hour, "1h30m": 90 * time.Minute} {
		if err := d.UnmarshalText([]byte(in)); err != nil || d.Std() != want || d.String() != in {
			t.Errorf("%s: %v %v", in, d, err)
		}
	}
	for _, in := range []string{"", "5", "-5s", "1d", "5 s"} {
		if d.UnmarshalText([]byte(in)) == nil {
			t.Errorf("%q is a duration", in)
		}
	}
	var s Size
	for in, want := range map[string]Size{"64KiB": 65536, "2GiB": 2 << 30, "17B": 17, "0B": 0} {
		if err := s.UnmarshalText([]byte(in)); err != nil || s != want || s.String() != in {
			t.Errorf("%s: %v %v", in, s, err)
		}
	}
	for _, in := range []string{"", "64", "64MB", "-1B", "+1B", "1.5MiB", "9999999999GiB", "KiB"} {
		if s.UnmarshalText([]byte(in)) == nil {
			t.Errorf("%q is a size", in)
		}
	}
	var m Mode
	if err := m.UnmarshalText([]byte("0660")); err != nil || m != 0o660 || m.String() != "0660" {
		t.Errorf("%v %v", m, err)
	}
	for _, in := range []string{"", "66", "0888", "1777", "rw"} {
		if m.UnmarshalText([]byte(in)) == nil {
			t.Errorf("%q is a mode", in)
		}
	}
}

func TestCheckSecretFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	cfg, err := loadOne(t, minimal+"[vault.auth]\nmethod = 'token'\ntoken_file = '"+path+"'\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.CheckSecretFiles(); err != nil {
		t.Errorf("a file that is not there yet: %v", err)
	}
	for mode, want := range map[os.FileMode]string{0o600: "", 0o644: "vault.auth.token_file"} {
		if err := os.WriteFile(path, []byte("marker-token\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		err := cfg.CheckSecretFiles()
		if err != nil && !errors.Is(err, vault.ErrSecretFile) {
			t.Errorf("%04o: it is not about a secret file: %v", mode, err)
		}
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%04o: %v", mode, err)
		}
	}
}

// What cannot be opened is no mistake of the configuration's: the error says what
// to do about the file. (Root may open every file.)
func TestRemedy(t *testing.T) {
	if got := remedy(&fs.PathError{Op: "open", Path: "role-id", Err: syscall.EACCES}); !strings.Contains(got, "chown") || !strings.Contains(got, "LoadCredential=") {
		t.Errorf("%q", got)
	}
	if got := remedy(errors.New("is empty")); got != "" {
		t.Errorf("%q", got)
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add(passwd)
	f.Add("a:b:c\n:::\nx:y:99999999999:z\n")
	f.Fuzz(func(t *testing.T, text string) {
		ids, err := parseAccounts(strings.NewReader(text))
		if _, empty := ids[""]; empty && err == nil {
			t.Error("an empty name has a number")
		}
	})
}

// FuzzDecode looks for a panic, for a problem without a text, and for a key that
// the decoder takes and the walk does not know.
func FuzzDecode(f *testing.F) {
	f.Add(minimal)
	f.Add("[[rule]]\nname='a'\n[rule.rate]\nper_second=1\n")
	f.Add("app=[{name='a'},{client_id='b'}]\nlimits.body='1KiB'\n")
	f.Add("[vault]\nADDRESS='x'\n[vault.auth.x]\n")
	f.Add("rule=5\n[rule]\n[listener]\nmode=660\n[[vault]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		cfg := defaults()
		cfg.where = places{file: "f", at: map[string]place{}}
		err := decode(cfg, "f", []byte(text), false)
		if err == nil {
			cfg.finish(LoadOptions{Env: func(string) string { return "" }})
			err = cfg.check(LoadOptions{Passwd: "/dev/null", Group: "/dev/null"})
		}
		if err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}
