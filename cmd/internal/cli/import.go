package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/urfave/cli/v2"
)

const (
	importLot     = 1024 // records that are handed over at a time
	maxLineErrors = 100  // bad lines that a dry run lists
)

// importAnswer is the JSON answer of store import. No user is named, only lines.
type importAnswer struct {
	App       string `json:"app"`
	DryRun    bool   `json:"dryRun"`
	Lines     int    `json:"lines"`     // read
	Imported  int    `json:"imported"`  // users who are stored now, or would be
	Known     int    `json:"known"`     // users who were there with just these tokens
	Conflicts []int  `json:"conflicts"` // lines of users who stay as they are, with other tokens
	// Bad are the lines that a dry run found to be none of an import: the first 100.
	Bad []badLine `json:"bad"`
}

// badLine says nothing of what stands in the line.
type badLine struct {
	Line int    `json:"line"` // from 1
	Why  string `json:"why"`
}

func (p *program) storeImport() *cli.Command {
	return p.command(command{
		name: "import", usage: "seal the tokens that an app kept elsewhere until now into the store; exit 5 when some contradict it",
		text: "Standard input is JSON lines, one user each:\n" +
			"  {\"humanId\": \"…\", \"clientUserId\": \"…\", \"publicToken\": \"…\", \"accessToken\": \"…\", \"expiresAt\": \"2030-01-31T12:00:00Z\"}\n" +
			"humanId and accessToken are needed, nothing else may stand there. The tokens go into [store] path,\n" +
			"sealed, and nowhere else; the audit log gets how many there were. Nothing that is stored is ever\n" +
			"replaced: a user who is there with other tokens is a conflict, and stays. At a line that is wrong it\n" +
			"ends; what stood before that line is imported. Run it again with the same lines, after this or any\n" +
			"other end: it goes on where it was. The daemon must not run. --dry-run stores nothing and lists what\n" +
			"is wrong; it does not notice two lines of one user. Afterwards destroy the input: the tokens in it\n" +
			"stay good.",
		example: "tokenvault store import --app shop --dry-run < tokens.jsonl\ntokenvault store import --app shop < tokens.jsonl",
		flags: []cli.Flag{loginFlag(), &cli.StringFlag{Name: "app", Usage: "the users are those of the app with this `NAME`"},
			&cli.BoolFlag{Name: "dry-run", Usage: "store nothing, look for what is wrong"}},
		prints: true,
		run: func(c *cli.Context) error {
			cfg, err := p.loadOffline(c)
			if err != nil {
				return err
			}
			app, err := configuredApp(cfg, c.String("app"))
			if err != nil {
				return err
			}
			return p.importUsers(c, cfg, app)
		},
	})
}

func configuredApp(cfg *config.Config, name string) (config.App, error) {
	for _, app := range cfg.Apps {
		if app.Name == name {
			return app, nil
		}
	}
	if name == "" {
		return config.App{}, usagef("import needs --app NAME")
	}
	return config.App{}, usagef("--app is not the name of an [[app]] of the configuration")
}

func (p *program) importUsers(c *cli.Context, cfg *config.Config, app config.App) error {
	in := newImporter(p.Stdin, user.ClientID(app.ClientID))
	in.answer.App, in.answer.DryRun = app.Name, c.Bool("dry-run")
	defer in.wipe()
	if isTerminal(p.Stderr) {
		in.progress = p.Stderr
	}
	failed := daemon.Import(c.Context, p.offline(cfg), daemon.Importing{
		App: app.Name, Next: in.next, Done: in.done, DryRun: in.answer.DryRun,
	})
	in.show(true)
	if failed != nil && in.answer.Lines == 0 { // it did not begin
		return p.withoutSystemd(c, cfg, fmt.Errorf("import: %w", failed))
	}
	err := p.answer(c, in.answer, func(w io.Writer) { printImported(w, in.answer) })
	wrong, isLine := errors.AsType[*lineError](failed)
	switch {
	case isLine:
		return advise(fmt.Errorf("import: %w", wrong), "nothing from this line on is imported; mend it and run the import again with all lines: those before are found known")
	case failed != nil:
		return advise(fmt.Errorf("import: %w", failed), "run the import again with the same lines: it goes on where it was")
	case err != nil:
		return err
	}
	return in.answer.verdict()
}

