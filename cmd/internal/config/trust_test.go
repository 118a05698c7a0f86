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
)

// operatorDir is a directory as an operator makes it.
func operatorDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"tokenvault.toml": minimal, "conf.d/a.toml": "", "passwd": passwd, "group": group} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dir, filepath.Join(dir, "conf.d")} {
		if err := os.Chmod(d, 0o755); err != nil { // whatever the umask is
			t.Fatal(err)
		}
	}
	return dir
}

// loadFrom fails the test when Load does not come back.
func loadFrom(t testing.TB, dir string) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := Load(LoadOptions{
			Path: filepath.Join(dir, "tokenvault.toml"), Env: func(string) string { return "" },
			Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group"),
		})
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("reading the configuration hangs")
		return nil
	}
}

// Who may write the file, its directory or conf.d gives himself every right.
func TestOnlyTheOperatorWrites(t *testing.T) {
	if err := loadFrom(t, operatorDir(t)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".", "conf.d", "tokenvault.toml", "conf.d/a.toml"} {
		for _, mode := range []os.FileMode{0o775, 0o757, 0o777 | os.ModeSticky} {
			dir := operatorDir(t)
			path := filepath.Join(dir, name)
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			err := loadFrom(t, dir)
			if _, ok := errors.AsType[*Error](err); !ok || !strings.Contains(err.Error(), path+": ") || !strings.Contains(err.Error(), "chmod go-w "+path) {
				t.Errorf("%s with mode %v: %v", name, mode, err)
			}
		}
		if os.Geteuid() != 0 {
			continue // only root can give a file away; CI runs as root, too
		}
		dir := operatorDir(t)
		path := filepath.Join(dir, name)
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if err := loadFrom(t, dir); err == nil || !strings.Contains(err.Error(), "chown root "+path) || !strings.Contains(err.Error(), "uid 12345") {
			t.Errorf("%s of a stranger: %v", name, err)
		}
	}
}

// A link is followed, and what it leads to is judged like the file, with the
// directory that it is in.
func TestLinkedConfiguration(t *testing.T) {
	dir, elsewhere := operatorDir(t), operatorDir(t)
	link, target := filepath.Join(dir, "tokenvault.toml"), filepath.Join(elsewhere, "tokenvault.toml")
	if err := errors.Join(os.Remove(link), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	if err := loadFrom(t, dir); err != nil {
		t.Errorf("a link: %v", err)
	}
	if err := os.Chmod(elsewhere, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := loadFrom(t, dir); err == nil || !strings.Contains(err.Error(), "chmod go-w "+elsewhere) {
		t.Errorf("a link into a directory that everybody may write: %v", err)
	}
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	if err := loadFrom(t, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link to nothing: %v", err)
	}
}

// What is no regular file is refused, and never waited for.
func TestFIFO(t *testing.T) {
	for _, name := range []string{"tokenvault.toml", "conf.d/a.toml", "conf.d"} {
		dir := operatorDir(t)
		path := filepath.Join(dir, name)
		if err := errors.Join(os.RemoveAll(path), syscall.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := loadFrom(t, dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s is a FIFO: %v", name, err)
		}
	}
}

// Who may write where the store or the audit log is puts an older one there.
func TestPlacesThatOthersWrite(t *testing.T) {
	dir := t.TempDir()
	for _, key := range []string{"store", "audit"} {
		c := Config{Store: Store{Path: filepath.Join(dir, "store", "f")}, Audit: Audit{Path: filepath.Join(dir, "audit", "f")}}
		if err := c.CheckPlaces(); err != nil {
			t.Errorf("directories that are not there yet, or are the daemon's: %v", err)
		}
		place := filepath.Join(dir, key)
		if err := errors.Join(os.Mkdir(place, 0o700), os.Chmod(place, 0o777|os.ModeSticky)); err != nil {
			t.Fatal(err)
		}
		if err := c.CheckPlaces(); err == nil || !strings.Contains(err.Error(), key+".path") || !strings.Contains(err.Error(), "chmod go-w "+place) {
			t.Errorf("a directory that everybody may write: %v", err)
		}
		if err := os.Chmod(place, 0o750); err != nil {
			t.Fatal(err)
		}
	}
}
