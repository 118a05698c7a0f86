package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// auditLine is what a line of the audit log says.
type auditLine struct {
	Seq       uint64
	Kind      string
	RequestID string
	Listener  string
	UID       *uint32
	Unit      string
	Unproven  bool
	Contained bool
	Rule      string
	Grant     string
	App       string
	Route     string
	Status    int
	Error     string
	Outcome   string
	Count     int
}

// is reports whether the line is about an answer to this user: "403 not_granted".
func (l auditLine) is(uid uint32, answer string) bool {
	return l.UID != nil && *l.UID == uid && l.Kind != "attempt" && l.answer() == answer
}

func (l auditLine) answer() string { return strings.TrimSpace(fmt.Sprintf("%d %s", l.Status, l.Error)) }

// String is the line in the words of the table.
func (l auditLine) String() string {
	var b strings.Builder
	b.WriteString(l.Kind)
	if l.Count > 0 {
		fmt.Fprintf(&b, " of %d", l.Count)
	}
	if l.UID != nil {
		fmt.Fprintf(&b, ", uid %d", *l.UID)
	}
	if l.Unit != "" {
		fmt.Fprintf(&b, " in %s", l.Unit)
	}
	if l.Unproven {
		b.WriteString(" (unproven)")
	}
	if l.Contained {
		b.WriteString(", contained")
	}
	for _, part := range []string{l.Listener, l.Grant, l.Outcome, l.answer()} {
		if part != "" {
			b.WriteString(", " + part)
		}
	}
	return b.String()
}

// auditMark is where the audit log ends now.
func (w *world) auditMark() int64 {
	w.t.Helper()
	info, err := os.Stat(w.path("log/audit.log"))
	must(w.t, err)
	return info.Size()
}

// auditSince are the events since then. A last line that is not whole yet is left
// out.
func (w *world) auditSince(mark int64) (out []auditLine) {
	w.t.Helper()
	b, err := os.ReadFile(w.path("log/audit.log"))
	must(w.t, err)
	b = b[min(mark, int64(len(b))):]
	for line := range bytes.Lines(b[:bytes.LastIndexByte(b, '\n')+1]) {
		var l auditLine
		must(w.t, json.Unmarshal(line, &l))
		if l.Kind == "attempt" || l.Kind == "outcome" || l.Kind == "note" {
			out = append(out, l)
		}
	}
	return out
}

// awaitAudit waits for such an event: notes come a second later.
func (w *world) awaitAudit(mark int64, wanted func(auditLine) bool) (auditLine, bool) {
	w.t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // nobody tells
		lines := w.auditSince(mark)
		if i := slices.IndexFunc(lines, wanted); i >= 0 {
			return lines[i], true
		}
		if time.Now().After(limit) {
			return auditLine{}, false
		}
	}
}

// untouched is what no attempt may change: the store's bytes, and what Human API
// was asked.
func (w *world) untouched() string {
	w.t.Helper()
	b, err := os.ReadFile(w.path("state/store.db"))
	must(w.t, err)
	return fmt.Sprintf("store %x, Human API asked %v", sha256.Sum256(b), w.sim.Counts())
}

// handedOut are the secrets of a user, and of the apps, that stand in an answer.
func (w *world) handedOut(human, got string) (names []string) {
	access, public := w.sim.Current(shop, human)
	for name, secret := range map[string]string{
		"an accessToken": access, "a publicToken": public, "a clientSecret": shopSecret, "another app's clientSecret": clubSecret,
	} {
		if secret != "" && strings.Contains(got, secret) {
			names = append(names, name)
		}
	}
	return names
}
