package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/pelletier/go-toml/v2"

	"github.com/tokenvault/tokenvault/vault"
)

// maxFile bounds one configuration file. Ten thousand rules fit.
const maxFile = 4 * MiB

// place is where a key stands.
type place struct {
	file string
	line int
}

// places knows where each key path that was said stands.
type places struct {
	file string // the main file
	at   map[string]place
	// fromSystemd are the secret files that stand there below
	// $CREDENTIALS_DIRECTORY, expanded.
	fromSystemd []string
	reader      *vault.Reader // of secret files, where it is not this process
}

// readInto decodes one file into cfg. A drop-in may only add apps and rules.
func readInto(cfg *Config, path string, dropIn bool) error {
	doc, err := readFile(path)
	if err != nil {
		return err
	}
	return decode(cfg, path, doc, dropIn)
}

func decode(cfg *Config, path string, doc []byte, dropIn bool) error {
	var raw map[string]any
	if err := toml.Unmarshal(doc, &raw); err != nil { // syntax, and keys said twice
		return decodeError(path, err)
	}
	w := newWalker(path, doc, cfg, dropIn)
	if w.walk(); len(w.problems) > 0 {
		return &Error{Problems: w.problems}
	}
	target := cfg
	if dropIn {
		target = &Config{}
	}
	if err := toml.Unmarshal(doc, target); err != nil {
		return decodeError(path, err)
	}
	if dropIn {
		cfg.Apps = append(cfg.Apps, target.Apps...)
		cfg.Rules = append(cfg.Rules, target.Rules...)
	}
	return nil
}

func decodeError(path string, err error) error {
	p := Problem{File: path, Text: err.Error()}
	if d, ok := errors.AsType[*toml.DecodeError](err); ok {
		p.Line, _ = d.Position()
	}
	return &Error{Problems: []Problem{p}}
}

// readFile reads a configuration file: regular (a link to one is followed), not
// too large, and writable only by root and the user that reads it.
func readFile(path string) ([]byte, error) {
	if err := trustedPlace(path); err != nil {
		return nil, err
	}
	// O_NONBLOCK: opening a FIFO must not hang.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fileProblem(path, "is not a regular file")
	}
	if err := judge(path, info); err != nil {
		return nil, err
	}
	doc, err := io.ReadAll(io.LimitReader(f, int64(maxFile)+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration %s: %w", path, err)
	}
	if len(doc) > int(maxFile) {
		return nil, fileProblem(path, fmt.Sprintf("is larger than %s", maxFile))
	}
	return doc, nil
}

func fileProblem(path, text string) error {
	return &Error{Problems: []Problem{{File: path, Text: text}}}
}
