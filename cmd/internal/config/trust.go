package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// trustedPlace judges the directory that a file is in and, behind a link, the
// one that it leads to: who may write there may put another file in its place,
// or a further one into conf.d. Directories above are not judged.
func trustedPlace(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	for _, p := range []string{path, target} {
		if err := trusted(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

// CheckPlaces refuses a directory of the store or the audit log in which others than
// the daemon could put an older one in its place. One that is not there is no error.
func (c *Config) CheckPlaces() error {
	for _, p := range [][2]string{{"store.path", c.Store.Path}, {"audit.path", c.Audit.Path}} {
		dir := filepath.Dir(p[1])
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = judge(dir, info)
		}
		if err != nil {
			return errors.New(c.problem(p[0], "%v", err).String())
		}
	}
	return nil
}

func trusted(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	return judge(dir, info)
}

// judge refuses what anybody but root and the user that reads it may write. A
// sticky directory is no exception: anybody may add a file there.
func judge(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileProblem(path, "its owner cannot be told")
	}
	var mend []string
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		mend = append(mend, "chown root "+path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		mend = append(mend, "chmod go-w "+path)
	}
	if len(mend) == 0 {
		return nil
	}
	return fileProblem(path, fmt.Sprintf("belongs to uid %d with mode %04o: who may write it may do everything, so it must be root's or the reader's own, and writable by nobody else: %s",
		stat.Uid, info.Mode().Perm(), strings.Join(mend, " && ")))
}
