package daemon

import (
	"errors"

	"github.com/coreos/go-systemd/v22/journal"
)

// errNoJournal is returned where audit.journald asks for a journal and there is none.
var errNoJournal = errors.New("audit.journald: there is no journald on this machine: leave the key out")

// auditIdentifier is what journalctl -t takes.
const auditIdentifier = "tokenvault-audit"

// mirror sends the audit log's lines to journald too; nil when nobody asked for it.
func (d *daemon) mirror() (func(line []byte), error) {
	if !d.cfg.Audit.Journald {
		return nil, nil
	}
	if !journal.Enabled() {
		return nil, errNoJournal
	}
	fields := map[string]string{"SYSLOG_IDENTIFIER": auditIdentifier, "TOKENVAULT_INSTANCE": d.cfg.Instance}
	return func(line []byte) {
		if err := journal.Send(string(line), journal.PriInfo, fields); err != nil {
			d.log.Warn("journald did not take an audit line", "error", err)
		}
	}, nil
}
