package cli

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/urfave/cli/v2"
)

func (p *program) audit() *cli.Command {
	return p.command(command{
		name: "audit", usage: "prove the audit log",
		example: "tokenvault audit verify",
		subs:    []*cli.Command{p.auditVerify()},
	})
}

// verified is the JSON answer of audit verify.
type verified struct {
	Consistent  bool   `json:"consistent"`
	Authentic   bool   `json:"authentic"`   // a key was given, and it signed
	AuthenticTo uint64 `json:"authenticTo"` // sequence number
	Lines       uint64 `json:"lines"`
	Tail        uint64 `json:"tail"` // lines after the last signature
	Sequence    uint64 `json:"sequence"`
	Head        string `json:"head"` // hex of the last line's hash
	Segments    int    `json:"segments"`
	PublicKey   string `json:"publicKey"`
	Problem     string `json:"problem,omitempty"`
	File        string `json:"file,omitempty"`
	Line        int    `json:"line,omitempty"`
}

func (p *program) auditVerify() *cli.Command {
	return p.command(command{
		name: "verify", usage: "read the whole audit log and say what can be proved of it; exit 5 when something is wrong",
		text: "Without --key the log is checked against the key that it names itself: it is then\n" +
			"consistent, and anyone could have written it. tokenvault status prints the key; note it elsewhere.",
		args: "[FILE]", max: 1,
		example: "tokenvault audit verify --key 5f0c… /var/log/tokenvault/audit.log",
		flags:   []cli.Flag{&cli.StringFlag{Name: "key", Usage: "the log's public key in `HEX`, 64 digits"}},
		prints:  true,
		run: func(c *cli.Context) error {
			v, err := p.verifyConfig(c)
			if err != nil {
				return err
			}
			r, err := audit.Verify(c.Context, v)
			if err != nil {
				return fmt.Errorf("verify the audit log: %w", err)
			}
			return p.verdict(c, r, v.PublicKey != nil)
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
	if v.Path == "" {
		cfg, err := p.load(c)
		if err != nil {
			return v, err
		}
		v.Path = cfg.Audit.Path
	}
	return v, nil
}

func (p *program) verdict(c *cli.Context, r audit.Report, keyed bool) error {
	a := verified{
		Consistent: r.Consistent, Authentic: keyed && r.Consistent, AuthenticTo: r.AuthenticTo, Lines: r.Lines, Tail: r.Tail,
		Sequence: r.Sequence, Head: hex.EncodeToString(r.Head[:]), Segments: r.Segments,
		PublicKey: hex.EncodeToString(r.PublicKey), Problem: r.Problem, File: r.File, Line: r.Line,
	}
	err := p.answer(c, a, func(w io.Writer) {
		if r.Consistent {
			fmt.Fprintf(w, "consistent: %d lines in %d segments, head %s\n", a.Lines, a.Segments, a.Head)
		} else {
			fmt.Fprintf(w, "NOT consistent: %s: line %d: %s\n", printable(a.File), a.Line, printable(a.Problem))
		}
		if keyed {
			fmt.Fprintf(w, "authentic to line %d; %d lines after it are not signed yet\n", a.AuthenticTo, a.Tail)
		} else if a.PublicKey != "" {
			fmt.Fprintf(w, "nothing is authentic without --key; the log names the key %s\n", a.PublicKey)
		}
	})
	if err != nil || r.Consistent {
		return err
	}
	return &found{err: errors.New("the audit log is not consistent"), printed: true}
}
