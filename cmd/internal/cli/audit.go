package cli

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/urfave/cli/v2"
)

func (p *program) audit() *cli.Command {
	return p.command(command{
		name: "audit", usage: "search and prove the audit log",
		example: "tokenvault audit verify",
		subs:    []*cli.Command{p.auditFind(), p.auditTail(), p.auditVerify()},
	})
}

// verified is the JSON answer of audit verify.
type verified struct {
	Consistent  bool   `json:"consistent"`
	Authentic   bool   `json:"authentic"`   // a key was given, and what it signed is not nothing
	AuthenticTo uint64 `json:"authenticTo"` // sequence number; 0: nothing is
	Complete    bool   `json:"complete"`    // with --anchor: the line that Vault remembers is there
	CompleteTo  uint64 `json:"completeTo"`  // its sequence number
	Lines       uint64 `json:"lines"`
	// Anyone could have written the lines after the last signature, and those that
	// a start of the daemon found unsigned, although a later signature covers them.
	Tail      uint64    `json:"tail"`
	Adopted   uint64    `json:"adopted"`
	Ranges    []adopted `json:"adoptedRanges,omitempty"` // the first 100
	Sequence  uint64    `json:"sequence"`
	Head      string    `json:"head"` // hex of the last line's hash
	Segments  int       `json:"segments"`
	PublicKey string    `json:"publicKey"`
	Problem   string    `json:"problem,omitempty"`
	File      string    `json:"file,omitempty"`
	Line      int       `json:"line,omitempty"`
}

// adopted is a row of lines by their sequence numbers, both included.
type adopted struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

func (p *program) auditVerify() *cli.Command {
	return p.command(command{
		name: "verify", usage: "read the whole audit log and say what can be proved of it; exit 5 when something is wrong",
		text: "Without --key the log is checked against the key that it names itself: it is then\n" +
			"consistent, and anyone could have written it. tokenvault status prints the key; note it elsewhere.\n" +
			"With --key it must be consistent, and something in it signed with the key. With --anchor key and\n" +
			"last line are asked of Vault, where the daemon notes them at most a minute late: the log must then\n" +
			"have that line as it was, so that nothing before it is missing. Only hashes are printed.",
		args: "[FILE]", max: 1,
		example: "tokenvault audit verify --key 5f0c… /var/log/tokenvault/audit.log\ntokenvault audit verify --anchor --token-file ~/.vault-token",
		flags: []cli.Flag{&cli.StringFlag{Name: "key", Usage: "the log's public key in `HEX`, 64 digits; with --anchor it must be Vault's"},
			&cli.BoolFlag{Name: "anchor", Usage: "hold the log against what Vault remembers of it"}, loginFlag()},
		prints: true,
		run: func(c *cli.Context) error {
			v, err := p.verifyConfig(c)
			if err != nil {
				return err
			}
			r, err := audit.Verify(c.Context, v)
			if err != nil {
				return fmt.Errorf("verify the audit log: %w", err)
			}
			return p.verdict(c, r, v)
		},
	})
}

func (p *program) verifyConfig(c *cli.Context) (audit.VerifyConfig, error) {
	v := audit.VerifyConfig{Path: c.Args().First()}
	if key := c.String("key"); key != "" {
		raw, err := hex.DecodeString(key)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return v, usagef("--key wants %d hex digits", 2*ed25519.PublicKeySize)
		}
		v.PublicKey = raw
	}
	if c.String("token-file") != "" && !c.Bool("anchor") {
		return v, usagef("--token-file is for --anchor: nothing else needs Vault")
	}
	if v.Path != "" && !c.Bool("anchor") {
		return v, nil
	}
	cfg, err := p.loadOffline(c)
	if err != nil {
		return v, err
	}
	if v.Path == "" {
		v.Path = cfg.Audit.Path
	}
	if c.Bool("anchor") {
		err = p.anchored(c, cfg, &v)
	}
	return v, err
}

