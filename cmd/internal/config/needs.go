package config

import (
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
)

// Needs is what of the machine the daemon uses by this configuration.
type Needs struct {
	// Read are directories: a file that is replaced is another file to the kernel,
	// so the right to read one is of no use after an editor or a rotation. Of a file
	// that is a link, the directory that it leads to now is among them: a link that
	// leads elsewhere later takes a restart.
	Read []string
	// Write are the directories in which the daemon makes files, without those of
	// its sockets, which are in Sockets.
	Write, Sockets []string
	// Connect are TCP ports; names have to be resolved beside them.
	Connect []uint16
}

// Needs lists it, each thing once. Without a proxy the three origins of Human API
// count.
func (c *Config) Needs() Needs {
	n := Needs{Read: dirsOf(filepath.Join(c.Dir(), filepath.Base(c.where.file))), Write: []string{filepath.Dir(c.Store.Path), filepath.Dir(c.Audit.Path)}}
	more, _ := dropIns(c.where.file) // Load has read them
	for _, file := range more {
		n.Read = append(n.Read, dirsOf(file)...)
	}
	for _, f := range c.secretFiles() {
		if *f.path != "" && c.loginReads(f.key) {
			n.Read = append(n.Read, dirsOf(*f.path)...)
		}
	}
	for _, f := range []string{c.Vault.CAFile, c.HumanAPI.CAFile} {
		if f != "" {
			n.Read = append(n.Read, dirsOf(f)...)
		}
	}
	for _, l := range c.Listeners {
		n.Sockets = append(n.Sockets, filepath.Dir(l.Path))
	}
	urls := []string{c.Vault.Address, c.HumanAPI.UserURL, c.HumanAPI.AuthURL, c.HumanAPI.DataURL}
	if c.HumanAPI.ProxyURL != "" {
		urls = []string{c.Vault.Address, c.HumanAPI.ProxyURL}
	}
	for _, u := range urls {
		n.Connect = append(n.Connect, port(u))
	}
	for _, list := range []*[]string{&n.Read, &n.Write, &n.Sockets} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	slices.Sort(n.Connect)
	n.Connect = slices.Compact(n.Connect)
	return n
}

// dirsOf are the directory of a file and, where it is a link, the one that it leads
// to.
func dirsOf(file string) []string {
	out := []string{filepath.Dir(file)}
	if target, err := filepath.EvalSymlinks(file); err == nil && filepath.Dir(target) != out[0] {
		out = append(out, filepath.Dir(target))
	}
	return out
}

// port is the one of a URL that was checked.
func port(raw string) uint16 {
	u, err := url.Parse(raw)
	if err != nil {
		return 0
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		return uint16(n)
	}
	if u.Scheme == "http" {
		return 80
	}
	return 443
}
