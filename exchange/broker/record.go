package broker

import (
	"log/slog"
	"strings"

	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// lament makes a thing that must never be lost silently heard: in the log, and
// as a note in the audit log.
func (b *Broker) lament(r *run, what string, err error) {
	b.log.Error(what, slog.String("request_id", string(r.intent.RequestID)), slog.Any("error", err))
	b.write(r.intent, audit.Event{Kind: audit.Note, Error: kindName(err)})
}

// record writes the end of an exchange that has no caller to write it for.
func (b *Broker) record(r *run, outcome user.Outcome, err error) {
	b.write(r.intent, audit.Event{Kind: audit.Outcome, Outcome: string(outcome), Error: kindName(err)})
}

// write completes an event with what the intent tells and writes it.
func (b *Broker) write(in user.Intent, e audit.Event) {
	e.RequestID, e.Rule = string(in.RequestID), in.Rule
	e.App, e.Subject = b.cfg.Apps[in.ClientID].Name, b.cfg.Journal.Subject(in.ClientID, in.HumanID)
	if err := b.cfg.Journal.Write(e); err != nil {
		b.log.Error("an event without a caller could not be recorded",
			slog.String("request_id", e.RequestID), slog.String("kind", e.Kind), slog.String("outcome", e.Outcome), slog.Any("error", err))
	}
}

// kindName is what the audit log may say of an error: its kind.
func kindName(err error) string {
	if err == nil {
		return ""
	}
	if k := user.KindOf(err); k != "" {
		return strings.ReplaceAll(string(k), " ", "_")
	}
	return "internal"
}
