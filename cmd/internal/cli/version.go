package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"
)

// release is set by the linker: -ldflags "-X …/cmd/internal/cli.release=1.2.3".
var release string

// build says what this program was built from.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source, "+" at the end when it had changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func buildInfo() build {
	b := build{Version: release, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b.orDevel()
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	changed := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				changed = "+"
			}
		}
	}
	if b.Revision != "" {
		b.Revision += changed
	}
	return b.orDevel()
}

func (b build) orDevel() build {
	if b.Version == "" {
		b.Version = "(devel)"
	}
	return b
}

func (p *program) version() *cli.Command {
	return p.command(command{
		name: "version", usage: "print the version of this program",
		example: "tokenvault version --json", prints: true,
		run: func(c *cli.Context) error {
			b := buildInfo()
			return p.answer(c, b, func(w io.Writer) {
				fmt.Fprintln(w, strings.Join(strings.Fields("tokenvault "+b.Version+" "+b.Revision+" "+b.Go+" "+b.Platform), " "))
			})
		},
	})
}
