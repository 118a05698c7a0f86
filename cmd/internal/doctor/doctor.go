// Package doctor looks at an installation from outside, line by line, and names for
// each thing that is wrong the command that mends it.
//
// It works while the daemon runs (it asks the admin socket) and while it does not
// (it reads the same files, and logs in at Vault as the daemon would). It trusts
// whoever runs it with what the kernel lets that user read, and believes the daemon's
// own word where nobody else can know. It never changes a file, prints no secret, and
// leaves no token at Vault; that the daemon was asked stands in the audit log, as every
// request does. Each check has a limit. Where systemd keeps the sockets, the asking
// starts a daemon that was stopped, as any caller does.
//
// BUG: a look logs in at Vault with the daemon's credential, once while the daemon
// runs and up to three times while it does not: a wrong one counts towards the
// lockout of the role. When the running daemon says that its login is refused, none
// is sent; a wrapped secret id is never sent.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
)

// State is how a check ended.
type State string

// The states.
const (
	OK      State = "ok"
	Warn    State = "warn"        // it works, and should not stay so
	Fail    State = "fail"        // something does not work, or protects nobody
	Unknown State = "not checked" // the finding says why
)

// Finding is what a check found. It names no user and holds no secret.
type Finding struct {
	State State    `json:"state"`
	Text  string   `json:"finding"`
	Cures []string `json:"cures,omitempty"` // the commands that mend it; none when there is nothing to mend
}

// Result is one line.
type Result struct {
	Check string `json:"check"`
	Finding
}

// Report is all of them, in the order of the table.
type Report struct {
	OK     bool     `json:"ok"` // nothing failed
	Checks []Result `json:"checks"`
}

// Config of an examination. The zero value is the installed daemon's.
type Config struct {
	Load config.LoadOptions
	// Socket is the admin socket; "": the one of the configuration.
	Socket string
	// UnitDirs are where systemd reads units, the strongest first. Nil: systemd's own
	// list (systemd.unit(5)).
	UnitDirs []string
	// Backups is the directory of the backups. "": /var/backups.
	Backups string
	// Limit is how long each check may take. 0: its own, 10 or 30 s.
	Limit time.Duration
	Now   func() time.Time // nil: time.Now
	// Each is told of every line at once; nil: nobody.
	Each func(Result)

	kernel *kernel // of tests
}

// check is one line of the table.
type check struct {
	name  string
	needs []string // checks that must not have failed, or been left out
	long  bool     // it reads much
	look  func(*exam, context.Context) Finding
}

const (
	limit     = 10 * time.Second
	longLimit = 30 * time.Second
)

// table is all checks, in the order in which they are made and printed.
func table() []check {
	return []check{
		{"configuration", nil, false, (*exam).configuration},
		{"files and modes", nil, false, (*exam).files},
		{"users and groups", []string{"configuration"}, false, (*exam).users},
		{"sockets", []string{"configuration"}, false, (*exam).sockets},
		{"kernel", []string{"configuration"}, false, (*exam).kernelFeatures},
		{"Vault address", []string{"configuration"}, false, (*exam).vaultAddress},
		{"Vault TLS", []string{"configuration"}, false, (*exam).vaultTLS},
		{"clock", nil, false, (*exam).clock},
		{"Vault login", []string{"files and modes", "Vault TLS", "Vault address"}, false, (*exam).vaultLogin},
		{"Vault rights", []string{"Vault login"}, false, (*exam).vaultRights},
		{"credential", []string{"configuration"}, false, (*exam).credential},
		{"clientSecrets", []string{"configuration"}, false, (*exam).clientSecrets},
		{"Transit", []string{"Vault rights"}, false, (*exam).transit},
		{"store", []string{"files and modes"}, true, (*exam).store},
		{"space", []string{"configuration"}, false, (*exam).space},
		{"audit log", []string{"files and modes"}, true, (*exam).auditLog},
		{"backup", []string{"Transit"}, true, (*exam).backup},
		{"origins", []string{"configuration"}, false, (*exam).origins},
		{"clientUserId", []string{"configuration"}, false, (*exam).clientUserID},
		{"unit", nil, false, (*exam).unitFiles},
		{"daemon", nil, false, (*exam).daemon},
	}
}

// Names lists the checks.
func Names() []string {
	var names []string
	for _, c := range table() {
		names = append(names, c.name)
	}
	return names
}

// Examine makes every check. It has no error: what cannot be looked at is a line that
// says so.
func Examine(ctx context.Context, c Config) Report {
	e := begin(ctx, c)
	defer e.end()
	report := Report{OK: true}
	for _, next := range table() {
		r := Result{next.name, e.make(ctx, next)}
		e.states[next.name] = r.State
		report.OK = report.OK && r.State != Fail
		report.Checks = append(report.Checks, r)
		if c.Each != nil {
			c.Each(r)
		}
	}
	return report
}

// make makes one check, unless what it needs is missing.
func (e *exam) make(ctx context.Context, c check) Finding {
	for _, need := range c.needs {
		if s := e.states[need]; s == Fail || s == Unknown {
			return unknown("it needs %s", need)
		}
	}
	d := limit
	if c.long {
		d = longLimit
	}
	if e.Limit > 0 {
		d = e.Limit
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	done := make(chan Finding, 1)
	go func() { done <- c.look(e, ctx) }() // a disk that hangs takes no context
	select {
	case f := <-done:
		return f
	case <-time.After(d + time.Second):
		return unknown("it took longer than %v", d)
	}
}

func good(format string, args ...any) Finding {
	return Finding{State: OK, Text: fmt.Sprintf(format, args...)}
}

func unknown(format string, args ...any) Finding {
	return Finding{State: Unknown, Text: fmt.Sprintf(format, args...)}
}

func bad(cure, format string, args ...any) Finding {
	return Finding{State: Fail, Cures: []string{cure}, Text: fmt.Sprintf(format, args...)}
}

func warn(cure, format string, args ...any) Finding {
	return Finding{State: Warn, Cures: []string{cure}, Text: fmt.Sprintf(format, args...)}
}

// late says of a look that its time was up, what else of its error.
func late(ctx context.Context, cure, what string, err error) Finding {
	if ctx.Err() != nil {
		return Finding{State: Unknown, Cures: []string{cure}, Text: what + " takes longer than a look may"}
	}
	return bad(cure, "%s: %v", what, err)
}

// tally collects findings of one check.
type tally struct{ list []Finding }

func (t *tally) add(f Finding) { t.list = append(t.list, f) }

// worst is the worst of them, with those of its kind; otherwise fine.
func (t *tally) worst(fine Finding) Finding {
	for _, s := range []State{Fail, Warn, Unknown} {
		out := Finding{State: s}
		for _, f := range t.list {
			if f.State != s {
				continue
			}
			if out.Text != "" {
				out.Text += "; "
			}
			out.Text += f.Text
			for _, c := range f.Cures {
				if !slices.Contains(out.Cures, c) {
					out.Cures = append(out.Cures, c)
				}
			}
		}
		if out.Text != "" {
			return out
		}
	}
	return fine
}

// count is a number of things, such as "1 app" or "2 apps".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