func (a importAnswer) verdict() error {
	if len(a.Bad) > 0 {
		return &found{err: errors.New("there are lines that are none of an import"), printed: true}
	}
	if len(a.Conflicts) > 0 {
		return &found{err: advise(errors.New("there are users who are stored with other tokens than these"),
			"a conflict is never resolved by an import: the user's next finish event stores what is right"), printed: true}
	}
	return nil
}

func printImported(w io.Writer, a importAnswer) {
	imported := "imported"
	if a.DryRun {
		imported = "would be imported"
	}
	table(w, []string{imported, count(a.Imported, "user")}, []string{"known", count(a.Known, "user")}, []string{"conflicts", count(len(a.Conflicts), "user")})
	for _, line := range a.Conflicts {
		fmt.Fprintf(w, "CONFLICT line %d\n", line)
	}
	for _, bad := range a.Bad {
		fmt.Fprintf(w, "BAD line %d: %s\n", bad.Line, bad.Why)
	}
}

// importer reads lines and counts what became of them.
type importer struct {
	in       *bufio.Reader
	app      user.ClientID
	answer   importAnswer
	lines    []int     // of the records of the last lot
	progress io.Writer // nil: nobody looks
	shown    time.Time
}

func newImporter(r io.Reader, app user.ClientID) *importer {
	return &importer{in: bufio.NewReaderSize(r, maxImportLine), app: app, answer: importAnswer{Conflicts: []int{}, Bad: []badLine{}}}
}

// next returns a lot of records, and what ended it.
func (i *importer) next() (records []user.Record, err error) {
	i.lines = i.lines[:0]
	for len(records) < importLot {
		line, err := i.in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return records, &lineError{i.answer.Lines + 1, fmt.Sprintf("it is longer than %d bytes", maxImportLine)}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return records, fmt.Errorf("read standard input: %w", err)
		}
		if len(line) > 0 {
			i.answer.Lines++
		}
		if len(bytes.TrimSpace(line)) > 0 {
			r, why := parseImportLine(line)
			clear(line)
			if why == "" {
				r.ClientID = i.app
				records, i.lines = append(records, r), append(i.lines, i.answer.Lines)
			} else if bad := i.bad(why); bad != nil {
				return records, bad
			}
		}
		if err != nil {
			return records, io.EOF
		}
	}
	return records, nil
}

// bad ends the import at a line, but lets a dry run go on.
func (i *importer) bad(why string) error {
	if !i.answer.DryRun {
		return &lineError{i.answer.Lines, why}
	}
	if len(i.answer.Bad) < maxLineErrors {
		i.answer.Bad = append(i.answer.Bad, badLine{i.answer.Lines, why})
	}
	return nil
}

// done counts what became of the last lot.
func (i *importer) done(r store.Imported) {
	i.answer.Imported += r.Stored
	i.answer.Known += r.Known
	for _, place := range r.Conflicts {
		i.answer.Conflicts = append(i.answer.Conflicts, i.lines[place])
	}
	i.show(false)
}

// show writes over the line before: ECMA-48 EL clears the rest of it.
func (i *importer) show(end bool) {
	if i.progress == nil || !end && time.Since(i.shown) < 200*time.Millisecond {
		return
	}
	i.shown = time.Now()
	fmt.Fprintf(i.progress, "\r%s, %d imported, %d known, %d conflicts\x1b[K", count(i.answer.Lines, "line"), i.answer.Imported, i.answer.Known, len(i.answer.Conflicts))
	if end {
		fmt.Fprintln(i.progress)
	}
}

// wipe clears what was read, and what reading has moved about.
func (i *importer) wipe() {
	i.in.Reset(zeros{})
	_, _ = i.in.Peek(i.in.Size())
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
