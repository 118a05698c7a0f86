package daemon

import (
	"io"
	"log/slog"
	"os"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"golang.org/x/term"
)

// NewLogger returns the daemon's own log: text on a terminal, else JSON lines.
func NewLogger(w io.Writer, c config.Log) *slog.Logger {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "warn": slog.LevelWarn, "error": slog.LevelError}
	o := &slog.HandlerOptions{Level: levels[c.Level], ReplaceAttr: readable} // info is the zero level
	f, isFile := w.(*os.File)
	if c.Format == "text" || (c.Format == "auto" && isFile && term.IsTerminal(int(f.Fd()))) {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

// readable writes durations as "1h0m0s": the JSON handler would count
// nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
