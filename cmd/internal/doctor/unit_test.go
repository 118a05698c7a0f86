package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// An empty assignment forgets a list, the last of the others counts, a stronger
// directory's drop-in hides the weaker one's of its name.
func TestUnit(t *testing.T) {
	strong, weak := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write(weak, unitName, "[Unit]\nUser=nobody\n[Service]\nUser = tokenvault\nSystemCallFilter=@a \\\n @b\nLoadCredential=role-id:/etc/r\n# User=root\n")
	write(weak, unitName+".d/a.conf", "[Service]\nUser=root\n")
	write(strong, unitName+".d/a.conf", "[Service]\nSystemCallFilter=\nSystemCallFilter=@c\nLoadCredentialEncrypted=id:/etc/s\n")
	u := readUnit([]string{strong, weak})
	filter := u.all("Service", "SystemCallFilter")
	if u.last("Service", "User") != "tokenvault" || len(filter) != 2 || filter[1].value != "@c" || filter[1].line != 3 {
		t.Errorf("%+v", u)
	}
	path, encrypted, known := u.credentialSource("id")
	if path != "/etc/s" || !encrypted || !known {
		t.Errorf("%s, %v, %v", path, encrypted, known)
	}
	if path, encrypted, _ = u.credentialSource("role-id"); path != "/etc/r" || encrypted {
		t.Errorf("%s, %v", path, encrypted)
	}
}

func FuzzUnit(f *testing.F) {
	packaged, err := os.ReadFile("../../../packaging/systemd/" + unitName)
	must(f, err)
	for _, seed := range []string{string(packaged), "", "[Service]\nA=b\\\n c\n", "[]\n=\n\\", "[Service\nUser=\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range parseUnit("f", text) {
			u := unit{"f", []setting{s}}
			if s.line < 1 || len(u.all(s.section, s.key)) != 1 || u.last(s.section, s.key) != s.value {
				t.Errorf("%+v", s)
			}
		}
		u := unit{"f", parseUnit("f", text)}
		if !slices.IsSorted(u.weak()) {
			t.Error("the weak lines are in no order")
		}
	})
}
