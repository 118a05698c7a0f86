package e2e

import (
	"bytes"
	"encoding/json"
)

// nowhere is on record of what the kernel refuses.
const nowhere = "no connection"

// refused is one answer that has to be on record.
type refused struct {
	uid       uint32
	requestID string
	status    int
	code      string
}

// kind is what answers in the same note have in common.
func (r refused) kind() refused { r.requestID = ""; return r }

// records is what an audit log says of refusals.
type records struct {
	lines map[refused]bool
	notes map[refused]int // by kind
}

func readRecords(log []byte) records {
	r := records{map[refused]bool{}, map[refused]int{}}
	for text := range bytes.Lines(log) {
		var l struct {
			Kind, RequestID, Error string
			UID                    *uint32
			Status, Count          int
		}
		if json.Unmarshal(text, &l) != nil || l.UID == nil {
			continue
		}
		seen := refused{*l.UID, l.RequestID, l.Status, l.Error}
		switch l.Kind {
		case "outcome":
			r.lines[seen] = true
		case "note":
			r.notes[seen.kind()] += l.Count
		}
	}
	return r
}

// take says where an answer is on record; "": nowhere. Each count of a note is
// taken once.
func (r records) take(a refused) string {
	if r.lines[a] {
		return "a line"
	}
	if r.notes[a.kind()] > 0 {
		r.notes[a.kind()]--
		return "counted in a note"
	}
	return ""
}