// anchored adds what Vault remembers of the log.
func (p *program) anchored(c *cli.Context, cfg *config.Config, v *audit.VerifyConfig) error {
	a, err := daemon.ReadAnchor(c.Context, p.offline(cfg))
	if err != nil {
		return p.withoutSystemd(c, cfg, err)
	}
	line, key, err := daemon.AuditOf(a)
	if err != nil {
		return advise(err, "a store that was restored names no audit log before the daemon has run on it")
	}
	if v.PublicKey != nil && !v.PublicKey.Equal(key) {
		return &found{err: errors.New("the key of --key is not the one that Vault remembers")}
	}
	v.PublicKey, v.Anchor = key, &line
	return nil
}

func (p *program) verdict(c *cli.Context, r audit.Report, v audit.VerifyConfig) error {
	keyed := v.PublicKey != nil
	signed := keyed && r.AuthenticTo > 0
	a := verified{
		Consistent: r.Consistent, Authentic: r.Consistent && signed, AuthenticTo: r.AuthenticTo,
		Complete: r.Consistent && r.CompleteTo > 0, CompleteTo: r.CompleteTo,
		Lines: r.Lines, Tail: r.Tail, Adopted: r.Adopted,
		Sequence: r.Sequence, Head: hex.EncodeToString(r.Head[:]), Segments: r.Segments,
		PublicKey: hex.EncodeToString(r.PublicKey), Problem: r.Problem, File: r.File, Line: r.Line,
	}
	for _, x := range r.AdoptedRanges {
		a.Ranges = append(a.Ranges, adopted(x))
	}
	if r.Consistent && keyed && !signed {
		a.Problem = "nothing in it is signed with the key"
	}
	err := p.answer(c, a, func(w io.Writer) { printVerdict(w, a, keyed); printComplete(w, a, v.Anchor) })
	switch {
	case err != nil:
		return err
	case !r.Consistent:
		return &found{err: errors.New("the audit log is not consistent"), printed: true}
	case keyed && !signed:
		return &found{err: errors.New("the audit log is not authentic"), printed: true}
	}
	return nil
}

// printComplete says whether the line that Vault remembers is there. A log that
// lacks it is not consistent with it, and that was said before.
func printComplete(w io.Writer, a verified, anchor *audit.Position) {
	switch {
	case anchor == nil:
	case a.Complete:
		fmt.Fprintf(w, "complete to line %d, which Vault remembers\n", a.CompleteTo)
	default:
		fmt.Fprintf(w, "NOT complete: Vault remembers line %d of segment %d\n", anchor.Sequence, anchor.Segment)
	}
}

func printVerdict(w io.Writer, a verified, keyed bool) {
	if a.Consistent {
		fmt.Fprintf(w, "consistent: %d lines in %d segments, head %s\n", a.Lines, a.Segments, a.Head)
	} else {
		fmt.Fprintf(w, "NOT consistent: %s: line %d: %s\n", printable(a.File), a.Line, printable(a.Problem))
	}
	last := "it"
	if !keyed {
		last = "the last signature"
	}
	const anyone = "anyone could have written them"
	switch {
	case !keyed:
		fmt.Fprintln(w, "nothing is proved to be authentic without --key: anyone could have written this log")
		if a.PublicKey != "" {
			fmt.Fprintf(w, "it names the key %s\n", a.PublicKey)
		}
	case a.AuthenticTo == 0:
		fmt.Fprintln(w, "NOT authentic: nothing in it is signed with the key, anyone could have written it")
		return
	default:
		fmt.Fprintf(w, "authentic to line %d\n", a.AuthenticTo)
	}
	if a.Adopted > 0 {
		fmt.Fprintf(w, "%d lines among them were found unsigned when the daemon started: %s\n", a.Adopted, anyone)
		for _, r := range a.Ranges {
			fmt.Fprintf(w, "  lines %d to %d\n", r.From, r.To)
		}
	}
	if a.Tail > 0 {
		fmt.Fprintf(w, "%d lines after %s are not signed: %s\n", a.Tail, last, anyone)
	}
}
